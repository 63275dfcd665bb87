//! From the flow table's numbers to a snapshot: sorting, folding the rest into `other`, naming.
//!
//! Two steps, so that screen, dump and stream show the same rows: [`Listing::arrange`] works on the
//! [`Interval`], [`Frame::build`] turns it into the JSON form. Pure: names and times are handed in.

mod choice;
pub(super) mod conntrack;
pub(super) mod owner;
mod sort;

use std::{cmp::Reverse, collections::BTreeMap, time::SystemTime};

use jiff::Timestamp;
use netdiag_common::{flow::FlowKey, signal::Signal};

pub use self::{
    choice::{Lazily, Survey},
    sort::{Sort, Value},
};
use super::{
    Account, CountValue, Distribution, Endpoint, Flow, Group, Node, Own, Owner, SignalStatus,
    Snapshot, Status, Stream, redact::Redactor,
};
use crate::{
    flow::{End, Frozen, Grouping, Interval, latency::Latency, tuples::address},
    labels::Labels,
    signal::{Count, CountId, counts, metrics},
};

/// Which flows are listed and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What makes flows one row.
    pub by: Grouping,
    /// Largest first.
    pub sort: Sort,
    /// How many at most; the rest is folded into `other`. None: all.
    pub top: Option<usize>,
    /// Also flows of which nothing was heard.
    pub all: bool,
    /// Half of those listed may be flows that would be folded and that findings need.
    pub telling: bool,
    /// What is folded is wanted one by one as well ([`Interval::whole`]).
    pub apart: bool,
}

impl Listing {
    /// Groups the flows, sorts them (equal ones by id) and folds into `other` what is not listed. What the
    /// interval adds up to stays the same.
    pub fn arrange(&self, interval: &mut Interval) {
        if !self.all {
            interval.flows.retain(|flow| !flow.idle);
        }
        interval.group(self.by);
        let value = self.sort.value();
        interval.flows.sort_by_cached_key(|flow| (Reverse(value(flow)), flow.id));
        if let Some(top) = self.top {
            if self.telling {
                bring_forward(&mut interval.flows, top);
            }
            if self.apart { interval.keep_apart(top) } else { interval.keep(top) }
        }
        interval.entries.arrange(self.top);
    }
}

/// Moves up to half as many flows as are listed in front of what is not: those of which single flows tell
/// ([`Count::tells`]). The order stays.
fn bring_forward(flows: &mut Vec<Frozen>, top: usize) {
    if flows.len() <= top {
        return;
    }
    let ids = telling();
    let tells = |flow: &Frozen| ids.iter().any(|&id| flow.count(id).is_some_and(|n| n > 0));
    let mut room = top / 2;
    let mut is_first = Vec::with_capacity(flows.len());
    for flow in &*flows {
        let is_one = room > 0 && tells(flow);
        room -= usize::from(is_one);
        is_first.push(is_one);
    }
    let others = is_first.iter_mut().filter(|is_first| !**is_first);
    others.take(top - (top / 2 - room)).for_each(|is_first| *is_first = true);
    let all = std::mem::take(flows).into_iter().zip(is_first);
    let (first, rest): (Vec<_>, Vec<_>) = all.partition(|(_, is_first)| *is_first);
    flows.extend(first.into_iter().chain(rest).map(|(flow, _)| flow));
}

/// Counts that findings need single flows of.
fn telling() -> Vec<CountId> {
    counts().filter(|(_, _, count)| count.tells).map(|(id, ..)| id).collect()
}

/// What a snapshot speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One interval: `netdiag.snapshot/1`.
    Interval,
    /// The whole run: `netdiag.total/1`.
    Total,
}

impl Scope {
    /// Value of `schema`.
    #[must_use]
    pub const fn schema(self) -> &'static str {
        match self {
            Self::Interval => "netdiag.snapshot/1",
            Self::Total => "netdiag.total/1",
        }
    }
}

/// Everything in a snapshot but the flows.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Interval or run.
    pub scope: Scope,
    /// What makes flows one row.
    pub by: Grouping,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Name of the node.
    pub host: &'a str,
    /// Kernel release.
    pub kernel: &'a str,
    /// What the kernel calls what it numbers.
    pub labels: &'a Labels,
    /// How each signal is observed; one that is not in it counts as off.
    pub signals: &'a [SignalStatus],
    /// Whether filters narrow the flows.
    pub filtered: bool,
    /// What the node says of itself.
    pub node: Node,
    /// What netdiag itself takes.
    pub own: Own,
    /// Fates of samples by signal.
    pub accounting: BTreeMap<String, Account>,
    /// What userspace received.
    pub stream: Stream,
}

impl<'a> Frame<'a> {
    /// The snapshot with these flows, in their order.
    #[must_use]
    pub fn build(self, interval: &Interval) -> Snapshot {
        let flows = interval.flows.iter().map(|flow| named(flow, self.signals, self.labels));
        let flows = flows.collect();
        self.with(interval, flows)
    }

    /// The same with these flows instead, each of which is named only as it is written, or given a pseudonym.
    pub fn lazily<'b>(
        self,
        rest: &Interval,
        flows: impl Iterator<Item = Frozen> + 'b,
        redactor: Option<&'b Redactor>,
    ) -> Snapshot<Lazily<'b>>
    where
        'a: 'b,
    {
        let (signals, labels, by) = (self.signals, self.labels, self.by);
        let flows = flows.map(move |flow| {
            let mut flow = named(&flow, signals, labels);
            redactor.iter().for_each(|it| it.flow(&mut flow, by));
            flow
        });
        let mut snapshot = self.with(rest, Lazily::new(flows));
        redactor.iter().for_each(|it| it.rest(&mut snapshot));
        snapshot
    }

    fn with<F>(self, interval: &Interval, flows: F) -> Snapshot<F> {
        let submitted: u64 = self.accounting.values().map(|account| account.submitted).sum();
        // While a run goes on, samples are on their way between the two readings.
        let arrived = self.scope == Scope::Interval || submitted == self.stream.received;
        let lost: u64 = self.accounting.values().map(Account::lost).sum();
        Snapshot {
            schema: self.scope.schema().to_owned(),
            start: rfc3339(self.start),
            end: rfc3339(self.end),
            host: self.host.to_owned(),
            kernel: self.kernel.to_owned(),
            signals: self.signals.to_vec(),
            by: self.by,
            flows,
            other: Flow {
                id: "other".to_owned(),
                ..unnamed(&interval.other, self.signals, self.labels)
            },
            folded: Some(interval.folded),
            conntrack: conntrack::build(
                &interval.entries,
                self.signals,
                &self.accounting,
                self.labels,
            ),
            filtered: self.filtered,
            node: Node {
                own_cpu_ns: self.own.cpu_ns,
                own_resident_bytes: self.own.resident_bytes,
                ..self.node
            },
            own: self.own,
            accounting: self.accounting,
            stream: self.stream,
            complete: lost == 0 && self.stream.malformed == 0 && arrived,
        }
    }
}

/// A time as RFC 3339 in UTC, always with nine digits of fraction.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    // Outside of jiff's years -9999 to 9999: no clock of a running machine says so.
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
}

/// A flow's id in outputs and dump tags.
#[must_use]
pub fn flow_name(id: u64) -> String {
    format!("f{id}")
}

/// The same of a row, which may be a group.
#[must_use]
pub fn row_name(row: &Frozen) -> String {
    row.group.as_ref().map_or_else(|| flow_name(row.id), |group| group.id())
}

/// The two ends of a key.
#[must_use]
pub fn endpoints(key: &FlowKey) -> (Endpoint, Endpoint) {
    // An ICMP message has no port, an unconnected socket no peer.
    let end = |bytes, port: u16| Endpoint {
        ip: Some(address(bytes)).filter(|ip| port != 0 || !ip.is_unspecified()),
        port: Some(port).filter(|port| *port != 0),
    };
    (end(key.local_addr, key.local_port), end(key.peer_addr, key.peer_port))
}

/// What a conversation was addressed to, and who answers; none where that is not known to be translated.
pub(super) fn translated(flow: &Frozen) -> (Option<Endpoint>, Option<Endpoint>) {
    let end = |(ip, port): End| Endpoint { ip: Some(address(ip)), port: Some(port) };
    let translation = flow.translation.as_deref();
    translation.map(|it| (end(it.service), end(it.backend))).unzip()
}

/// `tcp` or `udp`.
pub(super) fn protocol_name(key: &FlowKey) -> Option<String> {
    conntrack::protocol(key.protocol)
}

/// A row with names and units, as in a snapshot.
#[must_use]
pub fn named(flow: &Frozen, signals: &[SignalStatus], labels: &Labels) -> Flow {
    let (local, peer) = endpoints(&flow.key);
    let (service, backend) = translated(flow);
    Flow {
        id: row_name(flow),
        local,
        peer,
        netns: (flow.key.netns != 0).then_some(flow.key.netns),
        protocol: protocol_name(&flow.key),
        role: flow.role,
        owner: owner::of_flow(flow, labels),
        service,
        backend,
        pair: flow.pair.map(flow_name),
        peer_owner: flow.peer.as_ref().map(|peer| owner::of(peer, labels)),
        closed: flow.closed,
        srtt_ns: flow.srtt_ns,
        rtt_min_ns: flow.rtt_min_ns,
        cwnd: flow.cwnd,
        group: flow.group.as_ref().map(|it| Group { name: it.name.clone(), flows: it.flows }),
        ..unnamed(flow, signals, labels)
    }
}

/// Metrics and counts; nothing of who and what it is.
fn unnamed(flow: &Frozen, signals: &[SignalStatus], labels: &Labels) -> Flow {
    let nowhere = Endpoint { ip: None, port: None };
    Flow {
        id: String::new(),
        local: nowhere.clone(),
        peer: nowhere,
        netns: None,
        protocol: None,
        role: None,
        owner: Owner::default(),
        service: None,
        backend: None,
        pair: None,
        peer_owner: None,
        closed: false,
        srtt_ns: None,
        rtt_min_ns: None,
        cwnd: None,
        group: None,
        metrics: distributions(flow),
        counts: values(flow, signals, labels),
    }
}

impl Latency {
    /// Count, extremes and percentiles.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        Distribution {
            count: self.count(),
            min_ns: self.min(),
            p50_ns: self.quantile(0.5),
            p90_ns: self.quantile(0.9),
            p99_ns: self.quantile(0.99),
            p999_ns: self.quantile(0.999),
            max_ns: self.max(),
            out_of_range: self.out_of_range(),
        }
    }
}

fn distributions(flow: &Frozen) -> BTreeMap<String, Distribution> {
    metrics()
        .filter_map(|(id, _, metric)| Some((metric, flow.latency(id)?)))
        .filter(|(_, latency)| !latency.is_empty())
        .map(|(metric, latency)| (metric.name.to_owned(), latency.distribution()))
        .collect()
}

/// Every count of every signal: its number, 0 where its source works, saw none and left none out, else null.
pub(super) fn values(
    flow: &Frozen,
    signals: &[SignalStatus],
    labels: &Labels,
) -> BTreeMap<String, CountValue> {
    let mut values = BTreeMap::new();
    let is_any_shed = signals.iter().any(|status| status.shed);
    for (id, signal, count) in counts() {
        let seen = is_seen(signal, count, signals);
        let shed = is_any_shed && is_shed(signal, count, signals);
        if count.labelled {
            let is_known = seen && (!shed || flow.labels(id).next().is_some());
            let value =
                if is_known { by_label(flow, id, labels) } else { CountValue::Number(None) };
            values.insert(count.name.to_owned(), value);
            continue;
        }
        let value = match (count.absent_is_zero, seen) {
            (true, true) => Some(flow.count(id).unwrap_or(0)).filter(|n| *n > 0 || !shed),
            (true, false) => None,
            (false, _) => flow.count(id),
        };
        let Some((group, key)) = count.name.split_once('.') else {
            values.insert(count.name.to_owned(), CountValue::Number(value));
            continue;
        };
        let entry =
            values.entry(group.to_owned()).or_insert_with(|| CountValue::Group(BTreeMap::new()));
        if let CountValue::Group(keys) = entry {
            keys.insert(key.to_owned(), value);
        }
    }
    values
}

/// Numbers by name: a function has many places.
fn by_label(flow: &Frozen, count: CountId, labels: &Labels) -> CountValue {
    let mut keys = BTreeMap::new();
    for (label, n) in flow.labels(count) {
        let sum = keys.entry(labels.name(label)).or_insert(Some(0));
        *sum = sum.map(|sum: u64| sum.saturating_add(n));
    }
    CountValue::Group(keys)
}

/// Whether a count of a signal could be seen: that signal and those that it needs are on.
#[must_use]
pub fn is_seen(signal: Signal, count: &Count, signals: &[SignalStatus]) -> bool {
    let is_on = |signal: Signal| {
        signals.iter().find(|status| status.signal == signal.name() && status.status != Status::Off)
    };
    is_on(signal).is_some_and(|status| !status.unseen_counts.contains(&count.name))
        && count.needs.iter().all(|&needed| is_on(needed).is_some())
}

/// Whether samples that a count is made of were left out.
fn is_shed(signal: Signal, count: &Count, signals: &[SignalStatus]) -> bool {
    let is_shed =
        |signal: Signal| signals.iter().any(|status| status.shed && status.signal == signal.name());
    let mut others = count.needs.iter().chain(count.pauses_with);
    is_shed(signal) || others.any(|&other| is_shed(other))
}

#[cfg(test)]
mod tests;
