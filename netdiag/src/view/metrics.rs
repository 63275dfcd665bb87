//! Metrics for Prometheus and what reads its formats: flows by groups, the node, and netdiag itself.
//!
//! One list ([`definitions`]) says all that there are: those of flows follow from the definitions of the signals, the
//! others are [`node::SCALARS`] and [`own::SCALARS`]. All of them count from the start of the run and never fall,
//! however flows come and go: the sums are kept here, not made from what the flow table still has. How many series
//! there are is bounded by the number of groups ([`group`]) and by the names that the kernel has.

mod family;
mod group;
mod histogram;
mod name;
mod negotiate;
mod node;
mod own;
mod plan;
mod protobuf;
mod scalar;
mod text;

#[cfg(test)]
pub(super) mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use self::{
    family::{Definition, Family, Kind, Series, Unit, Value},
    group::LABELS,
    histogram::{BOUNDS, Distribution, SCHEMA},
    negotiate::Format,
};
use netdiag_common::signal::Signal;

use self::{
    group::Groups,
    plan::{Entry, Source},
    scalar::{Scalars, Seen},
};
use crate::{
    finding::Finding,
    flow::Interval,
    labels::Labels,
    signal::{CountId, MetricId, Rows, counts_of, metrics},
    snapshot::{SignalStatus, Snapshot, Status},
};

/// Every metric that there is, in the order in which they are told.
#[must_use]
pub fn definitions() -> Vec<Arc<Definition>> {
    plan::plan().into_iter().map(|entry| entry.definition).collect()
}

/// All metrics at a time, as bytes of a format.
#[must_use]
pub fn encoded(families: &[Family], format: Format) -> Vec<u8> {
    match format {
        Format::Protobuf => protobuf::delimited(families),
        Format::OpenMetrics => text::openmetrics(families).into_bytes(),
        Format::Text => text::prometheus(families).into_bytes(),
    }
}

/// The sums of a run.
#[derive(Debug)]
pub struct Metrics {
    plan: Vec<Entry>,
    began: SystemTime,
    groups: Groups,
    /// What was counted of entries of the connection tracking table, by [`CountId`].
    entries: Vec<u64>,
    /// Samples of each metric that no histogram has, by [`MetricId`].
    out_of_range: Vec<u64>,
    /// Flows of the last interval that did something in it.
    active: u64,
    scalars: Scalars,
    signals: Vec<SignalStatus>,
}

impl Metrics {
    /// Of a run that begins now; so many groups of flows are told apart.
    #[must_use]
    pub fn new(most_groups: usize, began: SystemTime) -> Self {
        Self {
            plan: plan::plan(),
            began,
            groups: Groups::new(most_groups, began),
            entries: Vec::new(),
            out_of_range: vec![0; metrics().count()],
            active: 0,
            scalars: Scalars::default(),
            signals: Vec::new(),
        }
    }

    /// Adds all that the flows of an interval did, which ended at `now`; none of them may be left out.
    pub fn count(&mut self, interval: &Interval, labels: &Labels, now: SystemTime) {
        for flow in interval.flows.iter().chain([&interval.other]) {
            for (MetricId(id), latency) in &flow.latencies {
                self.out_of_range[usize::from(*id)] += latency.out_of_range();
            }
        }
        let active = interval.flows.iter().filter(|flow| !flow.idle).count();
        // What the table has summed up was not idle.
        self.active = active as u64 + interval.folded;
        self.groups.take(interval, labels, now);
        let entries = interval.entries.rows.iter().map(|row| &row.counts);
        for &(CountId(id), n) in entries.chain([&interval.entries.other]).flatten() {
            let id = usize::from(id);
            if self.entries.len() <= id {
                self.entries.resize(id + 1, 0);
            }
            self.entries[id] += n;
        }
    }

    /// Adds what the node and netdiag say of the same interval, and what is found at its end; of so many findings
    /// nothing can be said then (`withheld`). It `took` so long.
    pub fn observe(
        &mut self,
        snapshot: &Snapshot,
        found: &[Finding],
        withheld: usize,
        now: SystemTime,
        took: Duration,
    ) {
        self.signals.clone_from(&snapshot.signals);
        let (groups, summed_up) = self.groups.sizes();
        let flows = self.active;
        let seen = Seen { snapshot, found, withheld, flows, groups, summed_up, now, took };
        self.scalars.take(&seen);
    }

    /// All of it as it stands.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.plan.iter().map(|entry| self.family(entry)).collect()
    }

    fn family(&self, entry: &Entry) -> Family {
        let series = match &entry.source {
            Source::Latency(metric) => self.groups.histograms(*metric),
            Source::Counts { parts, scale } => self.groups.counts(parts, *scale, &self.signals),
            Source::Labelled(count) => self.groups.labelled(*count),
            Source::Entries(count) => self.entries(*count),
            Source::OutOfRange => self.out_of_range(),
            Source::Scalar(nth) => self.scalars.series(*nth, self.began),
        };
        Family { definition: Arc::clone(&entry.definition), series }
    }

    fn entries(&self, wanted: CountId) -> Vec<Series> {
        let is_seen = counts_of(Rows::Entries).any(|(id, signal, count)| {
            id == wanted && crate::snapshot::build::is_seen(signal, count, &self.signals)
        });
        let n = self.entries.get(usize::from(wanted.0)).copied().unwrap_or(0);
        let series = Series::number(Vec::new(), n as f64).since(self.began);
        is_seen.then_some(series).into_iter().collect()
    }

    fn out_of_range(&self) -> Vec<Series> {
        let is_off = |signal: Signal| {
            let is_it = |one: &&SignalStatus| one.signal == signal.name();
            self.signals.iter().find(is_it).is_some_and(|one| one.status == Status::Off)
        };
        let seen = metrics().zip(&self.out_of_range).filter(|((_, signal, _), _)| !is_off(*signal));
        seen.map(|((_, _, metric), n)| {
            Series::number(vec![metric.name.into()], *n as f64).since(self.began)
        })
        .collect()
    }
}
