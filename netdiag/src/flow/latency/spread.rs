//! Many histograms added up: buckets in a row from the lowest to the highest that has samples. Takes a fraction of
//! what a histogram of the whole range does, and gives the same numbers.

use super::{bounds_of, encoded::Buckets};

/// A latency distribution in nanoseconds with the buckets of [`super::Latency`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Number of the first bucket in `counts`.
    first: u16,
    counts: Vec<u64>,
}

impl Spread {
    /// Adds samples by the number of their bucket, ascending.
    pub fn add(&mut self, buckets: &Buckets) {
        let (Some(&(low, _)), Some(&(high, _))) = (buckets.first(), buckets.last()) else { return };
        self.cover(low, high);
        for &(bucket, n) in buckets {
            if let Some(count) = self.counts.get_mut(usize::from(bucket - self.first)) {
                *count = count.saturating_add(n);
            }
        }
    }

    /// Adds all samples of another one.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        self.cover(other.first, other.first + (other.counts.len() - 1) as u16);
        let from = usize::from(other.first - self.first);
        for (count, n) in self.counts[from..].iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*n);
        }
    }

    /// Makes room for these buckets and all between them.
    fn cover(&mut self, low: u16, high: u16) {
        if self.counts.is_empty() {
            self.first = low;
        }
        if low < self.first {
            let more = usize::from(self.first - low);
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = low;
        }
        let wanted = usize::from(high - self.first) + 1;
        if wanted > self.counts.len() {
            self.counts.resize(wanted, 0);
        }
    }

    /// Whether it has no sample.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What all samples took together, each taken for the middle of its bucket.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        let middle = |(low, high): (u64, u64)| low + (high - low) / 2;
        self.recorded().fold(0, |sum: u64, (bucket, n)| {
            sum.saturating_add(middle(bounds_of(bucket)).saturating_mul(n))
        })
    }

    /// Lower bound of the lowest bucket that has samples; none without any.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.recorded().next().map(|(bucket, _)| bounds_of(bucket).0)
    }

    /// Upper bound of the highest bucket that has samples; none without any.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        let at = self.counts.iter().rposition(|n| *n > 0)?;
        Some(bounds_of(self.first + at as u16).1)
    }

    /// Values below or at which these quantiles (above 0, to 1, ascending) of the samples lie, as
    /// [`super::Latency::quantile`] gives them; none without samples.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [Option<u64>; N] {
        let count = self.count();
        let mut found = [None; N];
        let mut wanted = found.iter_mut().zip(quantiles.map(|quantile| rank(quantile, count)));
        let Some((mut place, mut at)) = wanted.next() else { return found };
        let mut sum = 0_u64;
        for (bucket, n) in self.recorded() {
            sum = sum.saturating_add(n);
            while sum >= at {
                *place = Some(bounds_of(bucket).1);
                let Some(next) = wanted.next() else { return found };
                (place, at) = next;
            }
        }
        found
    }

    /// Buckets that have samples: number, samples.
    pub fn recorded(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let all = (self.first..).zip(&self.counts);
        all.filter(|(_, n)| **n > 0).map(|(bucket, n)| (bucket, *n))
    }
}

fn rank(quantile: f64, count: u64) -> u64 {
    ((quantile.min(1.0) * count as f64).ceil() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::latency::{HIGHEST_NS, LOWEST_NS, Latency, bucket_of};

    const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

    fn spread(values: &[u64]) -> Spread {
        let mut spread = Spread::default();
        for value in values {
            spread.add(&[(bucket_of(*value), 1)]);
        }
        spread
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Spread::default().quantiles(QUANTILES), [None; 5]);
        assert_eq!((Spread::default().min(), Spread::default().max()), (None, None));
    }

    proptest! {
        #[test]
        fn it_says_what_a_histogram_says(
            one in prop::collection::vec(LOWEST_NS..=HIGHEST_NS, 1..100),
            other in prop::collection::vec(LOWEST_NS..=100_000, 0..100),
        ) {
            let mut latency = Latency::default();
            one.iter().chain(&other).for_each(|value| latency.record(*value));
            let mut sum = spread(&one);
            sum.merge(&spread(&other));
            prop_assert_eq!(sum.count(), latency.count());
            prop_assert_eq!((sum.min(), sum.max()), (latency.min(), latency.max()));
            let found = sum.quantiles(QUANTILES);
            prop_assert_eq!(found, QUANTILES.map(|quantile| latency.quantile(quantile)));
        }
    }
}
