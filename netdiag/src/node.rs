//! What the node says of itself, without any program in the kernel: its network namespaces, its
//! TCP sockets and their owners, its TCP counters, its connection tracking, and what netdiag costs
//! it.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::Ipv6Addr,
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use netdiag_common::flow::{FlowKey, TcpCounters, TcpDetail};

use self::{conntrack::listener::Message, netns::Depth, places::Places, sockets::Socket};
use crate::{clock, owner::Place};

pub mod beside;
pub mod census;
pub mod cgroups;
pub mod conntrack;
pub mod cpu;
pub mod ethtool;
pub mod files;
pub mod links;
pub mod listeners;
pub mod memory;
pub mod mounts;
mod netlink;
pub mod netns;
pub mod own;
pub mod owners;
pub mod pace;
pub mod places;
pub mod proc;
pub mod protocols;
pub mod qdiscs;
pub mod reading;
pub mod routes;
pub mod ruleset;
pub mod settings;
pub mod sockets;
pub mod surroundings;
pub mod tcp_counters;
pub mod vantage;
pub mod within;

/// A socket that was there before the first program was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeededSocket {
    /// The conversation; a listener's peer is all zero.
    pub key: FlowKey,
    /// The kernel's socket cookie: unique on the node since boot.
    pub cookie: u64,
    /// TCP state (`include/net/tcp_states.h`).
    pub state: u8,
    /// Process id (tgid) of its owner; see [`owners`] on which one when several hold it.
    pub pid: Option<u32>,
    /// Name of that process.
    pub comm: Option<String>,
    /// Where it lives.
    pub place: Option<Arc<Place>>,
    /// Its counters; none for listeners and where the kernel does not tell.
    pub tcp: Option<TcpCounters>,
    /// What else the kernel tells of it.
    pub detail: Option<TcpDetail>,
    /// Whether it is the end that connected, where that can be told.
    pub asks: Option<bool>,
}

impl SeededSocket {
    /// By what the programs find its owner, and that.
    #[must_use]
    pub fn owned(&self) -> Option<(FlowKey, u32)> {
        let is_listener = self.key.peer_port == 0;
        Some((if is_listener { listener_key(self.key) } else { self.key }, self.pid?))
    }
}

/// The TCP sockets of the node at one time.
#[derive(Clone, Debug, Default)]
pub struct Seeds {
    /// Conversations, in every namespace that could be entered.
    pub sockets: Vec<SeededSocket>,
    /// Listeners, likewise.
    pub listeners: Vec<SeededSocket>,
    /// Entries of connection tracking that translate the addresses of one of them.
    pub translated: Vec<Message>,
    /// What could not be had, one line each.
    pub problems: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Seeds {
    /// What the programs have to know of owners for filters. A listener on all addresses has an address of all
    /// zero, whatever its family.
    pub fn owners(&self) -> impl Iterator<Item = (FlowKey, u32)> + '_ {
        self.sockets.iter().chain(&self.listeners).filter_map(SeededSocket::owned)
    }

    /// The processes that hold the most of these sockets, first the one with most, as `812 (nginx)`.
    #[must_use]
    pub fn holders(&self) -> Vec<String> {
        let mut held: HashMap<u32, (usize, &str)> = HashMap::new();
        for socket in self.sockets.iter().chain(&self.listeners) {
            if let Some(pid) = socket.pid {
                let comm = socket.comm.as_deref().unwrap_or("?");
                held.entry(pid).or_insert((0, comm)).0 += 1;
            }
        }
        let mut held: Vec<_> = held.into_iter().collect();
        held.sort_unstable_by_key(|&(pid, (sockets, _))| (Reverse(sockets), pid));
        held.into_iter().map(|(pid, (_, comm))| format!("{pid} ({comm})")).collect()
    }
}

/// The key of a listener as [`Seeds::owners`] has it.
fn listener_key(key: FlowKey) -> FlowKey {
    let unspecified = Ipv6Addr::from(key.local_addr).to_canonical().is_unspecified();
    FlowKey {
        local_addr: if unspecified { [0; 16] } else { key.local_addr },
        peer_addr: [0; 16],
        peer_port: 0,
        ..key
    }
}

/// Ports that the kernel gives sockets which connect, unless it is set otherwise
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

/// Whether an end is the one that connected: where somebody listens at its address it is not, and with
/// a port that the kernel gave it to a port that it does not give, it is.
fn asks(listeners: &HashSet<FlowKey>, key: &FlowKey) -> Option<bool> {
    let there = listener_key(*key);
    if listeners.contains(&there) || listeners.contains(&FlowKey { local_addr: [0; 16], ..there }) {
        return Some(false);
    }
    let connected = EPHEMERAL.contains(&key.local_port) && !EPHEMERAL.contains(&key.peer_port);
    connected.then_some(true)
}

/// Asks the kernel for every TCP socket of the node, and the procfs under `host_root` for their
/// owners, and where wanted connection tracking for where these are translated to. Blocks; nothing fails as a
/// whole, what is missing is in [`Seeds::problems`].
#[must_use]
pub fn seed(host_root: &Path, translates: bool) -> Seeds {
    let start = Instant::now();
    // A process that began later is not the one that was found to hold a socket.
    let began_ns = clock::monotonic_ns();
    let netns::Found { namespaces, mut problems } = netns::find(host_root, Depth::Everything);
    let mut dump = sockets::dump_all(&namespaces, &sockets::FULL);
    problems.append(&mut dump.problems);
    let inodes: HashSet<u64> =
        dump.sockets.iter().chain(&dump.listeners).map(|socket| socket.inode).collect();
    let owners = owners::find(host_root, &inodes).unwrap_or_else(|problem| {
        problems.push(problem);
        owners::Owners::default()
    });
    problems.extend(owners.problem());
    let ends = dump.sockets.iter().filter(|_| translates);
    let ends: HashSet<FlowKey> = ends.map(|socket| FlowKey { netns: 0, ..socket.key }).collect();
    let translated = conntrack::dump::translated(&namespaces, &ends, &mut problems);
    let mut places = Places::begin(host_root);
    problems.extend(places.problem());
    let listeners = dump.listeners.iter().map(|listener| listener_key(listener.key)).collect();
    let mut seeded = |socket: Socket| {
        let owner = owners.by_inode.get(&socket.inode);
        let place = owner.and_then(|owner| places.of(Some(owner.pid), None, began_ns));
        SeededSocket {
            key: socket.key,
            cookie: socket.cookie,
            state: socket.state,
            pid: owner.map(|owner| owner.pid),
            comm: owner.map(|owner| owner.comm.clone()).filter(|comm| !comm.is_empty()),
            place,
            tcp: socket.tcp,
            detail: socket.detail,
            asks: asks(&listeners, &socket.key),
        }
    };
    Seeds {
        sockets: dump.sockets.into_iter().map(&mut seeded).collect(),
        listeners: dump.listeners.into_iter().map(seeded).collect(),
        translated,
        problems,
        took: start.elapsed(),
    }
}

#[cfg(test)]
mod tests;
