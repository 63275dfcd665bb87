//! A latency histogram that is small while it has few values.
//!
//! A dense histogram of this range takes 36 KiB; most flows are short and fill a few dozen of its
//! buckets. So a histogram starts as a sorted list of (bucket, count) and becomes a dense
//! [`Histogram`] when the list is long. Bucket boundaries are those of the hdrhistogram crate, so
//! both forms, and every reader of a dump, give the same numbers.

use std::iter;

use hdrhistogram::Histogram;

pub mod encoded;
pub mod spread;

/// Smallest latency that is recorded, in nanoseconds.
pub const LOWEST_NS: u64 = 1;
/// Largest latency that is recorded, in nanoseconds: one hour.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits of every value.
pub const DIGITS: u8 = 2;

/// Buckets in the list from which on a histogram is dense: 1.5 KiB of list, found in 8 steps.
const LIST_MAX: usize = 256;

/// `log2` of the values that the crate's first bucket resolves one by one: the power of two at or
/// above `2 * 10^DIGITS` (HdrHistogram, `sub_bucket_count_magnitude`).
const UNIT_BITS: u32 = 8;

/// A latency distribution in nanoseconds: range and precision as the constants above say.
///
/// A value outside the range is counted apart and changes nothing else.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    buckets: Buckets,
    out_of_range: u64,
}

#[derive(Clone, Debug)]
enum Buckets {
    /// Sorted by bucket, no count 0.
    List(Vec<Entry>),
    Dense(Box<Histogram<u64>>),
}

/// A bucket and its count, low half first: 6 bytes, where a `(u16, u32)` takes 8.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bucket: u16,
    count: [u16; 2],
}

impl Entry {
    const fn new(bucket: u16, count: u32) -> Self {
        Self { bucket, count: [count as u16, (count >> 16) as u16] }
    }

    const fn count(self) -> u32 {
        self.count[0] as u32 | (self.count[1] as u32) << 16
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// Buckets there are.
pub(super) const BUCKETS: usize = bucket_of(HIGHEST_NS) as usize + 1;

/// Number of the bucket of a value; none of one that is out of range.
#[inline]
pub(super) const fn bucket(nanoseconds: u64) -> Option<u16> {
    if nanoseconds < LOWEST_NS || nanoseconds > HIGHEST_NS {
        return None;
    }
    Some(bucket_of(nanoseconds))
}

/// Number of the bucket of a value in range (`Histogram::index_for` of the crate).
#[must_use]
pub const fn bucket_of(value: u64) -> u16 {
    let unit_mask = (1 << UNIT_BITS) - 1;
    let exponent = u64::BITS - UNIT_BITS - (value | unit_mask).leading_zeros();
    let half = 1 << (UNIT_BITS - 1);
    (((exponent + 1) << (UNIT_BITS - 1)) + (value >> exponent) as u32 - half) as u16
}

/// Smallest and largest value of a bucket (`Histogram::value_for` of the crate).
#[must_use]
pub const fn bounds_of(bucket: u16) -> (u64, u64) {
    let half = 1 << (UNIT_BITS - 1);
    let octave = bucket >> (UNIT_BITS - 1);
    let offset = (bucket & (half - 1)) as u64;
    let (exponent, mantissa) =
        if octave == 0 { (0, offset) } else { (octave - 1, offset + half as u64) };
    let lowest = mantissa << exponent;
    (lowest, lowest + (1 << exponent) - 1)
}

fn dense() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("the bounds are constants")
}

impl Latency {
    /// Adds one sample.
    pub fn record(&mut self, nanoseconds: u64) {
        if (LOWEST_NS..=HIGHEST_NS).contains(&nanoseconds) {
            self.add(bucket_of(nanoseconds), 1);
        } else {
            self.out_of_range = self.out_of_range.saturating_add(1);
        }
    }

    /// Adds `n` samples of one value, which is in range or counted apart.
    pub fn record_n(&mut self, nanoseconds: u64, n: u64) {
        if n == 0 {
            return;
        }
        if (LOWEST_NS..=HIGHEST_NS).contains(&nanoseconds) {
            self.add(bucket_of(nanoseconds), n);
        } else {
            self.out_of_range = self.out_of_range.saturating_add(n);
        }
    }

    /// Adds all samples of another one.
    pub fn merge(&mut self, other: &Self) {
        self.out_of_range = self.out_of_range.saturating_add(other.out_of_range);
        match &other.buckets {
            Buckets::List(list) if self.is_unused() => {
                self.buckets = Buckets::List(list.clone());
            }
            Buckets::List(list) => {
                for entry in list {
                    self.add(entry.bucket, u64::from(entry.count()));
                }
            }
            Buckets::Dense(histogram) => {
                self.densify().add(&**histogram).expect("all histograms have the same bounds");
            }
        }
    }

    fn is_unused(&self) -> bool {
        matches!(&self.buckets, Buckets::List(list) if list.is_empty())
    }

    /// Adds samples to a bucket.
    pub(super) fn add(&mut self, bucket: u16, n: u64) {
        let Buckets::List(list) = &mut self.buckets else {
            return self.add_dense(bucket, n);
        };
        match list.binary_search_by_key(&bucket, |entry| entry.bucket) {
            Ok(at) => match u32::try_from(u64::from(list[at].count()) + n) {
                Ok(sum) => list[at] = Entry::new(bucket, sum),
                Err(_) => self.add_dense(bucket, n),
            },
            Err(at) => match u32::try_from(n) {
                Ok(n) if list.len() < LIST_MAX => {
                    if list.len() == list.capacity() {
                        // Doubling would waste a third of what short flows take.
                        list.reserve_exact((list.len() / 4).max(4));
                    }
                    list.insert(at, Entry::new(bucket, n));
                }
                _ => self.add_dense(bucket, n),
            },
        }
    }

    fn add_dense(&mut self, bucket: u16, n: u64) {
        self.densify()
            .record_n(bounds_of(bucket).0, n)
            .expect("a bucket of a value in range is in range");
    }

    fn densify(&mut self) -> &mut Histogram<u64> {
        if let Buckets::List(_) = self.buckets {
            self.buckets = Buckets::Dense(Box::new(self.histogram()));
        }
        match &mut self.buckets {
            Buckets::Dense(histogram) => histogram,
            Buckets::List(_) => unreachable!("replaced above"),
        }
    }

    /// Whether it has neither a sample nor one out of range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out_of_range == 0 && self.count() == 0
    }

    /// Samples in range.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.buckets {
            Buckets::List(list) => list.iter().map(|entry| u64::from(entry.count())).sum(),
            Buckets::Dense(histogram) => histogram.len(),
        }
    }

    /// Samples out of range: contained in nothing else.
    #[must_use]
    pub const fn out_of_range(&self) -> u64 {
        self.out_of_range
    }

    /// Smallest value as the crate's `min` gives it (the lower bound of its bucket); none without
    /// samples.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        match &self.buckets {
            Buckets::List(list) => list.first().map(|entry| bounds_of(entry.bucket).0),
            Buckets::Dense(histogram) => Some(histogram.min()),
        }
    }

    /// Largest value as the crate's `max` gives it (the upper bound of its bucket); none without
    /// samples.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        match &self.buckets {
            Buckets::List(list) => list.last().map(|entry| bounds_of(entry.bucket).1),
            Buckets::Dense(histogram) => Some(histogram.max()),
        }
    }

    /// Value below or at which `quantile` (above 0, to 1) of the samples lie, as the crate's
    /// `value_at_quantile` gives it; none without samples.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let list = match &self.buckets {
            Buckets::List(list) => list,
            Buckets::Dense(histogram) => return Some(histogram.value_at_quantile(quantile)),
        };
        let wanted = ((quantile.min(1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut sum = 0;
        list.iter()
            .find(|entry| {
                sum += u64::from(entry.count());
                sum >= wanted
            })
            .map(|entry| bounds_of(entry.bucket).1)
    }

    /// Buckets that have samples in ascending order: largest value of the bucket, samples in it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let (list, histogram) = match &self.buckets {
            Buckets::List(list) => (list.as_slice(), None),
            Buckets::Dense(histogram) => ([].as_slice(), Some(histogram)),
        };
        let listed = list.iter().map(|entry| (bounds_of(entry.bucket).1, u64::from(entry.count())));
        let recorded = histogram.into_iter().flat_map(|histogram| {
            histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
        });
        iter::chain(listed, recorded)
    }

    /// The same as a histogram of the crate (bounds and digits as the constants above, no
    /// auto-resize), for dumps.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        match &self.buckets {
            Buckets::Dense(histogram) => (**histogram).clone(),
            Buckets::List(list) => {
                let mut histogram = dense();
                for entry in list {
                    histogram
                        .record_n(bounds_of(entry.bucket).0, u64::from(entry.count()))
                        .expect("a bucket of a value in range is in range");
                }
                histogram
            }
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.buckets {
            Buckets::List(list) => list.capacity() * size_of::<Entry>(),
            Buckets::Dense(histogram) => {
                size_of::<Histogram<u64>>() + histogram.distinct_values() * size_of::<u64>()
            }
        }
    }
}

#[cfg(test)]
mod tests;
