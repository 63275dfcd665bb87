//! What rules conclude from: the snapshots of a window, added up. Pure, and bounded however many flows and
//! intervals there are.
//!
//! Counts add up, states are the last that was told, and unknown stays unknown. Percentiles over several
//! intervals are those of their [`Distribution`]s, each sample taken for the next percentile above it: so
//! they are never below the true ones, and the same where one interval is all there is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;

use crate::{
    flow::latency::Latency,
    signal,
    snapshot::{
        Account, CountValue, Distribution, Endpoint, Flow, Node, Owner, Role, SignalStatus,
        Snapshot, Status, TopCreator,
    },
};

mod course;
mod extent;
mod group;
#[cfg(test)]
pub(crate) mod kit;
mod node;
pub mod period;
pub mod series;
#[cfg(test)]
mod tests;

pub use course::{Course, Seconds, Stall, Windows};
pub use extent::Extent;
pub use group::{Backend, Group, Peer};
pub use node::{Queues, Tracked};
pub use series::Series;

/// Flows told apart; what more there are is in [`Watched::other`].
pub const MOST_FLOWS: usize = 8_192;

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

    /// A percentile of a metric in nanoseconds, none with fewer samples than `at_least`.
    #[must_use]
    pub fn quantile(&self, metric: &str, quantile: f64, at_least: u64) -> Option<u64> {
        self.latency(metric).filter(|latency| latency.count() >= at_least)?.quantile(quantile)
    }

    fn metrics(&self) -> BTreeMap<String, Distribution> {
        let told = self.latencies.iter().filter(|(_, latency)| !latency.is_empty());
        told.map(|(metric, latency)| (metric.clone(), latency.distribution())).collect()
    }

    fn nested(&self) -> BTreeMap<String, CountValue> {
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

    fn take(&mut self, flow: &Flow) {
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
fn adds_up(name: &str) -> bool {
    static STATES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let states = signal::counts().filter(|(_, _, count)| !count.adds_up);
        states.map(|(_, _, count)| count.name).collect()
    });
    !STATES.contains(name)
}

/// A distribution with these percentiles: each sample is taken for the next one above it.
fn approximate(distribution: &Distribution) -> Latency {
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

/// One flow of the window.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As in snapshots.
    pub id: String,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// `tcp` or `udp`.
    pub protocol: Option<String>,
    /// Client or server, where the opening was seen.
    pub role: Option<Role>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// What its client sends to, where that is translated on the way.
    pub service: Option<Endpoint>,
    /// Who answers then.
    pub backend: Option<Endpoint>,
    /// The other end's flow id where both ends are on this node.
    pub pair: Option<String>,
    /// The socket is gone.
    pub closed: bool,
    /// Smoothed round-trip time, the last that was told.
    pub srtt_ns: Option<u64>,
    /// What the path takes at its best, the smallest that was told.
    pub rtt_min_ns: Option<u64>,
    /// Congestion window in segments, the last that was told.
    pub cwnd: Option<u32>,
    /// Intervals in which something was heard of it.
    pub intervals: u32,
    /// What it counted.
    pub sums: Sums,
    /// How it went.
    pub course: Course,
    extents: BTreeMap<String, Extent>,
}

impl Seen {
    fn new(flow: &Flow) -> Self {
        Self {
            id: flow.id.clone(),
            local: flow.local.clone(),
            peer: flow.peer.clone(),
            netns: flow.netns,
            protocol: flow.protocol.clone(),
            role: flow.role,
            owner: flow.owner.clone(),
            service: None,
            backend: None,
            pair: flow.pair.clone(),
            closed: false,
            srtt_ns: None,
            rtt_min_ns: None,
            cwnd: None,
            intervals: 0,
            sums: Sums::default(),
            course: Course::default(),
            extents: BTreeMap::new(),
        }
    }

    /// Adds an interval that began at `at` seconds of the window.
    fn take(&mut self, flow: &Flow, at: f64, seconds: f64) {
        for (name, value) in &flow.counts {
            if let CountValue::Number(Some(value)) = value
                && !adds_up(name)
            {
                self.extents.entry(name.clone()).or_default().take(*value);
            }
        }
        self.role = flow.role.or(self.role);
        if flow.owner.pid.is_some() {
            self.owner = flow.owner.clone();
        }
        self.pair = flow.pair.clone().or(self.pair.take());
        self.translated(flow.service.as_ref(), flow.backend.as_ref());
        self.closed |= flow.closed;
        self.srtt_ns = flow.srtt_ns.or(self.srtt_ns);
        self.rtt_min_ns = [flow.rtt_min_ns, self.rtt_min_ns].into_iter().flatten().min();
        self.cwnd = flow.cwnd.or(self.cwnd);
        self.intervals += 1;
        self.sums.take(flow);
        self.course.take(flow, at, seconds);
    }

    /// Adds a later window of the same flow.
    pub fn follow(&mut self, later: &Self) {
        self.role = later.role.or(self.role);
        if later.owner.pid.is_some() {
            self.owner = later.owner.clone();
        }
        self.translated(later.service.as_ref(), later.backend.as_ref());
        self.closed |= later.closed;
        self.srtt_ns = later.srtt_ns.or(self.srtt_ns);
        self.rtt_min_ns = [later.rtt_min_ns, self.rtt_min_ns].into_iter().flatten().min();
        self.cwnd = later.cwnd.or(self.cwnd);
        self.intervals += later.intervals;
        self.sums.add(&later.sums);
        self.course = later.course;
    }

    fn translated(&mut self, service: Option<&Endpoint>, backend: Option<&Endpoint>) {
        if service.is_some() {
            (self.service, self.backend) = (service.cloned(), backend.cloned());
        }
    }

    /// The end that answers a client: behind a translation, where there is one.
    #[must_use]
    pub fn server(&self) -> &Endpoint {
        self.backend.as_ref().unwrap_or(&self.peer)
    }

    /// Between what a state was; none where it was never told.
    #[must_use]
    pub fn extent(&self, state: &str) -> Option<Extent> {
        self.extents.get(state).copied()
    }

    /// As snapshots have it.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow {
            id: self.id.clone(),
            local: self.local.clone(),
            peer: self.peer.clone(),
            netns: self.netns,
            protocol: self.protocol.clone(),
            role: self.role,
            owner: self.owner.clone(),
            service: self.service.clone(),
            backend: self.backend.clone(),
            pair: self.pair.clone(),
            peer_owner: None,
            closed: self.closed,
            srtt_ns: self.srtt_ns,
            rtt_min_ns: self.rtt_min_ns,
            cwnd: self.cwnd,
            group: None,
            metrics: self.sums.metrics(),
            counts: self.sums.nested(),
        }
    }

    /// Whether both ends are on this node.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.pair.is_some()
    }

    /// Whether this end asked for the connection.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.role == Some(Role::Client)
    }
}

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
    /// Whether filters narrowed the flows.
    pub filtered: bool,
    /// The flows by id.
    pub flows: BTreeMap<String, Seen>,
    /// Sum of all that are not told apart.
    pub other: Sums,
    /// Who made entries of the connection tracking table, the most first.
    pub creators: Vec<TopCreator>,
    /// The intervals, in order.
    pub intervals: Vec<Interval>,
    /// Latencies interval by interval, also of the windows before this one.
    pub series: Arc<Series>,
    lost_before: HashMap<String, u64>,
}

impl Watched {
    /// A window that follows on this one.
    #[must_use]
    pub fn next(&self) -> Self {
        let lost_before = self.lost_before.clone();
        Self { lost_before, series: Arc::clone(&self.series), ..Self::default() }
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
            self.lose(signal, account);
        }
        for flow in &snapshot.flows {
            let has_room = self.flows.len() < MOST_FLOWS;
            match self.flows.get_mut(&flow.id) {
                Some(seen) => seen.take(flow, at, seconds),
                None if has_room => {
                    let mut seen = Seen::new(flow);
                    seen.take(flow, at, seconds);
                    self.flows.insert(flow.id.clone(), seen);
                }
                None => self.other.take(flow),
            }
        }
        self.other.take(&snapshot.other);
        Arc::make_mut(&mut self.series).take(snapshot, seconds);
        let creators = snapshot.conntrack.as_ref().map_or(&[][..], |told| &told.creators);
        creators.iter().for_each(|creator| self.creator(creator));
    }

    /// Accounts are told since the start of a run, which begins anew where they fall.
    fn lose(&mut self, signal: &str, account: &Account) {
        let lost = account.lost();
        let before = self.lost_before.insert(signal.to_owned(), lost).unwrap_or(0);
        let fresh = if lost >= before { lost - before } else { lost };
        *self.lost.entry(signal.to_owned()).or_default() += fresh;
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
