//! The kernel's estimator of a round-trip time, and the sample between two looks at it.

/// What the kernel's estimator of a socket's round-trip time holds (`tcp_rtt_estimator`,
/// `net/ipv4/tcp_input.c`), and how far the peer has acknowledged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    /// `srtt_us`: eight times the smoothed time, 0 before the first sample.
    pub srtt: u32,
    /// `mdev_us`: four times the mean deviation.
    pub mdev: u32,
    /// `snd_una`.
    pub una: u32,
}

/// What came between two looks at an estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// No sample.
    Nothing,
    /// One of so many microseconds.
    Sample(u32),
    /// More than one, and they cannot be told apart.
    Several,
}

impl Estimator {
    /// What came since an earlier look, with one ACK between at most.
    ///
    /// The estimator adds to `srtt` what a sample is above the smoothed time, so two looks give the
    /// sample between them to the microsecond. Only one that is the smoothed time itself leaves `srtt`
    /// as it is. Then `mdev` loses a quarter, rounded down: below 4 it stays, too, and what the peer
    /// acknowledged tells.
    #[must_use]
    #[inline(always)]
    pub const fn since(self, before: Self) -> Since {
        let same = self.srtt == before.srtt && self.mdev == before.mdev;
        if self.srtt == 0 || same && (self.mdev >= 4 || self.una == before.una) {
            return Since::Nothing;
        }
        if before.srtt == 0 {
            return Since::Sample(self.srtt >> 3);
        }
        let sample = self.srtt.wrapping_sub(before.srtt).wrapping_add(before.srtt >> 3);
        // Below zero: the second of two took away what the first had brought.
        if sample > i32::MAX as u32 { Since::Several } else { Since::Sample(sample) }
    }

    /// Whether the ACK between was for less than a full segment of `mss` bytes, to which a receiver does
    /// not answer at once. That of a SYN is not such a one.
    #[must_use]
    #[inline(always)]
    pub const fn is_short_since(self, before: Self, mss: u32) -> bool {
        before.srtt != 0 && self.una.wrapping_sub(before.una) < mss
    }
}
