//! Between what a state was while it was watched.

/// The smallest, the largest and the mean of a state, as it was told interval by interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The smallest.
    pub least: u64,
    /// The largest.
    pub most: u64,
    /// How often it was told.
    pub times: u32,
    sum: u64,
}

impl Extent {
    pub(super) fn take(&mut self, value: u64) {
        let first = self.times == 0;
        self.least = if first { value } else { self.least.min(value) };
        self.most = self.most.max(value);
        self.sum = self.sum.saturating_add(value);
        self.times += 1;
    }

    /// Of all that were told.
    #[must_use]
    pub const fn mean(&self) -> u64 {
        if self.times == 0 { 0 } else { self.sum / self.times as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_between_what_was_told() {
        let mut extent = Extent::default();
        [7, 3, 5].into_iter().for_each(|value| extent.take(value));
        assert_eq!((extent.least, extent.most, extent.mean(), extent.times), (3, 7, 5, 3));
    }
}
