//! What the kernel held of a socket when it was asked last: told now and then, and read once an interval.

use super::{
    counts::Counts,
    packed::{Bytes, Packed, get_counts, packed, put_counts},
};
use crate::signal::CountId;

/// Numbers that do not add up, by the ids of their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauges(Packed);

impl Gauges {
    /// Makes numbers those.
    pub(super) fn set(&mut self, values: impl IntoIterator<Item = (CountId, u64)>) {
        let mut counts = self.counts();
        values.into_iter().for_each(|(id, value)| counts.set(id, value));
        if !counts.is_empty() {
            let mut bytes = Bytes::new();
            put_counts(&mut bytes, &counts);
            self.0 = packed(&bytes);
        }
    }

    /// Takes over those that are not known.
    pub(super) fn fill_in(&mut self, from: &Self) {
        let own = self.counts();
        self.set(from.counts().iter().filter(|&(id, _)| !own.has(id)));
    }

    /// All of them.
    pub(super) fn counts(&self) -> Counts {
        get_counts(&mut self.0.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_stands_and_what_is_known_is_not_filled_in() {
        let all =
            |gauges: &Gauges| gauges.counts().iter().map(|(id, n)| (id.0, n)).collect::<Vec<_>>();
        let (mut one, mut other) = (Gauges::default(), Gauges::default());
        one.set([]);
        one.fill_in(&other);
        assert!(all(&one).is_empty());
        one.set([(CountId(3), 7), (CountId(1), 0)]);
        one.set([(CountId(3), u64::MAX)]);
        other.set([(CountId(2), 9), (CountId(3), 5)]);
        one.fill_in(&other);
        assert_eq!(all(&one), [(1, 0), (2, 9), (3, u64::MAX)]);
    }
}
