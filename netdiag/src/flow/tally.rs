//! What is added up per flow: latencies and counts by id.

use crate::{
    flow::latency::Latency,
    signal::{CountId, Label, MetricId},
};

/// Latencies and counts of one flow, each sorted by id. Few of each: a search in a short list beats
/// a hash and takes a fraction of its memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) latencies: Vec<(MetricId, Latency)>,
    pub(super) counts: Vec<(CountId, u64)>,
    pub(super) labelled: Vec<((CountId, Label), u64)>,
}

impl Tally {
    pub(super) fn latency(&mut self, metric: MetricId, nanoseconds: u64) {
        entry(&mut self.latencies, metric).record(nanoseconds);
    }

    pub(super) fn count(&mut self, count: CountId, n: u64) {
        let sum = entry(&mut self.counts, count);
        *sum = sum.saturating_add(n);
    }

    pub(super) fn labelled(&mut self, count: CountId, label: Label, n: u64) {
        merge_counts(&mut self.labelled, &[((count, label), n)]);
    }

    /// Adds samples to a bucket of a metric.
    pub(super) fn merge_bucket(&mut self, metric: MetricId, bucket: u16, n: u64) {
        entry(&mut self.latencies, metric).add(bucket, n);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        merge_latencies(&mut self.latencies, &other.latencies);
        merge_counts(&mut self.counts, &other.counts);
        merge_counts(&mut self.labelled, &other.labelled);
    }
}

/// Adds latencies to a sorted list of them.
pub(super) fn merge_latencies(to: &mut Vec<(MetricId, Latency)>, from: &[(MetricId, Latency)]) {
    for (metric, latency) in from {
        entry(to, *metric).merge(latency);
    }
}

/// Adds counts to a sorted list of them.
pub(super) fn merge_counts<K: Copy + Ord>(to: &mut Vec<(K, u64)>, from: &[(K, u64)]) {
    for &(count, n) in from {
        let sum = entry(to, count);
        *sum = sum.saturating_add(n);
    }
}

fn entry<K: Copy + Ord, V: Default>(list: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = match list.binary_search_by_key(&key, |entry| entry.0) {
        Ok(at) => at,
        Err(at) => {
            list.reserve_exact(1);
            list.insert(at, (key, V::default()));
            at
        }
    };
    &mut list[at].1
}
