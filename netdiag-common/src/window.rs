//! So many samples in so much time, and no more.

/// Counts what was told of late; all zero of what has told nothing yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// When it began, by the clock of who asks.
    begun: u64,
    /// What was told in it, and what would have been.
    told: u64,
}

impl Window {
    /// Whether one more may be told, where `most` may be in a time of `length`.
    #[inline(always)]
    pub fn admits(&mut self, now: u64, length: u64, most: u32) -> bool {
        if now.wrapping_sub(self.begun) >= length {
            self.begun = now;
            self.told = 0;
        }
        self.told += 1;
        self.told <= u64::from(most)
    }
}
