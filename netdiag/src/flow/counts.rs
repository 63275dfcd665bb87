//! Numbers by count: which there are stands in a set, and beside it nothing but the numbers.

use smallvec::SmallVec;

use crate::signal::{COUNTS, CountId};

/// Numbers by the ids of their counts. 4 bytes each while all of them fit; the first few take no memory of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Bit n: count n is there.
    present: u128,
    values: Values,
}

/// By ascending id.
#[derive(Clone, Debug)]
enum Values {
    Narrow(SmallVec<[u32; 8]>),
    Wide(Vec<u64>),
}

const _: () = assert!(COUNTS <= u128::BITS as usize);

impl Default for Values {
    fn default() -> Self {
        Self::Narrow(SmallVec::new())
    }
}

impl Values {
    /// Puts in a 0.
    fn insert(&mut self, at: usize) {
        /// Doubling would waste a third of what most flows take.
        const MORE: usize = 8;
        match self {
            Self::Narrow(values) => {
                if values.len() == values.capacity() {
                    values.reserve_exact(MORE);
                }
                values.insert(at, 0);
            }
            Self::Wide(values) => values.insert(at, 0),
        }
    }
}

impl Counts {
    pub(super) const fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.present.count_ones() as usize
    }

    /// Adds to a number; 0 makes it known.
    pub(super) fn add(&mut self, count: CountId, n: u64) {
        self.change(count, |value| value.saturating_add(n));
    }

    /// Makes a number that.
    pub(super) fn set(&mut self, count: CountId, value: u64) {
        self.change(count, |_| value);
    }

    #[inline]
    fn change(&mut self, count: CountId, change: impl FnOnce(u64) -> u64) {
        let bit = 1_u128 << count.0;
        let at = (self.present & (bit - 1)).count_ones() as usize;
        if self.present & bit == 0 {
            self.present |= bit;
            self.values.insert(at);
        }
        match &mut self.values {
            Values::Narrow(values) => {
                let value = change(values[at].into());
                match u32::try_from(value) {
                    Ok(value) => values[at] = value,
                    Err(_) => {
                        let mut wide: Vec<u64> = values.iter().copied().map(u64::from).collect();
                        wide[at] = value;
                        self.values = Values::Wide(wide);
                    }
                }
            }
            Values::Wide(values) => values[at] = change(values[at]),
        }
    }

    /// Whether a number is known.
    pub(super) const fn has(&self, count: CountId) -> bool {
        self.present & 1 << count.0 != 0
    }

    /// All of them by ascending id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (CountId, u64)> + '_ {
        let mut left = self.present;
        let ids = std::iter::from_fn(move || {
            let id = (left != 0).then(|| CountId(left.trailing_zeros() as u16))?;
            left &= left - 1;
            Some(id)
        });
        ids.enumerate().map(move |(at, id)| match &self.values {
            Values::Narrow(values) => (id, values[at].into()),
            Values::Wide(values) => (id, values[at]),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn are_what_a_map_is(
            steps in vec((0..COUNTS as u16, any::<bool>(), prop_oneof![0..100_u64, any::<u64>()]), 0..80),
        ) {
            let (mut counts, mut model) = (Counts::default(), BTreeMap::<CountId, u64>::new());
            for (id, adds, n) in steps {
                let value = model.entry(CountId(id)).or_default();
                if adds {
                    counts.add(CountId(id), n);
                    *value = value.saturating_add(n);
                } else {
                    counts.set(CountId(id), n);
                    *value = n;
                }
            }
            prop_assert_eq!(counts.is_empty(), model.is_empty());
            prop_assert!((0..COUNTS as u16).all(|id| counts.has(CountId(id)) == model.contains_key(&CountId(id))));
            prop_assert_eq!(counts.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
