//! Windows for the tests of rules, built piece by piece.

use std::collections::BTreeMap;

use super::Watched;
use crate::{
    signal,
    snapshot::{
        Account, CountValue, Distribution, Endpoint, Flow, Grouping, Node, Own, Owner, Role,
        SignalStatus, Snapshot, Status, Stream,
        node::{Part, SocketMemory},
    },
};
use netdiag_common::signal::Signal;

/// Network namespace of everything here.
pub(crate) const NETNS: u32 = 4_026_532_177;

/// A flow of process `shop` (812) from 10.0.0.1:40000 to 10.0.0.2:443, a client.
pub(crate) fn flow(id: &str) -> Flow {
    Flow {
        id: id.to_owned(),
        local: end("10.0.0.1", 40_000),
        peer: end("10.0.0.2", 443),
        netns: Some(NETNS),
        protocol: Some("tcp".to_owned()),
        role: Some(Role::Client),
        owner: Owner { pid: Some(812), comm: Some("shop".to_owned()), ..Owner::default() },
        service: None,
        backend: None,
        pair: None,
        peer_owner: None,
        closed: false,
        srtt_ns: None,
        rtt_min_ns: None,
        cwnd: None,
        group: None,
        metrics: BTreeMap::new(),
        counts: BTreeMap::new(),
    }
}

/// What 10.0.0.1 asks of a server of names.
pub(crate) fn asker(ip: &str) -> Flow {
    Flow {
        local: Endpoint { port: None, ..end("10.0.0.1", 0) },
        protocol: Some("udp".to_owned()),
        owner: Owner::default(),
        ..flow(ip).to(ip, 53)
    }
}

pub(crate) fn end(ip: &str, port: u16) -> Endpoint {
    Endpoint { ip: Some(ip.parse().expect("an address")), port: Some(port) }
}

impl Flow {
    /// The other end.
    pub(crate) fn to(mut self, ip: &str, port: u16) -> Self {
        self.peer = end(ip, port);
        self
    }

    /// That other end is a service's, and this one answers.
    pub(crate) fn behind(mut self, ip: &str, port: u16) -> Self {
        self.service = Some(self.peer.clone());
        self.backend = Some(end(ip, port));
        self
    }

    /// A server's end: at 10.0.0.1:`port`, with clients at 10.0.0.2.
    pub(crate) fn serving(mut self, port: u16) -> Self {
        self.role = Some(Role::Server);
        self.local = end("10.0.0.1", port);
        self.peer = end("10.0.0.2", 40_000);
        self
    }

    /// The process.
    pub(crate) fn of(mut self, pid: u32, comm: &str) -> Self {
        self.owner = Owner { pid: Some(pid), comm: Some(comm.to_owned()), ..Owner::default() };
        self
    }

    /// A count that a signal defines, or one of a group by `group.key`.
    #[track_caller]
    pub(crate) fn count(mut self, name: &str, n: u64) -> Self {
        assert!(is_count(name), "no signal counts `{name}`");
        match name.split_once('.') {
            None => {
                self.counts.insert(name.to_owned(), CountValue::Number(Some(n)));
            }
            Some((group, key)) => {
                let entry = self.counts.entry(group.to_owned());
                let entry = entry.or_insert_with(|| CountValue::Group(BTreeMap::new()));
                if let CountValue::Group(keys) = entry {
                    keys.insert(key.to_owned(), Some(n));
                }
            }
        }
        self
    }

    /// So many samples of a metric that a signal defines, all the same.
    #[track_caller]
    pub(crate) fn latency(mut self, metric: &str, count: u64, ns: u64) -> Self {
        let is_metric = signal::metrics().any(|(_, _, one)| one.name == metric);
        assert!(is_metric, "no signal measures `{metric}`");
        let ns = Some(ns);
        let distribution = Distribution {
            count,
            min_ns: ns,
            p50_ns: ns,
            p90_ns: ns,
            p99_ns: ns,
            p999_ns: ns,
            max_ns: ns,
            out_of_range: 0,
        };
        self.metrics.insert(metric.to_owned(), distribution);
        self
    }

    /// The same of samples that differ: the quickest takes a quarter of the slowest, and half of them three at most.
    #[track_caller]
    pub(crate) fn latencies(self, metric: &str, count: u64, most_ns: u64) -> Self {
        let mut flow = self.latency(metric, count, most_ns);
        if let Some(told) = flow.metrics.get_mut(metric) {
            (told.min_ns, told.p50_ns) = (Some(most_ns / 4), Some(most_ns / 4 * 3));
        }
        flow
    }

    /// The path.
    pub(crate) fn path(mut self, rtt_min_ns: u64) -> Self {
        self.rtt_min_ns = Some(rtt_min_ns);
        self.srtt_ns = Some(rtt_min_ns);
        self
    }
}

/// Whether a signal counts that of flows: by its name, or by a key of the kernel's in its group.
fn is_count(name: &str) -> bool {
    let group = name.split_once('.').map(|(group, _)| group);
    let mut counts = signal::counts().map(|(_, _, count)| count);
    counts.any(|one| if one.labelled { group == Some(one.name) } else { one.name == name })
}

/// A snapshot of an interval that begins at that second and takes one, with every signal on.
pub(crate) fn snapshot(second: u64, flows: Vec<Flow>) -> Snapshot {
    let at = |second: u64| {
        let (hour, minute) = (14 + second / 3_600, second / 60 % 60);
        format!("2026-11-28T{hour}:{minute:02}:{:02}.000000000Z", second % 60)
    };
    let status = |signal: &Signal| SignalStatus {
        signal: signal.name().to_owned(),
        status: Status::Full,
        source: Some("tp_btf".to_owned()),
        refused: Vec::new(),
        missing: Vec::new(),
        runs_per: None,
        unseen_counts: Vec::new(),
        shed: false,
    };
    let nowhere = Endpoint { ip: None, port: None };
    Snapshot {
        schema: "netdiag.snapshot/1".to_owned(),
        start: at(second),
        end: at(second + 1),
        host: "node-1".to_owned(),
        kernel: "6.12.0".to_owned(),
        signals: Signal::ALL.iter().map(status).collect(),
        by: Grouping::Flow,
        flows,
        other: Flow {
            local: nowhere.clone(),
            peer: nowhere,
            netns: None,
            protocol: None,
            role: None,
            owner: Owner::default(),
            ..flow("other")
        },
        folded: Some(0),
        conntrack: None,
        filtered: false,
        node: Node::default(),
        own: Own::default(),
        accounting: Signal::ALL
            .iter()
            .map(|signal| (signal.name().to_owned(), Account::default()))
            .collect(),
        stream: Stream::default(),
        complete: true,
    }
}

/// A window of these flows in ten intervals of a second, in each of which they count all that again.
pub(crate) fn watched(flows: &[Flow]) -> Watched {
    with_node(flows, |_| {})
}

/// A window of ten intervals of a second, in each of which these flows count that.
pub(crate) fn series(flows: impl Fn(u64) -> Vec<Flow>) -> Watched {
    let mut watched = Watched::default();
    for second in 0..10 {
        watched.take(&snapshot(second, flows(second)));
    }
    watched
}

/// A window in whose first second these flows count that, and nothing does in the other nine.
pub(crate) fn once(flows: impl IntoIterator<Item = Flow>) -> Watched {
    let flows: Vec<_> = flows.into_iter().collect();
    series(|second| if second == 0 { flows.clone() } else { vec![] })
}

/// As [`watched`], with what the node says of itself in each interval.
pub(crate) fn with_node(flows: &[Flow], node: impl Fn(&mut Node)) -> Watched {
    with_nodes(flows, |_, told| node(told))
}

/// The same, by the second in which the interval begins.
pub(crate) fn with_nodes(flows: &[Flow], node: impl Fn(u64, &mut Node)) -> Watched {
    let mut watched = Watched::default();
    for second in 0..10 {
        let mut snapshot = snapshot(second, flows.to_vec());
        node(second, &mut snapshot.node);
        watched.take(&snapshot);
    }
    watched
}

/// What the kernel's TCP counted in an interval.
pub(crate) fn tcp(node: &mut Node, counter: &str, n: u64) {
    node.tcp.entry(NETNS).or_default().insert(counter.to_owned(), n);
}

impl Node {
    /// As if a part of it could not be read.
    pub(crate) fn without(mut self, part: Part) -> Self {
        match part {
            Part::Tcp => self.tcp.clear(),
            Part::Protocols => {
                self.ip.clear();
                self.udp.clear();
                self.icmp.clear();
            }
            Part::Sockets => {
                self.sockets.clear();
                self.ports.clear();
                self.listen_queues.clear();
            }
            Part::Listeners => self.listeners.clear(),
            Part::Interfaces => self.interfaces.clear(),
            Part::Speeds => self.interfaces.iter_mut().for_each(|one| one.speed_bits = None),
            Part::Qdiscs => self.qdiscs.clear(),
            Part::Routes => self.route_mtus.clear(),
            Part::Softnet => self.softnet.clear(),
            Part::Cpu => self.cpu = None,
            Part::Cgroups => self.throttled.clear(),
            Part::Memory => self.memory = SocketMemory::default(),
            Part::Netfilter => self.netfilter.clear(),
            Part::Conntrack => self.conntrack.clear(),
        }
        self
    }
}

/// Process `name` with id 812.
pub(crate) fn owner(name: &str) -> Owner {
    Owner { pid: Some(812), comm: Some(name.to_owned()), ..Owner::default() }
}
