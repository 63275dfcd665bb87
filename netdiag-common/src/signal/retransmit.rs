//! Segments that TCP sent again, or tried to.
//!
//! Kernel: tracepoints `tcp:tcp_retransmit_skb` (`net/ipv4/tcp_output.c`, `__tcp_retransmit_skb`)
//! and `tcp:tcp_retransmit_synack` (`net/ipv4/inet_connection_sock.c`). One record per call; a GSO
//! buffer carries several segments. Which kind of retransmission it was is told by the fields
//! (RFC 6298 RTO, RFC 5681/8985 fast recovery, RFC 8985 tail-loss probe); userspace names it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    flow::{SocketRef, TcpCounters},
    header::Header,
};

/// Where a record comes from.
pub mod origin {
    /// A socket's own segment.
    pub const SEGMENT: u32 = 0;
    /// A SYN-ACK of a connection request; there is no full socket yet, so `flow` is 0.
    pub const SYNACK: u32 = 1;
    /// A tail-loss probe that failed on this node: `segments` is all that is known of it.
    pub const FAILED_PROBE: u32 = 2;
}

/// One retransmission.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Retransmit`], `samples` 1.
    pub header: Header,
    /// The socket.
    pub socket: SocketRef,
    /// One of [`origin`].
    pub origin: u32,
    /// Segments in the buffer (`tcp_gso_segs`), at least 1.
    pub segments: u32,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Payload bytes.
    pub bytes: u32,
    /// 0, or the negative errno with which the transmission failed on this node.
    pub error: i32,
    /// Congestion state `icsk_ca_state` (enum tcp_ca_state, 0 Open to 4 Loss).
    pub ca_state: u8,
    /// Pending timer `icsk_pending` (5 is the tail-loss probe).
    pub timer: u8,
    /// Consecutive RTOs `icsk_retransmits`.
    pub backoff: u8,
    /// 1 when `tcp` was read.
    pub has_tcp: u8,
    /// Process id (tgid) of the owner as far as the programs know it, 0 unknown. Never the task
    /// that the softirq interrupted.
    pub pid: u32,
    /// Where in the kernel, see [`crate::stack`].
    pub stack: u32,
    /// The socket's counters.
    pub tcp: TcpCounters,
}
