//! Latencies as Prometheus has them: in classic buckets, and in native ones.
//!
//! Both are filled from the buckets of an HdrHistogram, which are at most 1/128 of their values wide, each by its
//! largest value, which is what all other outputs of netdiag say of it, too. So a sample may stand in the bucket
//! above its own when it is less than 0.8 % below that one's lower bound, and in no other. A quantile of native
//! buckets is within a factor of 2^(1/8), 9.05 %, of that of the HdrHistogram.

use std::sync::OnceLock;

use crate::flow::latency::{HIGHEST_NS, Latency, bounds_of, bucket_of};

/// Schema of the native buckets: each is 2^(2^-3) times the one below it.
pub const SCHEMA: i32 = 3;
/// Native buckets in which a value doubles.
const PER_OCTAVE: f64 = (1 << SCHEMA) as f64;
/// Below it a value would be in the zero bucket; Prometheus' usual one, 2^-128. None is.
pub(super) const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// Upper bounds of the classic buckets, in nanoseconds and as `le` writes them in seconds (as Go formats them, so
/// that a series has the same name in every format). Beyond the last is `+Inf`.
pub const BOUNDS: [(u64, &str); 24] = [
    (1_000, "1e-06"),
    (2_500, "2.5e-06"),
    (5_000, "5e-06"),
    (10_000, "1e-05"),
    (25_000, "2.5e-05"),
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
    (30_000_000_000, "30.0"),
    (60_000_000_000, "60.0"),
];

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e9
}

/// The native bucket of a value in seconds above 0: the smallest whose upper bound is not below it.
fn native_bucket(value: f64) -> i32 {
    let upper = |bucket: i32| (f64::from(bucket) / PER_OCTAVE).exp2();
    let mut bucket = (value.log2() * PER_OCTAVE).ceil() as i32;
    // The logarithm may be off by its last digit.
    while upper(bucket) < value {
        bucket += 1;
    }
    while upper(bucket - 1) >= value {
        bucket -= 1;
    }
    bucket
}

/// Where the samples of an HdrHistogram's bucket go.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Native bucket, counted from that of 1 ns.
    native: u16,
    /// Classic bucket; behind the last bound that of `+Inf`.
    classic: u8,
    /// Twice the middle of the bucket, in nanoseconds.
    twice_middle_ns: u64,
}

/// The places of all buckets in order, and the native bucket of 1 ns.
struct Places {
    first: i32,
    of: Vec<Place>,
}

fn places() -> &'static Places {
    static PLACES: OnceLock<Places> = OnceLock::new();
    PLACES.get_or_init(|| {
        let native = |nanoseconds: u64| native_bucket(seconds(nanoseconds as f64));
        let first = native(1);
        let place = |bucket| {
            let (lowest, highest) = bounds_of(bucket);
            Place {
                // That of 0 has no samples.
                native: (native(highest.max(1)) - first) as u16,
                classic: BOUNDS.partition_point(|(bound, _)| *bound < highest) as u8,
                twice_middle_ns: lowest + highest,
            }
        };
        Places { first, of: (0..=bucket_of(HIGHEST_NS)).map(place).collect() }
    })
}

/// Latencies added up over a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    count: u64,
    twice_sum_ns: u128,
    classic: [u64; BOUNDS.len() + 1],
    /// Samples of the native buckets from that of 1 ns on, as far as there are any.
    native: Vec<u64>,
}

impl Histogram {
    /// Adds all samples that are in range.
    pub(super) fn add(&mut self, latency: &Latency) {
        let places = places();
        for (highest, n) in latency.buckets() {
            let Some(place) = places.of.get(usize::from(bucket_of(highest))) else { continue };
            self.count += n;
            self.twice_sum_ns += u128::from(place.twice_middle_ns) * u128::from(n);
            self.classic[usize::from(place.classic)] += n;
            let native = usize::from(place.native);
            if self.native.len() <= native {
                self.native.resize(native + 1, 0);
            }
            self.native[native] += n;
        }
    }

    /// As it stands.
    pub(super) fn distribution(&self) -> Distribution {
        let mut below = 0;
        let classic = std::array::from_fn(|nth| {
            below += self.classic[nth];
            below
        });
        let (spans, deltas) = self.spans();
        let sum_seconds = seconds(self.twice_sum_ns as f64 / 2.0);
        Distribution { count: self.count, sum_seconds, classic, spans, deltas }
    }

    /// The native buckets as the protocol has them. A gap of one or two is filled: a span would take more bytes.
    fn spans(&self) -> (Vec<Span>, Vec<i64>) {
        const FILLED: i32 = 2;
        let (mut spans, mut deltas): (Vec<Span>, Vec<i64>) = (Vec::new(), Vec::new());
        let (mut next, mut before) = (0, 0);
        for (bucket, &n) in (places().first..).zip(&self.native).filter(|(_, n)| **n > 0) {
            let gap = bucket - next;
            match spans.last_mut() {
                Some(span) if gap <= FILLED => {
                    for _ in 0..gap {
                        deltas.push(-before);
                        before = 0;
                    }
                    span.length += gap as u32 + 1;
                }
                _ => spans.push(Span { offset: gap, length: 1 }),
            }
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            deltas.push(n - before);
            (next, before) = (bucket + 1, n);
        }
        (spans, deltas)
    }
}

/// Native buckets in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Buckets between it and the one before; of the first one its first bucket.
    pub offset: i32,
    /// How many there are.
    pub length: u32,
}

/// A histogram at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Samples.
    pub count: u64,
    /// All of them together, in seconds, each taken for the middle of its HdrHistogram's bucket: 0.4 % off at most.
    pub sum_seconds: f64,
    /// Samples not above each of [`BOUNDS`].
    pub classic: [u64; BOUNDS.len()],
    /// Which native buckets there are.
    pub spans: Vec<Span>,
    /// Samples of each of them less those of the one before.
    pub deltas: Vec<i64>,
}

impl Distribution {
    /// The native buckets that it has, in order, each with its samples, which may be none.
    pub fn native(&self) -> impl Iterator<Item = (i32, u64)> {
        let mut next = 0;
        let buckets = self.spans.iter().flat_map(move |span| {
            let first = next + span.offset;
            next = first + span.length as i32;
            first..next
        });
        let samples = self.deltas.iter().scan(0_i64, |n, delta| {
            *n += delta;
            Some(*n as u64)
        });
        buckets.zip(samples)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_what_they_are_called() {
        for (nanoseconds, text) in BOUNDS {
            let parsed: f64 = text.parse().expect("a number");
            assert_eq!(parsed, seconds(nanoseconds as f64), "{text}");
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn native_buckets_have_their_upper_bound() {
        let step = 2_f64.powf(1.0 / PER_OCTAVE);
        for (value, bucket) in [(1.0, 0), (2.0, 8), (0.5, -8), (1.000_1, 1), (0.999_9, 0)] {
            assert_eq!(native_bucket(value), bucket, "{value}");
        }
        assert_eq!((native_bucket(step * 1.000_001), native_bucket(step * 0.999_999)), (2, 1));
    }

    #[test]
    fn a_bucket_holds_what_is_not_above_its_bound() {
        let mut latency = Latency::default();
        latency.record_n(1_000_000, 3); // in an HdrHistogram's bucket that ends above 1 ms
        latency.record_n(900_000, 2);
        latency.record(7_200_000_000_000); // out of range
        let mut histogram = Histogram::default();
        histogram.add(&latency);
        histogram.add(&latency);
        let told = histogram.distribution();
        assert_eq!(told.count, 10);
        assert_eq!(told.classic[8..11], [0, 4, 10]);
        let sum = 6.0 * 0.001 + 4.0 * 0.0009;
        assert!((told.sum_seconds - sum).abs() < 0.004 * sum, "{}", told.sum_seconds);
    }

    proptest! {
        #[test]
        fn both_kinds_of_buckets_hold_every_sample(
            values in prop::collection::vec((1..=HIGHEST_NS, 1..5_u64), 0..200)
        ) {
            let (mut latency, mut histogram) = (Latency::default(), Histogram::default());
            values.iter().for_each(|&(value, n)| latency.record_n(value, n));
            histogram.add(&latency);
            let told = histogram.distribution();
            prop_assert_eq!(told.count, latency.count());
            prop_assert!(told.classic.is_sorted() && told.classic[BOUNDS.len() - 1] <= told.count);
            let lengths: u32 = told.spans.iter().map(|span| span.length).sum();
            prop_assert_eq!(lengths as usize, told.deltas.len());
            let native: Vec<_> = told.native().collect();
            prop_assert_eq!(native.len(), told.deltas.len());
            prop_assert!(native.is_sorted_by(|(one, _), (next, _)| one < next));
            prop_assert_eq!(native.iter().map(|(_, n)| n).sum::<u64>(), told.count);
            for quantile in [0.5, 0.9, 0.99] {
                let Some(exact) = latency.quantile(quantile) else { continue };
                let wanted = (quantile * told.count as f64).ceil() as u64;
                let mut sum = 0;
                let bucket = native.iter().find(|(_, n)| { sum += n; sum >= wanted });
                let (bucket, _) = bucket.expect("it has all samples");
                prop_assert_eq!(*bucket, native_bucket(seconds(exact as f64)));
            }
        }
    }
}
