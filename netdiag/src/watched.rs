//! What rules conclude from: the snapshots of a window, added up. Pure, and bounded however many flows and
//! intervals there are.
//!
//! Counts add up, states are the last that was told, and unknown stays unknown. Percentiles over several
//! intervals are those of their distributions, each sample taken for the next percentile above it: so they
//! are never below the true ones, and the same where one interval is all there is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::snapshot::{
    Account, Node, SignalStatus, Snapshot, Status, TopCreator,
    node::{Part, Unread},
};

mod course;
mod extent;
mod group;
#[cfg(test)]
pub(crate) mod kit;
mod node;
pub mod period;
mod seen;
pub mod series;
mod sums;
#[cfg(test)]
mod tests;

pub use course::{Course, Seconds, Stall, Windows};
pub use extent::Extent;
pub use group::{Backend, Group, Peer};
pub use node::{Queues, Tracked};
pub use seen::Seen;
pub use series::Series;
pub use sums::Sums;

/// Flows told apart; what more there are is in [`Watched::other`].
pub const MOST_FLOWS: usize = 8_192;

/// One interval of the window as it stood.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Seconds that it took.
    pub seconds: f64,
    /// What the node said of itself.
    pub node: Node,
}

/// The snapshots of a window, added up.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// When it began, RFC 3339; empty before the first snapshot.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// Seconds of all its intervals.
    pub seconds: f64,
    /// How each signal was observed at the end.
    pub signals: Vec<SignalStatus>,
    /// Samples of each signal that were lost or missed in the window.
    pub lost: BTreeMap<String, u64>,
    /// Of these, those that there was no room to remember.
    pub no_room: BTreeMap<String, u64>,
    /// Those that were left out to keep the cost down.
    pub shed: BTreeMap<String, u64>,
    /// Those that were told of.
    pub told: BTreeMap<String, u64>,
    /// Whether filters narrowed the flows.
    pub filtered: bool,
    /// The flows by id.
    pub flows: BTreeMap<String, Seen>,
    /// Sum of all that are not told apart, and of what belongs to no flow.
    pub other: Sums,
    /// The most flows of an interval that are not told apart.
    pub folded: u64,
    /// Who made entries of the connection tracking table, the most first.
    pub creators: Vec<TopCreator>,
    /// The intervals, in order.
    pub intervals: Vec<Interval>,
    /// The last interval of the window before this one.
    before: Option<Box<Interval>>,
    /// Latencies interval by interval, also of the windows before this one.
    pub series: Arc<Series>,
    /// What became of the samples of each signal before: lost, of these for want of room, shed, told.
    fates_before: HashMap<String, [u64; 4]>,
}

impl Watched {
    /// A window that follows on this one.
    #[must_use]
    pub fn next(&self) -> Self {
        let before = self.intervals.last().cloned().map(Box::new);
        Self {
            before: before.or_else(|| self.before.clone()),
            fates_before: self.fates_before.clone(),
            series: Arc::clone(&self.series),
            ..Self::default()
        }
    }

    /// Forgets the windows before this one: another run begins, or time has passed unseen.
    pub fn forget(&mut self) {
        self.before = None;
        self.series = Arc::default();
    }

    /// Forgets how much was lost before: the accounts of another run begin at 0.
    pub fn lose_anew(&mut self) {
        self.fates_before.clear();
    }

    /// Seconds of an interval, in the mean; 0 before there was one.
    #[must_use]
    pub fn every(&self) -> f64 {
        self.seconds / self.intervals.len().max(1) as f64
    }

    /// Seconds with something from which on it lasts: so many, or half of the intervals where these are fewer.
    #[must_use]
    pub fn lasting(&self, seconds: f64) -> f64 {
        seconds.min((self.intervals.len() as f64 / 2.0).ceil())
    }

    /// Adds an interval. Times that make no sense count as no time.
    pub fn take(&mut self, snapshot: &Snapshot) {
        if self.start.is_empty() {
            self.start.clone_from(&snapshot.start);
        }
        self.end.clone_from(&snapshot.end);
        let seconds = seconds(&snapshot.start, &snapshot.end).unwrap_or(0.0);
        let at = self.seconds;
        self.seconds += seconds;
        self.signals.clone_from(&snapshot.signals);
        self.filtered = snapshot.filtered;
        self.intervals.push(Interval { seconds, node: snapshot.node.clone() });
        for (signal, account) in &snapshot.accounting {
            self.account(signal, account);
        }
        let mut folded = snapshot.folded.unwrap_or(0);
        for flow in &snapshot.flows {
            let has_room = self.flows.len() < MOST_FLOWS;
            match self.flows.get_mut(&flow.id) {
                Some(seen) => seen.take(flow, at, seconds),
                None if has_room => {
                    let mut seen = Seen::new(flow);
                    seen.take(flow, at, seconds);
                    self.flows.insert(flow.id.clone(), seen);
                }
                None => {
                    self.other.take(flow);
                    folded += 1;
                }
            }
        }
        self.other.take(&snapshot.other);
        self.folded = self.folded.max(folded);
        Arc::make_mut(&mut self.series).take(snapshot, seconds);
        let creators = snapshot.conntrack.as_ref().map_or(&[][..], |told| &told.creators);
        creators.iter().for_each(|creator| self.creator(creator));
    }

    /// Accounts are told since the start of a run, which begins anew where they fall.
    fn account(&mut self, signal: &str, account: &Account) {
        let now = [account.lost(), account.map_full, account.shed, account.submitted];
        let before = self.fates_before.insert(signal.to_owned(), now).unwrap_or_default();
        let sums = [&mut self.lost, &mut self.no_room, &mut self.shed, &mut self.told];
        for (sum, (now, before)) in sums.into_iter().zip(now.into_iter().zip(before)) {
            let fresh = if now >= before { now - before } else { now };
            *sum.entry(signal.to_owned()).or_default() += fresh;
        }
    }

    fn creator(&mut self, told: &TopCreator) {
        let same = |known: &&mut TopCreator| {
            (known.netns, &known.protocol, &known.destination, &known.creator)
                == (told.netns, &told.protocol, &told.destination, &told.creator)
        };
        let add = |to: &mut Option<u64>, n: Option<u64>| *to = to.map_or(n, |to| Some(to + n?));
        let has_room = self.creators.len() < MOST_FLOWS;
        match self.creators.iter_mut().find(same) {
            Some(known) => {
                add(&mut known.new, told.new);
                add(&mut known.confirmed, told.confirmed);
                add(&mut known.table_full, told.table_full);
            }
            None if has_room => self.creators.push(told.clone()),
            None => {}
        }
        let made = |one: &TopCreator| one.new.max(one.confirmed).max(one.table_full);
        self.creators.sort_by_key(|one| std::cmp::Reverse(made(one)));
    }

    /// Whether any of the flows that are not told apart got through: to whom is not known.
    #[must_use]
    pub fn others_connected(&self) -> bool {
        self.folded > 0 && self.other.samples("connect") > 0
    }

    /// What the node said last of itself.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.intervals.last().map(|interval| &interval.node)
    }

    /// Whether a signal is observed at all.
    #[must_use]
    pub fn sees(&self, signal: &str) -> bool {
        self.signals.iter().any(|known| known.signal == signal && known.status != Status::Off)
    }

    /// Samples of a signal that were left out in the window to keep the cost down.
    #[must_use]
    pub fn left_out(&self, signal: &str) -> u64 {
        self.shed.get(signal).copied().unwrap_or(0)
    }

    /// Where a part of what the node says of itself could not be read, and why: as it was in the worst interval.
    #[must_use]
    pub fn unread(&self, part: Part) -> Option<&Unread> {
        let all = self.intervals.iter().flat_map(|interval| &interval.node.unread);
        all.filter(|one| one.part == part).max_by_key(|one| one.namespaces)
    }

    /// What the source of a signal does not see, a line each.
    #[must_use]
    pub fn missing(&self, signal: &str) -> &[String] {
        let known = self.signals.iter().find(|known| known.signal == signal);
        known.map_or(&[], |known| &known.missing)
    }

    /// By how much a counter of the kernel's TCP rose in a namespace; none where it is not told.
    #[must_use]
    pub fn tcp(&self, netns: u32, counter: &str) -> Option<u64> {
        let mut sum = None;
        for interval in &self.intervals {
            if let Some(n) = interval.node.tcp.get(&netns).and_then(|tcp| tcp.get(counter)) {
                sum = Some(sum.unwrap_or(0) + n);
            }
        }
        sum
    }

    /// The namespaces of which the node told anything.
    #[must_use]
    pub fn namespaces(&self) -> Vec<u32> {
        let told = self.intervals.iter().flat_map(|interval| interval.node.tcp.keys());
        let mut namespaces: Vec<u32> = told.copied().collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces
    }
}

/// Seconds between two times of snapshots; none where one is no time, or before the other.
pub(crate) fn seconds(start: &str, end: &str) -> Option<f64> {
    let (start, end): (Timestamp, Timestamp) = (start.parse().ok()?, end.parse().ok()?);
    Some(end.duration_since(start).as_secs_f64()).filter(|seconds| *seconds >= 0.0)
}
