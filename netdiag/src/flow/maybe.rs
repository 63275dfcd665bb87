//! A number that may be unknown, in the eight bytes of one.

use std::fmt;

/// The highest number stands for an unknown one: no time in nanoseconds and no number of a flow comes near it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Maybe(u64);

impl Maybe {
    pub(super) const fn get(self) -> Option<u64> {
        if self.0 == u64::MAX { None } else { Some(self.0) }
    }

    /// This one where it is known, else the other one.
    pub(super) const fn or(self, other: Self) -> Self {
        if self.0 == u64::MAX { other } else { self }
    }
}

impl Default for Maybe {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl From<Option<u64>> for Maybe {
    fn from(number: Option<u64>) -> Self {
        Self(number.unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Maybe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_option() {
        assert_eq!(Maybe::default().get(), None);
        let numbers = [None, Some(0), Some(u64::MAX - 1)];
        for number in numbers {
            assert_eq!(Maybe::from(number).get(), number);
            for other in numbers {
                assert_eq!(Maybe::from(number).or(other.into()).get(), number.or(other));
            }
        }
    }
}
