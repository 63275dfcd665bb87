//! What the node says of itself: its own counters and states, by network namespace.
//!
//! Increases are those of the interval, or in a total of the run; states are those at the end. Lists
//! are sorted and bounded.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Owner};

mod interfaces;
mod load;
mod rules;
mod sockets;
mod unread;

pub use self::{
    interfaces::{Interface, PeerInterface, Qdisc, RouteMtu},
    load::{Cpu, CpuShare, MemoryUse, Pressure, SocketMemory, Softnet, Throttled},
    rules::{RuleTable, Settings},
    sockets::{HeldSockets, ListenQueue, OLD_NS, PortUse, Ports, SocketGroup, Sockets, States},
    unread::{Part, Unread},
};

/// Counters by the kernel's name, by inode number of the network namespace. One that this kernel does
/// not have is absent; a namespace that could not be read is, too.
pub type NamespaceCounters = BTreeMap<u32, BTreeMap<String, u64>>;

/// What the node says of itself in the interval; whole, whatever the filters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Increase of the kernel's TCP counters (`/proc/net/snmp`, `/proc/net/netstat`) by network
    /// namespace inode, then counter name.
    pub tcp: NamespaceCounters,
    /// Increase of its IP counters, likewise: `InDiscards` is IPv4's, `Ip6InDiscards` IPv6's.
    pub ip: NamespaceCounters,
    /// Increase of its UDP counters, likewise: `Udp6` begins those of IPv6.
    pub udp: NamespaceCounters,
    /// Increase of its ICMP counters, likewise: `Icmp6` begins those of IPv6. `InType3` are the ICMP
    /// messages that something is unreachable, that a packet is too big among them.
    pub icmp: NamespaceCounters,
    /// TCP sockets by state, in the namespaces that have any.
    pub sockets: Vec<Sockets>,
    /// Local ports that connecting sockets were given, in the namespaces that have any.
    pub ports: Vec<Ports>,
    /// Listeners that dropped connection requests, those of which the kernel told.
    pub listeners: Vec<Listener>,
    /// Listeners whose queue of connections that wait, or of requests, is more than half full; the
    /// fullest first, at most twenty.
    pub listen_queues: Vec<ListenQueue>,
    /// Network interfaces, by namespace and index.
    pub interfaces: Vec<Interface>,
    /// Interfaces beyond those listed; null when unknown.
    pub interfaces_left_out: Option<u64>,
    /// Queueing disciplines that hold packets or refused any, and those that limit a rate.
    pub qdiscs: Vec<Qdisc>,
    /// Routes that set an MTU of their own, at most a hundred.
    pub route_mtus: Vec<RouteMtu>,
    /// What CPUs took from network cards and virtual links, those that took anything.
    pub softnet: Vec<Softnet>,
    /// How busy the CPUs were; null when it could not be read.
    pub cpu: Option<Cpu>,
    /// Control groups that their CPU limit held back, the longest first, at most twenty.
    pub throttled: Vec<Throttled>,
    /// Control groups that have a CPU limit and are not followed, or that nobody looked at for one, at
    /// least; null when unknown.
    pub cgroups_left_out: Option<u64>,
    /// Memory that sockets take.
    pub memory: SocketMemory,
    /// Packet filter rules by namespace and table. Counted now and then only.
    pub netfilter: Vec<RuleTable>,
    /// Settings that limit connections, by namespace.
    pub settings: Vec<Settings>,
    /// Connection tracking, in the namespaces where anything is tracked or was ever counted.
    pub conntrack: Vec<ConntrackTable>,
    /// What could not be read, this time and the time before; at most one for each part.
    #[serde(default)]
    pub unread: Vec<Unread>,
    /// `own.cpu_ns` of the snapshot, for those who look for it here.
    pub own_cpu_ns: Option<u64>,
    /// `own.resident_bytes` likewise.
    pub own_resident_bytes: Option<u64>,
}

impl Node {
    /// The processes that it names.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let listeners = self.listeners.iter().map(|one| &one.owner);
        let queues = self.listen_queues.iter().map(|one| &one.owner);
        let held = self.sockets.iter().flat_map(|one| &one.close_wait).map(|one| &one.owner);
        let ports = self.ports.iter().flat_map(|one| &one.destinations).map(|one| &one.owner);
        let throttled = self.throttled.iter().map(|one| &one.owner);
        listeners.chain(queues).chain(held).chain(ports).chain(throttled)
    }

    /// The same, to be named.
    pub fn owners_mut(&mut self) -> impl Iterator<Item = &mut Owner> {
        let listeners = self.listeners.iter_mut().map(|one| &mut one.owner);
        let queues = self.listen_queues.iter_mut().map(|one| &mut one.owner);
        let held = self.sockets.iter_mut().flat_map(|one| &mut one.close_wait);
        let ports = self.ports.iter_mut().flat_map(|one| &mut one.destinations);
        let held = held.map(|one| &mut one.owner);
        let ports = ports.map(|one| &mut one.owner);
        let throttled = self.throttled.iter_mut().map(|one| &mut one.owner);
        listeners.chain(queues).chain(held).chain(ports).chain(throttled)
    }
}

/// Both, as far as they are known.
#[must_use]
pub fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).reduce(u64::saturating_add)
}

/// A listener that dropped connection requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listener {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Where it listens.
    pub local: Endpoint,
    /// The process that holds it.
    pub owner: Owner,
    /// Connection requests that it dropped in the interval, for a full accept queue or another reason.
    pub drops: u64,
    /// Connections that waited to be accepted when it was asked.
    pub accept_queue: u32,
    /// How many may wait; one more is let in.
    pub accept_queue_limit: u32,
}

/// What connection tracking says of itself in one network namespace. Increases are those of the
/// interval; null is what this kernel does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConntrackTable {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Connections in the table at the end.
    pub entries: u64,
    /// How many may be, at the end (`nf_conntrack_max`); null where there is no limit.
    pub max: Option<u64>,
    /// Increase of connections that could not be put in. Their packets were dropped.
    pub insert_failed: Option<u64>,
    /// Increase of packets that were dropped, because the table was full or, most of `insert_failed`,
    /// because their connection could not be put in.
    pub drop: Option<u64>,
    /// Increase of connections that were thrown out before their time, to make room in a full table.
    pub early_drop: Option<u64>,
    /// Increase of clashes that were settled: two packets at once began the same connection.
    pub clash_resolve: Option<u64>,
    /// Increase of packets that are part of no connection and cannot begin one.
    pub invalid: Option<u64>,
    /// Increase of connections that could not be put in because their hash chain was too long.
    pub chaintoolong: Option<u64>,
}
