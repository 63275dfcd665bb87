//! Sockets as they open, connect, change hands and are destroyed.
//!
//! Kernel: tracepoints `sock:inet_sock_set_state` and `tcp:tcp_destroy_sock`, and every other
//! program on first sight of a socket. One sample is one record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    flow::{SocketRef, TcpCounters, TcpDetail},
    header::Header,
};

/// Why the record was sent.
pub mod what {
    /// First sight of the socket: it may be much older.
    pub const SEEN: u32 = 0;
    /// `connect` called: the socket is new and this end is the client.
    pub const CONNECT: u32 = 1;
    /// Handshake done on a child of a listener: this end is the server.
    pub const ACCEPT: u32 = 2;
    /// Another process uses the socket than before.
    pub const OWNER: u32 = 3;
    /// The counters moved on; sent at most once per `report_every_ns`.
    pub const COUNTERS: u32 = 4;
    /// The socket is destroyed; nothing follows.
    pub const CLOSE: u32 = 5;
    /// accept returned it: this end is the server. Its handshake may have been done before the
    /// programs were attached.
    pub const TAKEN: u32 = 6;
    /// The handshake of a socket that connects is done.
    pub const ESTABLISHED: u32 = 7;
    /// The same, and first sight of it: when `connect` was called is not known.
    pub const CONNECTED: u32 = 8;
    /// A socket that connects gives up.
    pub const FAILED: u32 = 9;
}

/// What a program knows of a socket at one instant.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Socket`], `samples` 1.
    pub header: Header,
    /// The socket.
    pub socket: SocketRef,
    /// One of [`what`].
    pub what: u32,
    /// Process id (tgid) of the owner, 0 when unknown.
    pub pid: u32,
    /// Thread id of the task that `comm` names, 0 when unknown.
    pub tid: u32,
    /// Name of that thread, zero-padded; empty when unknown.
    pub comm: [u8; 16],
    /// 1 when `tcp` was read, 0 when this kernel or program type could not.
    pub has_tcp: u32,
    /// The socket's counters.
    pub tcp: TcpCounters,
    /// What else the kernel tells of it; nothing where `has_tcp` is 0.
    pub detail: TcpDetail,
    /// The errno with which it fails (`sk_err`), 0 for none: the process gave up.
    pub error: i32,
    /// Zero.
    pub reserved: u32,
    /// How long a connection waited until accept returned it, in nanoseconds and at least 1; 0 where accept
    /// returned none now, or one whose handshake was done before the programs were attached.
    pub accept_wait_ns: u64,
    /// Id of that task's cgroup (`kernfs_node.id`: the inode number of its directory), in the hierarchy that
    /// userspace chose; 0 when unknown.
    pub cgroup: u64,
}
