//! Sockets, the ports they take, and the queues of listeners.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Endpoint, Owner};

/// What is known of sockets and ports is said to be old from here on.
pub const OLD_NS: u64 = 2_000_000_000;

/// How long before the end they were as they are told, for all that is known: they were counted then, and nothing
/// showed since that anything happened.
fn known_ns(age_ns: u64, unchanged_ns: Option<u64>) -> u64 {
    unchanged_ns.unwrap_or(age_ns)
}

/// The TCP sockets of one network namespace, as they were counted last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sockets {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// How long before the end they were counted, in nanoseconds. They are not in every interval where that
    /// takes long, and where nothing happened to them.
    pub age_ns: u64,
    /// How long before the end nothing showed last that anything happened to them since they were counted, in
    /// nanoseconds: no more than `age_ns`, and that where nobody looked. A listener in the place of another one does
    /// not show, nor an end that waits behind data which the peer has no room for. Null in what an older netdiag
    /// recorded.
    pub unchanged_ns: Option<u64>,
    /// How many by state.
    pub states: States,
    /// Processes that hold sockets in CLOSE_WAIT, the most first, at most ten: the peer closed, they
    /// did not.
    pub close_wait: Vec<HeldSockets>,
    /// Sockets in CLOSE_WAIT whose processes were looked for: none of fewer than ten, and 4,096 at most. Null in
    /// what an older netdiag recorded.
    pub close_wait_looked_at: Option<u64>,
    /// Sockets in CLOSE_WAIT that wait to be accepted: no process holds them. Null in what an older netdiag recorded.
    pub close_wait_unaccepted: Option<u64>,
    /// Sockets in TIME_WAIT by conversation, the most first, at most ten.
    pub time_wait: Vec<SocketGroup>,
    /// Those in SYN_SENT, likewise: nobody answered yet.
    pub syn_sent: Vec<SocketGroup>,
    /// Those in FIN_WAIT2, likewise: we closed, the peer did not.
    pub fin_wait2: Vec<SocketGroup>,
}

impl Sockets {
    /// How long before the end they were as they are told, for all that is known.
    #[must_use]
    pub fn known_ns(&self) -> u64 {
        known_ns(self.age_ns, self.unchanged_ns)
    }
}

/// TCP sockets by state; both IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct States {
    /// Connections that are open in both directions.
    pub established: u64,
    /// Connecting, not answered.
    pub syn_sent: u64,
    /// Connection requests that were answered and not confirmed.
    pub syn_recv: u64,
    /// Closed from here, not acknowledged.
    pub fin_wait1: u64,
    /// Closed from here, the peer did not close.
    pub fin_wait2: u64,
    /// Closed by both; the port is kept back.
    pub time_wait: u64,
    /// Closed by the peer, not from here.
    pub close_wait: u64,
    /// Closed by the peer and then from here, not acknowledged.
    pub last_ack: u64,
    /// Listeners.
    pub listen: u64,
    /// Closed by both at once, not acknowledged.
    pub closing: u64,
}

/// Sockets of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldSockets {
    /// The process; null parts where it is not known. Looked for when there are ten sockets or more.
    pub owner: Owner,
    /// How many it holds of those looked at.
    pub count: u64,
}

/// Sockets of which one end is the same: a server's address and port, and the client's address. The
/// port of the client is null, since it is another one each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SocketGroup {
    /// This end; with a port where it is the server.
    pub local: Endpoint,
    /// The other end, likewise.
    pub peer: Endpoint,
    /// How many sockets.
    pub count: u64,
}

/// Local ports of one network namespace that the kernel gives to sockets that connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ports {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// How long before the end they were counted, in nanoseconds; as in `sockets`.
    pub age_ns: u64,
    /// How long before the end nothing showed last that anything happened to them since; as in `sockets`. The range
    /// may be another one since they were counted.
    pub unchanged_ns: Option<u64>,
    /// First port that is given (`net.ipv4.ip_local_port_range`); null when unknown.
    pub first: Option<u16>,
    /// Last port that is given.
    pub last: Option<u16>,
    /// How many may be given: those between, without those kept back
    /// (`net.ipv4.ip_local_reserved_ports`).
    pub available: Option<u64>,
    /// How many of them any TCP socket takes, those in TIME_WAIT and listeners included. A socket that
    /// binds before it connects needs one that is not among them.
    pub taken: u64,
    /// Where most go, at most ten. A socket that connects needs a port that is not taken towards that
    /// address and port.
    pub destinations: Vec<PortUse>,
}

impl Ports {
    /// As of [`Sockets`].
    #[must_use]
    pub fn known_ns(&self) -> u64 {
        known_ns(self.age_ns, self.unchanged_ns)
    }
}

/// Ports taken from one address to one address and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortUse {
    /// From where.
    pub local_ip: IpAddr,
    /// To where.
    pub peer: Endpoint,
    /// Ports taken, those in TIME_WAIT included.
    pub taken: u64,
    /// Those in TIME_WAIT, which no process holds.
    pub time_wait: u64,
    /// The process that holds the most of the others; looked for when a quarter of the ports is taken.
    pub owner: Owner,
}

/// Queues of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenQueue {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Where it listens.
    pub local: Endpoint,
    /// The process that holds it.
    pub owner: Owner,
    /// Connections that wait to be accepted.
    pub accept_queue: u32,
    /// How many may wait; one more is let in. As many requests may be waiting to be confirmed.
    pub accept_queue_limit: u32,
    /// Connection requests that are not confirmed (SYN_RECV).
    pub syn_recv: u64,
}
