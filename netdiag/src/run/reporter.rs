//! From what the loop cut off to the outputs, once per interval and once for the whole run.
//!
//! Reading the node's counters, building and writing take their time, and an output may stand
//! still: all of that is done on a thread beside the loop, one interval at a time.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    feed::Feed,
    node::Readings,
    output::{BROKE_DOWN, Ended, Outputs, Progress},
};
use crate::{
    flow::{Grouping, Interval},
    kernel::symbols,
    labels::Labels,
    node::{pace::Pace, places::learn_names},
    owner::Place,
    snapshot::{
        Account, Node, Owner, SignalStatus, Snapshot, Stream,
        build::{Frame, Listing, Scope},
        redact::Redactor,
    },
};

/// What every snapshot of a run says of its circumstances.
pub(super) struct About {
    pub(super) node: String,
    pub(super) kernel: String,
    pub(super) labels: Labels,
    pub(super) filtered: bool,
    pub(super) host_root: PathBuf,
    /// Gives pseudonyms, where outputs have them.
    pub(super) redactor: Option<Redactor>,
    /// When names of pods may be looked for again.
    pub(super) names: Pace,
}

/// The names of pods are looked for so rarely at most.
const NAMED_EVERY: Duration = Duration::from_secs(1);

impl About {
    /// Looks for the names of pods and containers, where one of these has none. Kubelet may name them late.
    pub(super) fn learn_names<'a>(&mut self, places: impl Iterator<Item = &'a Place>) {
        let Self { labels, host_root, names, .. } = self;
        if names.is_due() && { places }.any(|place| labels.owners.lacks(place)) {
            names.run(NAMED_EVERY, || learn_names(host_root, &mut labels.owners));
        }
    }

    /// What was cut off, for the outputs.
    pub(super) fn snapshot(&self, scope: Scope, by: Grouping, node: Node, cut: &Cut) -> Snapshot {
        let frame = Frame {
            scope,
            by,
            start: cut.start,
            end: cut.end,
            host: &self.node,
            kernel: &self.kernel,
            labels: &self.labels,
            signals: &cut.signals,
            filtered: self.filtered,
            node,
            accounting: cut.accounting.clone(),
            stream: cut.stream,
        };
        let mut snapshot = frame.build(&cut.flows);
        if let Some(redactor) = &self.redactor {
            redactor.snapshot(&mut snapshot);
        }
        snapshot
    }
}

/// What was taken in within a time: all that is to be put out of it.
#[derive(Clone)]
pub(super) struct Cut {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) flows: Interval,
    /// How each signal is observed by now.
    pub(super) signals: Vec<SignalStatus>,
    /// Since the start of the run, like `stream`.
    pub(super) accounting: BTreeMap<String, Account>,
    pub(super) stream: Stream,
}

impl Cut {
    /// How long it was.
    fn took(&self) -> Duration {
        self.end.duration_since(self.start).unwrap_or_default()
    }
}

/// Puts out what it is given. Blocks.
pub(super) struct Reporter {
    pub(super) about: About,
    pub(super) listing: Listing,
    pub(super) outputs: Outputs,
    pub(super) readings: Readings,
    /// What metrics tell, where they go anywhere.
    pub(super) feed: Option<Feed>,
}

impl Reporter {
    fn interval(&mut self, cut: Cut) -> Result<()> {
        let node = self.readings.advance();
        self.outputs.progress().step();
        let (snapshot, flows) = self.build(Scope::Interval, self.listing, node, cut);
        self.outputs.interval(snapshot, flows, &self.about.labels)
    }

    fn total(mut self, cut: Cut) -> Result<Ended> {
        // People asked for so many rows; a script gets every flow of the run.
        let top = self.listing.top.filter(|_| self.outputs.is_for_people());
        let listing = Listing { top, all: true, apart: false, ..self.listing };
        let node = self.readings.total();
        let (snapshot, _) = self.build(Scope::Total, listing, node, cut);
        self.outputs.total(&snapshot)
    }

    /// Has an interval in the metrics, before the outputs leave anything of it out.
    fn feed(&mut self, node: &Node, cut: &mut Cut) {
        if self.feed.is_none() {
            return;
        }
        self.learn_places(&cut.flows);
        let places = cut.flows.flows.iter().filter_map(|flow| flow.place.as_deref());
        self.about.learn_names(places);
        let Some(feed) = &mut self.feed else { return };
        feed.count(&cut.flows, &self.about.labels, cut.end);
        let Some(wider) = Feed::wider(&self.listing) else { return };
        let snapshot = if self.listing.by == Grouping::Flow {
            wider.arrange(&mut cut.flows);
            let snapshot = self.about.snapshot(Scope::Interval, wider.by, node.clone(), cut);
            if self.listing.apart {
                // The screen has all of them.
                cut.flows = std::mem::take(&mut cut.flows).whole();
            }
            snapshot
        } else {
            let mut apart = cut.clone();
            wider.arrange(&mut apart.flows);
            self.about.snapshot(Scope::Interval, wider.by, node.clone(), &apart)
        };
        feed.observe(&snapshot, cut.end, cut.took());
    }

    /// Asks for the names of places in the kernel's code that were not met before.
    fn learn_places(&mut self, flows: &Interval) {
        let all = flows.flows.iter().chain([&flows.other]).flat_map(|flow| &flow.labelled);
        let unknown = self.about.labels.unknown_places(all.map(|&((_, label), _)| label));
        if !unknown.is_empty() {
            self.about.labels.places.extend(symbols::places(&unknown));
        }
    }

    fn build(
        &mut self,
        scope: Scope,
        listing: Listing,
        mut node: Node,
        mut cut: Cut,
    ) -> (Snapshot, Interval) {
        if scope == Scope::Interval {
            self.feed(&node, &mut cut);
        }
        listing.arrange(&mut cut.flows);
        self.learn_places(&cut.flows);
        let of_flows = cut.flows.flows.iter().filter_map(|flow| flow.place.as_deref());
        let of_node: Vec<_> = node.owners().map(Owner::place).collect();
        self.about.learn_names(of_flows.chain(&of_node));
        node.owners_mut().for_each(|owner| owner.name(&self.about.labels));
        let snapshot = self.about.snapshot(scope, listing.by, node, &cut);
        if scope == Scope::Interval
            && let Some(feed) = self.feed.as_mut().filter(|_| Feed::wider(&listing).is_none())
        {
            feed.observe(&snapshot, cut.end, cut.took());
        }
        self.outputs.progress().step();
        (snapshot, cut.flows)
    }
}

/// The reporter: with us while it is idle, else on its thread. It takes one interval at a time and
/// has no queue, so what waits for it is only what grows in the flow table, which is bounded.
pub(super) struct Worker {
    idle: Option<Reporter>,
    busy: JoinHandle<Result<Reporter>>,
    progress: Progress,
}

impl Worker {
    /// Begins with making the reporter, which reads the node's counters for the first time.
    pub(super) fn start(
        progress: Progress,
        reporter: impl FnOnce() -> Reporter + Send + 'static,
    ) -> Self {
        Self { idle: None, busy: spawn_blocking(|| Ok(reporter())), progress }
    }

    /// How far it has come.
    pub(super) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether it can be given something, as far as [`Self::idle`] has found out.
    pub(super) const fn is_idle(&self) -> bool {
        self.idle.is_some()
    }

    /// Waits until it can be given something. Nothing is lost when this is dropped before.
    ///
    /// # Errors
    /// What went wrong with the last it was given. It is not to be asked again then.
    pub(super) async fn idle(&mut self) -> Result<()> {
        if self.idle.is_none() {
            self.idle = Some(ended((&mut self.busy).await)?);
        }
        Ok(())
    }

    /// Puts out an interval. Does nothing unless it is idle.
    pub(super) fn interval(&mut self, cut: Cut) {
        if let Some(mut reporter) = self.idle.take() {
            self.busy = spawn_blocking(move || {
                reporter.interval(cut)?;
                Ok(reporter)
            });
        }
    }

    /// Puts out the last interval and then the sum of all.
    ///
    /// # Errors
    /// What went wrong, with an earlier interval, too.
    pub(super) async fn end(mut self, last: Cut, total: impl FnOnce() -> Cut) -> Result<Ended> {
        self.idle().await?;
        // Where there are many sockets the last count is seconds old, and a run may be short.
        self.idle.iter_mut().for_each(|reporter| reporter.readings.count_sockets());
        self.interval(last);
        self.idle().await?;
        let reporter = self.idle.take().context("the reporter is gone")?;
        let total = total();
        ended(spawn_blocking(move || reporter.total(total)).await)
    }
}

fn ended<T>(result: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.context(BROKE_DOWN)?
}
