//! What scrapers are told, kept up to date by the reporter.

use std::time::{Duration, SystemTime};

use super::Publisher;
use crate::{
    diagnosis::Diagnosis,
    finding::Finding,
    flow::{Grouping, Interval},
    labels::Labels,
    snapshot::{Snapshot, build::Listing},
    view::metrics::Metrics,
    watched::seconds,
};

/// Flows of an interval from which findings are concluded at least, and what is listed of it for that: as `diagnose`
/// does.
const FLOWS: usize = 1_000;
const LISTED: usize = 2_000;
/// Between two looks at what is found: rules cost more than an interval's snapshot.
const LOOK_S: f64 = 5.0;
/// How long something that is not found any more is told: the window in which it was found may begin anew.
const STAYS_S: f64 = 60.0;

/// The sums of the run and what is found in it.
pub(in crate::run) struct Feed {
    metrics: Metrics,
    diagnosis: Diagnosis,
    found: Vec<Finding>,
    /// When was looked at what is found: the end of an interval, RFC 3339.
    looked: Option<String>,
    publisher: Publisher,
}

impl Feed {
    /// Of a run that begins now.
    pub(in crate::run) fn new(
        publisher: Publisher,
        groups: usize,
        began: SystemTime,
        diagnosis: Diagnosis,
    ) -> Self {
        let metrics = Metrics::new(groups, began);
        Self { metrics, diagnosis, found: Vec::new(), looked: None, publisher }
    }

    /// What is to be listed for findings; none where what the outputs list will do.
    pub(in crate::run) fn wider(listing: &Listing) -> Option<Listing> {
        let will_do = listing.by == Grouping::Flow
            && listing.top.is_none_or(|top| top >= FLOWS && listing.telling);
        let top = listing.top.map(|top| top.max(LISTED));
        (!will_do).then_some(Listing { by: Grouping::Flow, top, telling: true, ..*listing })
    }

    /// Adds the flows of an interval, all of them.
    pub(in crate::run) fn count(&mut self, flows: &Interval, labels: &Labels, end: SystemTime) {
        self.metrics.count(flows, labels, end);
    }

    /// Adds the rest of what is known of it, and puts up what is known now.
    pub(in crate::run) fn observe(&mut self, snapshot: &Snapshot, end: SystemTime, took: Duration) {
        self.diagnosis.take(snapshot);
        let since = |past: &str| seconds(past, &snapshot.end).unwrap_or(0.0);
        // A clock that was set back makes what was looked at lie ahead.
        let is_due = |looked: &str| !(0.0..LOOK_S).contains(&since(looked));
        if self.looked.as_deref().is_none_or(is_due) {
            self.found = self.diagnosis.findings();
            self.looked = Some(snapshot.end.clone());
        }
        self.found.retain(|finding| since(&finding.end).abs() <= STAYS_S);
        self.metrics.observe(snapshot, &self.found, end, took);
        self.publisher.put_up(self.metrics.families());
    }
}
