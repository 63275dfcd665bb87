//! Flows by what metrics tell apart: whose they are, which end, and whom they ask. Bounded, and what a group has
//! counted never falls.
//!
//! Who comes first stays. Where several come at once and there is not room for all, those go first that did the
//! most. What has no room is counted in the group `other`, where it stays counted. A group of which nothing was heard
//! for [`KEPT`] makes room for another one: its series end, as do those of a process that ends. Should it come back,
//! it begins at 0, as after a restart.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    family::{Series, Value},
    histogram::Histogram,
    plan::Part,
};
use crate::{
    flow::{End, Frozen, Interval, Role, tuples::address},
    format::{cut, sanitised},
    labels::Labels,
    owner::SHORT_ID,
    signal::{CountId, Label, MetricId},
    snapshot::{SignalStatus, build::is_seen},
};

/// What tells groups apart; empty where it is not known or there is none.
pub const LABELS: [&str; 6] = ["namespace", "pod", "container", "comm", "role", "service"];
/// Columns of a label: names that others chose may be long.
const LABEL_COLUMNS: usize = 128;
/// How long a silent group keeps its place: longer than Prometheus looks back (5 minutes).
const KEPT: Duration = Duration::from_secs(15 * 60);

/// A group, by its labels.
type Key = [Arc<str>; LABELS.len()];

/// What a group has counted.
#[derive(Debug)]
struct Group {
    since: SystemTime,
    /// The end of the last interval in which something was heard of it.
    heard: SystemTime,
    histograms: BTreeMap<MetricId, Histogram>,
    counts: HashMap<CountId, u64>,
    labelled: BTreeMap<(CountId, Arc<str>), u64>,
}

impl Group {
    fn new(since: SystemTime) -> Self {
        Self {
            since,
            heard: since,
            histograms: BTreeMap::new(),
            counts: HashMap::new(),
            labelled: BTreeMap::new(),
        }
    }

    fn add(&mut self, flow: &Frozen, labels: &Labels) {
        for (metric, latency) in flow.latencies.iter().filter(|(_, latency)| latency.count() > 0) {
            self.histograms.entry(*metric).or_default().add(latency);
        }
        for &(count, n) in &flow.counts {
            *self.counts.entry(count).or_default() += n;
        }
        for &((count, label), n) in &flow.labelled {
            *self.labelled.entry((count, named(label, labels))).or_default() += n;
        }
    }
}

fn named(label: Label, labels: &Labels) -> Arc<str> {
    sanitised(&labels.name(label)).into()
}

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    most: usize,
    groups: BTreeMap<Key, Group>,
    other: Group,
    /// Groups of the last interval that are counted there.
    summed_up: usize,
    /// When the last interval ended.
    until: SystemTime,
}

impl Groups {
    pub(super) fn new(most: usize, began: SystemTime) -> Self {
        Self { most, groups: BTreeMap::new(), other: Group::new(began), summed_up: 0, until: began }
    }

    /// Groups that are told apart, and those of the last interval that are not.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.groups.len(), self.summed_up)
    }

    /// Adds an interval that ended at `now`.
    pub(super) fn take(&mut self, interval: &Interval, labels: &Labels, now: SystemTime) {
        let mut fresh: BTreeMap<Key, Vec<&Frozen>> = BTreeMap::new();
        for flow in interval.flows.iter().filter(|flow| did_something(flow)) {
            fresh.entry(key(flow, labels)).or_default().push(flow);
        }
        let mut new: Vec<_> = Vec::new();
        for (key, flows) in fresh {
            match self.groups.get_mut(&key) {
                Some(group) => {
                    group.heard = now;
                    flows.iter().for_each(|flow| group.add(flow, labels));
                }
                None => new.push((key, flows)),
            }
        }
        new.sort_by_cached_key(|(_, flows)| {
            Reverse(flows.iter().map(|flow| samples(flow)).sum::<u64>())
        });
        self.summed_up = 0;
        let mut has_room = true;
        for (key, flows) in new {
            // None falls silent meanwhile: where none makes room now, none does for the rest.
            has_room = has_room && self.makes_room(now);
            let group = if has_room {
                // What it did before, if it did anything, was summed up.
                let new = Group { heard: now, ..Group::new(self.until) };
                self.groups.entry(key).or_insert(new)
            } else {
                self.summed_up += 1;
                &mut self.other
            };
            flows.iter().for_each(|flow| group.add(flow, labels));
        }
        self.other.add(&interval.other, labels);
        self.until = now;
    }

    /// Whether there is room for one more, which a silent group may have to make.
    fn makes_room(&mut self, now: SystemTime) -> bool {
        if self.groups.len() < self.most {
            return true;
        }
        let silent = |group: &Group| now.duration_since(group.heard).is_ok_and(|time| time > KEPT);
        let oldest = self
            .groups
            .iter()
            .filter(|(_, group)| silent(group))
            .min_by_key(|(_, group)| group.heard);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
        self.groups.remove(&key).is_some()
    }

    /// All of them with their labels, `other` last.
    fn all(&self) -> impl Iterator<Item = (Key, &Group)> {
        let other = std::array::from_fn(|_| Arc::from("other"));
        self.groups.iter().map(|(key, group)| (key.clone(), group)).chain([(other, &self.other)])
    }

    /// Series of a latency: of the groups that have samples.
    pub(super) fn histograms(&self, metric: MetricId) -> Vec<Series> {
        let of = |(key, group): (Key, &Group)| {
            let value = Value::Histogram(Box::new(group.histograms.get(&metric)?.distribution()));
            Some(Series { labels: key.to_vec(), since: Some(group.since), value })
        };
        self.all().filter_map(of).collect()
    }

    /// Series of counts: 0 where the source works and saw none.
    pub(super) fn counts(
        &self,
        parts: &[Part],
        scale: f64,
        signals: &[SignalStatus],
    ) -> Vec<Series> {
        let seen: Vec<bool> =
            parts.iter().map(|part| is_seen(part.signal, part.count, signals)).collect();
        let mut series = Vec::new();
        for (key, group) in self.all() {
            for (part, is_seen) in parts.iter().zip(&seen) {
                let none = (part.count.absent_is_zero && *is_seen).then_some(0);
                let Some(n) = group.counts.get(&part.id).copied().or(none) else { continue };
                let labels = key.iter().chain(&part.key).cloned().collect();
                series.push(Series::number(labels, n as f64 / scale).since(group.since));
            }
        }
        series
    }

    /// Series of a count by the kernel's labels: those that came.
    pub(super) fn labelled(&self, wanted: CountId) -> Vec<Series> {
        let mut series = Vec::new();
        for (key, group) in self.all() {
            for ((_, label), n) in group.labelled.iter().filter(|((count, _), _)| *count == wanted)
            {
                let labels = key.iter().chain([label]).cloned().collect();
                series.push(Series::number(labels, *n as f64).since(group.since));
            }
        }
        series
    }
}

fn did_something(flow: &Frozen) -> bool {
    !(flow.latencies.is_empty() && flow.counts.is_empty() && flow.labelled.is_empty())
}

/// Samples of all latencies, for what did more than another.
fn samples(flow: &Frozen) -> u64 {
    flow.latencies.iter().map(|(_, latency)| latency.count()).sum()
}

/// The labels of a flow. Names come from others: what is in them cannot end a line, nor turn one around.
fn key(flow: &Frozen, labels: &Labels) -> Key {
    let place = flow.place.as_deref();
    let pod = place.and_then(|place| labels.owners.pod(place));
    let short = |id: &String| id.chars().take(SHORT_ID).collect::<String>();
    let container = place.and_then(|place| labels.owners.container(place)).map(str::to_owned);
    let container = container.or_else(|| place?.container.as_ref().map(short));
    let uid = || place.and_then(|place| place.pod_uid.clone()).unwrap_or_default();
    let role = match flow.role {
        Some(Role::Client) => "client",
        Some(Role::Server) => "server",
        None => "",
    };
    [
        pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
        pod.map_or_else(uid, |pod| pod.name.clone()),
        container.unwrap_or_default(),
        flow.comm.clone().unwrap_or_default(),
        role.to_owned(),
        service(flow),
    ]
    .map(|text| cut(&sanitised(&text), LABEL_COLUMNS).into())
}

/// Whom a client asks, as it addresses them (before any translation), or the port of a server. Empty where it is not
/// known which end has a port of its own.
fn service(flow: &Frozen) -> String {
    let whole = |(ip, port): End| SocketAddr::new(address(ip), port).to_string();
    let asked = flow.translation.as_deref().map(|translation| whole(translation.service));
    let peer = (flow.key.peer_addr, flow.key.peer_port);
    match flow.role {
        Some(Role::Server) => format!(":{}", flow.key.local_port),
        Some(Role::Client) => asked.unwrap_or_else(|| whole(peer)),
        // Of many questions to one server, told without the ports of those who ask.
        None if flow.key.local_port == 0 && flow.key.peer_port != 0 => {
            asked.unwrap_or_else(|| whole(peer))
        }
        None => asked.unwrap_or_default(),
    }
}
