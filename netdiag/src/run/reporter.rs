//! From what the loop cut off to the outputs, once per interval and once for the whole run.
//!
//! Reading the node's counters, building and writing take their time, and an output may stand
//! still: all of that is done on a thread beside the loop, one interval at a time.

use std::{
    collections::BTreeMap,
    mem,
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
    flow::{Grouping, Interval, Total},
    kernel::symbols,
    labels::Labels,
    node::{pace::Pace, places::learn_names},
    owner::Place,
    signal::Label,
    snapshot::{
        Account, Node, Own, Owner, SignalStatus, Snapshot, Stream,
        build::{Frame, Listing, Scope, Survey},
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
        let mut snapshot = self.frame(scope, by, node, cut).build(&cut.flows);
        if let Some(redactor) = &self.redactor {
            redactor.snapshot(&mut snapshot);
        }
        snapshot
    }

    /// The same without its flows, and with names as they are.
    fn frame<'a>(&'a self, scope: Scope, by: Grouping, node: Node, cut: &'a Cut) -> Frame<'a> {
        Frame {
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
            own: cut.own.clone(),
            accounting: cut.accounting.clone(),
            stream: cut.stream,
        }
    }
}

/// What was taken in within a time: all that is to be put out of it.
#[derive(Clone)]
pub(super) struct Cut<F = Interval> {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) flows: F,
    /// What netdiag itself took.
    pub(super) own: Own,
    /// How each signal is observed by now.
    pub(super) signals: Vec<SignalStatus>,
    /// Since the start of the run, like `stream`.
    pub(super) accounting: BTreeMap<String, Account>,
    pub(super) stream: Stream,
}

impl<F> Cut<F> {
    /// The same with other flows, made of those.
    fn with<T>(self, flows: impl FnOnce(F) -> T) -> Cut<T> {
        let Self { start, end, own, signals, accounting, stream, .. } = self;
        Cut { start, end, flows: flows(self.flows), own, signals, accounting, stream }
    }

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
    fn interval(&mut self, mut cut: Cut) -> Result<()> {
        let mut node = self.readings.advance();
        self.outputs.progress().step();
        self.feed(&node, &mut cut);
        self.listing.arrange(&mut cut.flows);
        self.learn(&mut node, &cut.flows);
        let observes = self.feed.is_some() && Feed::wider(&self.listing).is_none();
        if self.outputs.streams() && !observes {
            let flows = mem::take(&mut cut.flows.flows).into_iter();
            let frame = self.about.frame(Scope::Interval, self.listing.by, node, &cut);
            let snapshot = frame.lazily(&cut.flows, flows, self.about.redactor.as_ref());
            return self.outputs.stream(&snapshot);
        }
        let snapshot = self.about.snapshot(Scope::Interval, self.listing.by, node, &cut);
        if let Some(feed) = self.feed.as_mut().filter(|_| observes) {
            feed.observe(&snapshot, cut.end, cut.took());
        }
        self.outputs.progress().step();
        self.outputs.interval(snapshot, cut.flows, &self.about.labels)
    }

    fn total(mut self, cut: Cut<Total>) -> Result<Ended> {
        // People asked for so many rows; a script gets every flow of the run.
        let top = self.listing.top.filter(|_| self.outputs.is_for_people());
        let listing = Listing { top, all: true, apart: false, ..self.listing };
        let mut node = self.readings.total();
        if self.outputs.streams() && listing.by == Grouping::Flow && top.is_none() {
            return self.stream_total(&listing, node, cut);
        }
        let mut cut = cut.with(|total| listing.total(total));
        listing.arrange(&mut cut.flows);
        self.learn(&mut node, &cut.flows);
        let snapshot = self.about.snapshot(Scope::Total, listing.by, node, &cut);
        self.outputs.progress().step();
        self.outputs.total(&snapshot)
    }

    /// Writes the total flow by flow: there may be as many as there is memory for, and their names take more.
    fn stream_total(mut self, listing: &Listing, mut node: Node, cut: Cut<Total>) -> Result<Ended> {
        let Survey { order, labels, places } = listing.survey(&cut.flows);
        let of_other = cut.flows.rest().other.labelled.iter().map(|&((_, label), _)| label);
        self.learn_places(labels.into_iter().chain(of_other));
        self.learn_names(&mut node, places.iter().map(|place| &**place));
        self.outputs.progress().step();
        let mut total = None;
        let cut = cut.with(|mut flows| {
            let mut rest = mem::take(flows.rest_mut());
            rest.entries.arrange(listing.top);
            total = Some(flows);
            rest
        });
        let flows = order.into_iter().filter_map(move |slot| total.as_mut()?.take(slot));
        let frame = self.about.frame(Scope::Total, listing.by, node, &cut);
        let snapshot = frame.lazily(&cut.flows, flows, self.about.redactor.as_ref());
        self.outputs.stream(&snapshot)?;
        Ok(Ended { complete: snapshot.complete, worst: None })
    }

    /// Has an interval in the metrics, before the outputs leave anything of it out.
    fn feed(&mut self, node: &Node, cut: &mut Cut) {
        if self.feed.is_none() {
            return;
        }
        self.learn_labels(&cut.flows);
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
                cut.flows = mem::take(&mut cut.flows).whole();
            }
            snapshot
        } else {
            let mut apart = cut.clone();
            wider.arrange(&mut apart.flows);
            self.about.snapshot(Scope::Interval, wider.by, node.clone(), &apart)
        };
        feed.observe(&snapshot, cut.end, cut.took());
    }

    /// Asks for what has no name yet.
    fn learn(&mut self, node: &mut Node, flows: &Interval) {
        self.learn_labels(flows);
        self.learn_names(node, flows.flows.iter().filter_map(|flow| flow.place.as_deref()));
    }

    fn learn_labels(&mut self, flows: &Interval) {
        let all = flows.flows.iter().chain([&flows.other]).flat_map(|flow| &flow.labelled);
        self.learn_places(all.map(|&((_, label), _)| label));
    }

    /// Asks for the names of places in the kernel's code that were not met before.
    fn learn_places(&mut self, labels: impl Iterator<Item = Label>) {
        let unknown = self.about.labels.unknown_places(labels);
        if !unknown.is_empty() {
            self.about.labels.places.extend(symbols::places(&unknown));
        }
    }

    fn learn_names<'a>(&mut self, node: &mut Node, of_flows: impl Iterator<Item = &'a Place>) {
        let of_node: Vec<_> = node.owners().map(Owner::place).collect();
        let of_flows: Vec<_> = of_flows.collect();
        self.about.learn_names(of_flows.iter().copied().chain(&of_node));
        node.owners_mut().for_each(|owner| owner.name(&self.about.labels));
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
    pub(super) async fn end(
        mut self,
        last: Cut,
        total: impl FnOnce() -> Cut<Total>,
    ) -> Result<Ended> {
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
