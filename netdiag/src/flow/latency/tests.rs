use proptest::{collection::vec, prelude::*};

use super::*;
use crate::snapshot::Distribution;

/// Values as latencies come: spread over all magnitudes, crowded, and on the edges.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u32..44).prop_flat_map(|bits| 0..=1u64 << bits),
        10_000u64..20_000,
        Just(0),
        Just(LOWEST_NS),
        Just(HIGHEST_NS),
        Just(HIGHEST_NS + 1),
        Just(u64::MAX),
    ]
}

fn of(values: &[u64]) -> (Latency, Histogram<u64>) {
    let mut latency = Latency::default();
    let mut reference = dense();
    for &value in values {
        latency.record(value);
        if (LOWEST_NS..=HIGHEST_NS).contains(&value) {
            reference.record(value).expect("in range");
        }
    }
    (latency, reference)
}

fn same(latency: &Latency, reference: &Histogram<u64>) {
    assert_eq!(latency.count(), reference.len());
    assert_eq!(latency.min().unwrap_or(0), reference.min());
    assert_eq!(latency.max().unwrap_or(0), reference.max());
    for quantile in [0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
        let expected = reference.value_at_quantile(quantile);
        assert_eq!(latency.quantile(quantile).unwrap_or(0), expected, "quantile {quantile}");
    }
    let expected: Vec<_> = reference
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect();
    assert_eq!(latency.buckets().collect::<Vec<_>>(), expected);
    assert_eq!(&latency.histogram(), reference);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_the_crate(values in vec(value(), 0..900)) {
        let (latency, reference) = of(&values);
        same(&latency, &reference);
        prop_assert_eq!(latency.count() + latency.out_of_range(), values.len() as u64);
    }

    #[test]
    fn merges_like_the_crate(a in vec(value(), 0..600), b in vec(value(), 0..600)) {
        let (mut sum, mut expected) = of(&a);
        let (latency, reference) = of(&b);
        sum.merge(&latency);
        expected.add(&reference).expect("same bounds");
        same(&sum, &expected);
        prop_assert_eq!(sum.count() + sum.out_of_range(), (a.len() + b.len()) as u64);
    }

    #[test]
    fn a_value_lies_in_its_bucket(value in LOWEST_NS..=HIGHEST_NS) {
        let (lowest, highest) = bounds_of(bucket_of(value));
        prop_assert!(lowest <= value && value <= highest);
        let reference = dense();
        prop_assert_eq!(lowest, reference.lowest_equivalent(value));
        prop_assert_eq!(highest, reference.highest_equivalent(value));
    }
}

#[test]
fn what_is_out_of_range_is_counted_apart() {
    let (latency, _) = of(&[0, HIGHEST_NS + 1, u64::MAX]);
    assert_eq!((latency.count(), latency.out_of_range()), (0, 3));
    assert!(!latency.is_empty());
    let expected = Distribution { out_of_range: 3, ..Distribution::default() };
    assert_eq!(latency.distribution(), expected);
    assert!(Latency::default().is_empty());
}

#[test]
fn a_count_above_32_bits_is_kept() {
    let mut latency = Latency::default();
    latency.record(1_000);
    for _ in 0..33 {
        let copy = latency.clone();
        latency.merge(&copy);
    }
    assert_eq!(latency.count(), 1 << 33);
    assert_eq!(latency.min(), Some(dense().lowest_equivalent(1_000)));
}

#[test]
fn short_flows_are_small() {
    const FLOWS: u64 = 100_000;
    const SAMPLES: u64 = 20;
    let flows: Vec<Latency> = (0..FLOWS)
        .map(|flow| {
            let mut latency = Latency::default();
            for sample in 0..SAMPLES {
                // 2 to 64 µs, a fixed scramble (Knuth's multiplicative hash).
                let spread = (flow * SAMPLES + sample).wrapping_mul(2_654_435_761) % 62_000;
                latency.record(2_000 + spread);
            }
            latency
        })
        .collect();
    let samples: u64 = flows.iter().map(Latency::count).sum();
    assert_eq!(samples, FLOWS * SAMPLES);
    let heap: usize = flows.iter().map(Latency::heap_bytes).sum();
    let each = heap as f64 / FLOWS as f64 + size_of::<Latency>() as f64;
    assert!((100.0..=200.0).contains(&each), "{each} bytes per flow, {heap} in all");
}

#[test]
fn a_long_list_becomes_dense_and_stays_bounded() {
    let mut latency = Latency::default();
    for value in 1..=LIST_MAX as u64 {
        latency.record(value);
    }
    assert!(matches!(latency.buckets, Buckets::List(_)));
    let listed = latency.heap_bytes();
    latency.record(1 << 40);
    assert!(matches!(latency.buckets, Buckets::Dense(_)));
    assert!(listed < 4 << 10, "{listed}");
    assert!(latency.heap_bytes() < 40 << 10, "{}", latency.heap_bytes());
}
