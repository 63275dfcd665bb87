//! What flows may be sorted by.

use crate::{
    flow::{Frozen, latency::Latency},
    signal::{CountId, MetricId, counts, metrics},
};

/// What flows are sorted by, largest first. Learnt from the definitions, so a signal's metrics and
/// counts sort as soon as they are defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Samples of a metric.
    Samples(&'static str),
    /// Median of a metric.
    P50(&'static str),
    /// 99th percentile of a metric.
    P99(&'static str),
    /// Largest value of a metric.
    Max(&'static str),
    /// A count, or the sum of a group when the name ends in a dot.
    Count(&'static str),
    /// Smoothed round-trip time.
    Srtt,
    /// Smallest round-trip time of late.
    RttMin,
}

impl Default for Sort {
    fn default() -> Self {
        Self::Count("sends")
    }
}

impl Sort {
    /// Every order by its name: `send`, `send.p99`, `sends`, `retransmits`, `retransmits.rto`, …
    #[must_use]
    pub fn all() -> Vec<(String, Self)> {
        let mut all = Vec::new();
        for (_, _, metric) in metrics() {
            let name = metric.name;
            all.push((name.to_owned(), Self::Samples(name)));
            all.push((format!("{name}.p50"), Self::P50(name)));
            all.push((format!("{name}.p99"), Self::P99(name)));
            all.push((format!("{name}.max"), Self::Max(name)));
        }
        for (_, _, count) in counts() {
            if let Some(dot) = count.name.find('.') {
                let group = Self::Count(&count.name[..=dot]);
                if !all.iter().any(|(_, known)| *known == group) {
                    all.push((count.name[..dot].to_owned(), group));
                }
            }
            all.push((count.name.to_owned(), Self::Count(count.name)));
        }
        all.push(("srtt".to_owned(), Self::Srtt));
        all.push(("rtt_min".to_owned(), Self::RttMin));
        all
    }

    /// What it sorts by.
    #[must_use]
    pub fn value(self) -> Value {
        match self {
            Self::Samples(metric) => latency_of(metric, |latency| Some(latency.count())),
            Self::P50(metric) => latency_of(metric, |latency| latency.quantile(0.5)),
            Self::P99(metric) => latency_of(metric, |latency| latency.quantile(0.99)),
            Self::Max(metric) => latency_of(metric, Latency::max),
            Self::Count(name) => sum_of(name),
            Self::Srtt => Box::new(|flow| flow.srtt_ns),
            Self::RttMin => Box::new(|flow| flow.rtt_min_ns),
        }
    }
}

/// Gives a flow's value; none sorts after 0.
pub type Value = Box<dyn Fn(&Frozen) -> Option<u64>>;

/// The count of a name, or the sum of a group when the name ends in a dot.
fn sum_of(name: &'static str) -> Value {
    let ids: Vec<CountId> = counts()
        .filter(|(_, _, count)| {
            count.name == name || name.ends_with('.') && count.name.starts_with(name)
        })
        .map(|(id, ..)| id)
        .collect();
    Box::new(move |flow| ids.iter().filter_map(|&id| flow.count(id)).reduce(u64::saturating_add))
}

fn latency_of(name: &'static str, value: impl Fn(&Latency) -> Option<u64> + 'static) -> Value {
    let id: Option<MetricId> =
        metrics().find(|(_, _, metric)| metric.name == name).map(|(id, ..)| id);
    Box::new(move |flow| flow.latency(id?).and_then(&value))
}
