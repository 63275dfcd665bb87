//! Flows: the table that events are folded into, and what is taken out of it each interval.

use std::sync::Arc;

use netdiag_common::flow::FlowKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    flow::latency::Latency,
    owner::Place,
    signal::{CountId, Label, MetricId},
};

mod counts;
pub mod entries;
mod gauges;
mod group;
pub mod latency;
mod maybe;
mod owners;
mod packed;
pub mod queries;
mod readings;
mod recency;
mod row;
mod shares;
mod sums;
pub mod table;
mod tally;
mod translations;
pub mod tuples;

pub use group::{Group, Grouping, SERVER};
pub use table::{Config, FlowTable, Fresh, Seed, Total};
pub use translations::{End, Translation};

/// Which end of a connection this is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It called connect.
    Client,
    /// It was accepted from a listener.
    Server,
}

/// Whom one end belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Process id.
    pub pid: Option<u32>,
    /// Name of the process.
    pub comm: Option<String>,
    /// Where it lives.
    pub place: Option<Arc<Place>>,
}

/// One flow's share of an interval or a run, frozen.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    /// Number of the flow: unique in a run, never reused. 0 for `other`.
    pub id: u64,
    /// The conversation; all zero for `other`.
    pub key: FlowKey,
    /// Which end it is, where known.
    pub role: Option<Role>,
    /// Process id of the owner.
    pub pid: Option<u32>,
    /// Name of the owner.
    pub comm: Option<String>,
    /// Where the owner lives.
    pub place: Option<Arc<Place>>,
    /// What it was addressed to and who answers, where addresses are known to be translated.
    pub translation: Option<Arc<Translation>>,
    /// Number of the flow that is the other end, where it is on this node and known.
    pub pair: Option<u64>,
    /// Whom the other end belongs to, where it is on this node and known.
    pub peer: Option<Who>,
    /// Whether the socket is gone.
    pub closed: bool,
    /// Whether nothing was heard of it in the interval (in the run).
    pub idle: bool,
    /// Smoothed round-trip time as last reported, in nanoseconds.
    pub srtt_ns: Option<u64>,
    /// Smallest round-trip time of late as last reported, in nanoseconds.
    pub rtt_min_ns: Option<u64>,
    /// Congestion window as last reported, in segments.
    pub cwnd: Option<u32>,
    /// What it stands for where it is several flows in one.
    pub group: Option<Box<Group>>,
    /// Latencies that have samples, sorted by id.
    pub latencies: Vec<(MetricId, Latency)>,
    /// Counts that are present, sorted by id; what absence means stands in
    /// [`crate::signal::Count::absent_is_zero`].
    pub counts: Vec<(CountId, u64)>,
    /// What the kernel held of the socket when it was asked last, sorted by id: no sums.
    pub gauges: Vec<(CountId, u64)>,
    /// Labelled counts that are present, sorted.
    pub labelled: Vec<((CountId, Label), u64)>,
}

impl Frozen {
    /// Adds another flow's latencies and counts; who and what it is stays as it is, and so does what
    /// cannot be added up.
    pub fn merge(&mut self, other: &Self) {
        tally::merge_latencies(&mut self.latencies, &other.latencies);
        tally::merge_counts(&mut self.counts, &other.counts);
        tally::merge_counts(&mut self.labelled, &other.labelled);
    }

    /// A latency, if it has samples.
    #[must_use]
    pub fn latency(&self, metric: MetricId) -> Option<&Latency> {
        let at = self.latencies.binary_search_by_key(&metric, |entry| entry.0).ok()?;
        Some(&self.latencies[at].1)
    }

    /// A count, if it is present; of a labelled one the sum.
    #[must_use]
    pub fn count(&self, count: CountId) -> Option<u64> {
        for list in [&self.counts, &self.gauges] {
            if let Ok(at) = list.binary_search_by_key(&count, |entry| entry.0) {
                return Some(list[at].1);
            }
        }
        self.labels(count).map(|(_, n)| n).reduce(u64::saturating_add)
    }

    /// The labels of a labelled count, and how many of each.
    pub fn labels(&self, count: CountId) -> impl Iterator<Item = (Label, u64)> + '_ {
        let of_it = self.labelled.iter().filter(move |((other, _), _)| *other == count);
        of_it.map(|&((_, label), n)| (label, n))
    }
}

/// All flows of an interval or a run.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Flows with a row of their own, by ascending id.
    pub flows: Vec<Frozen>,
    /// Sum of all others, and of what belongs to no flow.
    pub other: Frozen,
    /// Flows that are summed up there.
    pub folded: u64,
    /// Entries of the connection tracking table.
    pub entries: entries::Interval,
    /// What was summed up by [`Interval::keep_apart`].
    pub rest: Option<Box<Rest>>,
}

/// Flows that are summed up, and yet kept one by one.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// The flows.
    pub flows: Vec<Frozen>,
    /// The sum of all others before they were added.
    pub other: Frozen,
    /// Flows that were in it.
    pub folded: u64,
}

impl Interval {
    /// Sum of all flows and `other`.
    #[must_use]
    pub fn sum(&self) -> Frozen {
        let mut sum = Frozen::default();
        for flow in self.flows.iter().chain([&self.other]) {
            sum.merge(flow);
        }
        sum
    }

    /// Like [`Self::keep`], so that [`Self::whole`] can take it back.
    pub fn keep_apart(&mut self, top: usize) {
        let flows = self.flows.split_off(self.flows.len().min(top));
        let rest = Rest { other: self.other.clone(), folded: self.folded, flows };
        for flow in &rest.flows {
            self.other.merge(flow);
            self.folded += 1;
        }
        self.rest = Some(Box::new(rest));
    }

    /// As it was before [`Self::keep_apart`].
    #[must_use]
    pub fn whole(mut self) -> Self {
        if let Some(rest) = self.rest.take() {
            let Rest { flows, other, folded } = *rest;
            self.flows.extend(flows);
            (self.other, self.folded) = (other, folded);
        }
        self
    }

    /// Keeps the first `top` flows in their order and folds the rest into `other`.
    pub fn keep(&mut self, top: usize) {
        for flow in self.flows.drain(self.flows.len().min(top)..) {
            self.other.merge(&flow);
            self.folded += 1;
        }
    }
}
