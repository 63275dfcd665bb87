//! What metrics tell, kept up to date by the reporter, for whoever has asked for them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{otlp::Pusher, scrape::Publisher};
use crate::{
    diagnosis::{Diagnosis, WINDOW_S},
    finding::Finding,
    flow::{Grouping, Interval},
    labels::Labels,
    snapshot::{Snapshot, build::Listing},
    view::metrics::{Family, Metrics},
    watched::seconds,
};

/// Flows of an interval from which findings are concluded at least, and what is listed of it for that: as `diagnose`
/// does.
const FLOWS: usize = 1_000;
const LISTED: usize = 2_000;
/// Between two looks at what is found: rules cost more than an interval's snapshot.
const LOOK_S: f64 = 5.0;
/// How long something that is not found any more is told: the window in which it was found may begin anew.
const STAYS_S: f64 = WINDOW_S;

/// Where metrics go. Nobody there is waited for.
pub(super) struct Outlets {
    /// Who come for them.
    pub(super) scrapers: Option<Publisher>,
    /// Whom they are sent to.
    pub(super) collector: Option<Pusher>,
}

/// The sums of the run and what is found in it.
pub(super) struct Feed {
    metrics: Metrics,
    diagnosis: Diagnosis,
    found: Vec<Finding>,
    /// When was looked at what is found: the end of an interval, RFC 3339.
    looked: Option<String>,
    outlets: Outlets,
}

impl Feed {
    /// Of a run that begins now.
    pub(super) fn new(
        outlets: Outlets,
        groups: usize,
        began: SystemTime,
        diagnosis: Diagnosis,
    ) -> Self {
        let metrics = Metrics::new(groups, began);
        Self { metrics, diagnosis, found: Vec::new(), looked: None, outlets }
    }

    /// What is to be listed for findings; none where what the outputs list will do.
    pub(super) fn wider(listing: &Listing) -> Option<Listing> {
        let will_do = listing.by == Grouping::Flow
            && listing.top.is_none_or(|top| top >= FLOWS && listing.telling);
        let top = listing.top.map(|top| top.max(LISTED));
        (!will_do).then_some(Listing { by: Grouping::Flow, top, telling: true, ..*listing })
    }

    /// Adds the flows of an interval, all of them.
    pub(super) fn count(&mut self, flows: &Interval, labels: &Labels, end: SystemTime) {
        self.metrics.count(flows, labels, end);
    }

    /// Adds the rest of what is known of it, and tells what is known now.
    pub(super) fn observe(&mut self, snapshot: &Snapshot, end: SystemTime, took: Duration) {
        self.diagnosis.take(snapshot);
        let since = |past: &str| seconds(past, &snapshot.end).unwrap_or(0.0);
        // A clock that was set back makes what was looked at lie ahead.
        let is_due = |looked: &str| !(0.0..LOOK_S).contains(&since(looked));
        if self.looked.as_deref().is_none_or(is_due) {
            self.found = self.diagnosis.findings();
            self.looked = Some(snapshot.end.clone());
        }
        self.found.retain(|finding| since(&finding.end).abs() <= STAYS_S);
        let withheld = self.diagnosis.withheld();
        self.metrics.observe(snapshot, &self.found, withheld, end, took);
        let families: Arc<[Family]> = self.metrics.families().into();
        if let Some(scrapers) = &self.outlets.scrapers {
            scrapers.put_up(Arc::clone(&families));
        }
        if let Some(collector) = &self.outlets.collector {
            collector.push(families, end);
        }
    }
}
