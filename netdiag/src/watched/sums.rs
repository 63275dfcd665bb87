//! Counts and latencies, added up.

use std::{
    collections::{BTreeMap, HashSet},
    sync::LazyLock,
};

use crate::{
    flow::latency::Latency,
    signal,
    snapshot::{CountValue, Distribution, Flow},
};

/// Counts and latencies that were added up.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    counts: BTreeMap<String, u64>,
    latencies: BTreeMap<String, Latency>,
}

impl Sums {
    /// A count by its name in snapshots (`bytes_sent`, `retransmits.rto`, `drops.NO_SOCKET`), or all of a
    /// group (`retransmits`); none where no source could see it. What the kernel names (`drops.*`,
    /// `connects_failed.*`) is none where it did not happen: ask for the group to tell.
    #[must_use]
    pub fn count(&self, name: &str) -> Option<u64> {
        self.counts.get(name).copied()
    }

    /// The same, 0 where it is unknown: for what is only evidence besides.
    #[must_use]
    pub fn at_least(&self, name: &str) -> u64 {
        self.count(name).unwrap_or(0)
    }

    /// The keys of a group with their counts, none of them 0, the largest first.
    #[must_use]
    pub fn keys(&self, group: &str) -> Vec<(&str, u64)> {
        let of_group = |name: &str| Some(name.strip_prefix(group)?.strip_prefix('.')?.len());
        let mut keys: Vec<_> = self
            .counts
            .iter()
            .filter_map(|(name, &n)| Some((&name[name.len() - of_group(name)?..], n)))
            .filter(|(_, n)| *n > 0)
            .collect();
        keys.sort_by_key(|&(key, n)| (std::cmp::Reverse(n), key));
        keys
    }

    /// Part of one count in another, as a ratio; none where either is unknown or the whole is 0.
    #[must_use]
    pub fn ratio(&self, part: &str, whole: &str) -> Option<f64> {
        let (part, whole) = (self.count(part)?, self.count(whole)?);
        (whole > 0).then(|| part as f64 / whole as f64)
    }

    /// A latency by its metric's name; none without a sample.
    #[must_use]
    pub fn latency(&self, metric: &str) -> Option<&Latency> {
        self.latencies.get(metric).filter(|latency| latency.count() > 0)
    }

    /// Samples of a metric.
    #[must_use]
    pub fn samples(&self, metric: &str) -> u64 {
        self.latency(metric).map_or(0, Latency::count)
    }

    /// Whether a metric is told at all, be it by samples that are out of its range.
    #[must_use]
    pub fn tells(&self, metric: &str) -> bool {
        self.latencies.get(metric).is_some_and(|latency| !latency.is_empty())
    }

    /// A percentile of a metric in nanoseconds, none with fewer samples than `at_least`.
    #[must_use]
    pub fn quantile(&self, metric: &str, quantile: f64, at_least: u64) -> Option<u64> {
        self.latency(metric).filter(|latency| latency.count() >= at_least)?.quantile(quantile)
    }

    pub(super) fn metrics(&self) -> BTreeMap<String, Distribution> {
        let told = self.latencies.iter().filter(|(_, latency)| !latency.is_empty());
        told.map(|(metric, latency)| (metric.clone(), latency.distribution())).collect()
    }

    pub(super) fn nested(&self) -> BTreeMap<String, CountValue> {
        let mut nested: BTreeMap<String, CountValue> = BTreeMap::new();
        for (name, &n) in &self.counts {
            let Some((group, key)) = name.split_once('.') else {
                nested.insert(name.clone(), CountValue::Number(Some(n)));
                continue;
            };
            // The sum of a group stands before its keys.
            let entry = nested.entry(group.to_owned());
            let entry = entry.or_insert_with(|| CountValue::Group(BTreeMap::new()));
            if !matches!(entry, CountValue::Group(_)) {
                *entry = CountValue::Group(BTreeMap::new());
            }
            if let CountValue::Group(keys) = entry {
                keys.insert(key.to_owned(), Some(n));
            }
        }
        nested
    }

    /// Adds what another one counted. A state is not the sum of two, so it is left out then.
    pub fn add(&mut self, other: &Self) {
        for (name, n) in &other.counts {
            if adds_up(name) {
                *self.counts.entry(name.clone()).or_default() += n;
            }
        }
        for (metric, latency) in &other.latencies {
            self.latencies.entry(metric.clone()).or_default().merge(latency);
        }
    }

    /// Adds what an interval counted.
    pub(super) fn take(&mut self, flow: &Flow) {
        let mut put = |name: String, n: u64, adds: bool| {
            let count = self.counts.entry(name).or_default();
            *count = if adds { count.saturating_add(n) } else { n };
        };
        for (name, value) in &flow.counts {
            match value {
                CountValue::Number(Some(n)) => put(name.clone(), *n, adds_up(name)),
                CountValue::Number(None) => {}
                CountValue::Group(keys) => {
                    let known: Vec<_> = keys.iter().filter_map(|(k, n)| Some((k, (*n)?))).collect();
                    if known.len() == keys.len() {
                        put(name.clone(), known.iter().map(|(_, n)| n).sum(), true);
                    }
                    for (key, n) in known {
                        put(format!("{name}.{key}"), n, true);
                    }
                }
            }
        }
        for (metric, distribution) in &flow.metrics {
            let latency = self.latencies.entry(metric.clone()).or_default();
            latency.merge(&approximate(distribution));
        }
    }
}

/// Whether a count is no state. What no signal defines was counted by a newer netdiag, and adds up.
pub(super) fn adds_up(name: &str) -> bool {
    static STATES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let states = signal::counts().filter(|(_, _, count)| !count.adds_up);
        states.map(|(_, _, count)| count.name).collect()
    });
    !STATES.contains(name)
}

/// A distribution with these percentiles: each sample is taken for the next one above it.
pub(super) fn approximate(distribution: &Distribution) -> Latency {
    let Distribution { count, min_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, out_of_range } =
        *distribution;
    let mut latency = Latency::default();
    let steps = [(p50_ns, 0.5), (p90_ns, 0.9), (p99_ns, 0.99), (p999_ns, 0.999), (max_ns, 1.0)];
    let mut told = 0;
    if let Some(min_ns) = min_ns.filter(|_| count > 1) {
        latency.record_n(min_ns, 1);
        told = 1;
    }
    for (value, quantile) in steps {
        let up_to = ((count as f64 * quantile).ceil() as u64).min(count);
        if let Some(value) = value {
            latency.record_n(value, up_to.saturating_sub(told));
            told = told.max(up_to);
        }
    }
    // 0 is out of every range.
    latency.record_n(0, out_of_range);
    latency
}
