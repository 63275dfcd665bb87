//! What a flow is called on both sides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number that the programs give a socket when they first see it: unique in a run, never reused.
/// 0 means none: the packet had no full socket, or the socket could not be remembered.
pub type FlowId = u64;

/// One end of a conversation as the kernel knows it.
///
/// Addresses are 16 bytes, IPv4 as v4-mapped (RFC 4291 section 2.5.5.2); ports in host order.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FlowKey {
    /// Address of this end.
    pub local_addr: [u8; 16],
    /// Address of the other end; all zero when not connected.
    pub peer_addr: [u8; 16],
    /// Port of this end.
    pub local_port: u16,
    /// Port of the other end.
    pub peer_port: u16,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub protocol: u16,
    /// Zero.
    pub reserved: u16,
}

impl FlowKey {
    /// Makes the other end this one.
    #[inline(always)]
    pub const fn reverse(&mut self) {
        core::mem::swap(&mut self.local_addr, &mut self.peer_addr);
        core::mem::swap(&mut self.local_port, &mut self.peer_port);
    }
}

/// First 12 bytes of a v4-mapped IPv6 address.
pub const V4_MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// What a record says of the socket it speaks of.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketRef {
    /// See [`FlowId`].
    pub flow: FlowId,
    /// Address of the kernel's `struct sock`; identifies the socket until it is destroyed.
    pub sk: u64,
    /// The kernel's socket cookie, 0 where programs cannot ask for it.
    pub cookie: u64,
    /// The conversation.
    pub key: FlowKey,
    /// TCP state (`include/net/tcp_states.h`).
    pub state: u32,
}

/// The kernel's own counters of a TCP socket (`struct tcp_sock`, `include/linux/tcp.h`; meanings
/// as in RFC 4898 and `struct tcp_info`).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TcpCounters {
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes the peer acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes sent again.
    pub bytes_retrans: u64,
    /// Segments sent, retransmissions included.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments sent again (`total_retrans`).
    pub retrans: u32,
    /// Smoothed round-trip time in microseconds (`srtt_us >> 3`).
    pub srtt_us: u32,
    /// Congestion window in segments.
    pub cwnd: u32,
    /// Packets for the socket that were dropped before they reached its queue (`sk_drops`).
    pub drops: u32,
    /// Not the kernel's: segments of `retrans` that no program saw being sent and no earlier
    /// record told of; of a socket that comes out of a connection request, its SYN-ACKs. 0 where nobody
    /// kept count.
    pub retrans_unseen: u32,
    /// The smallest round-trip time of late (`rtt_min`), in microseconds; 0 while there is none.
    pub rtt_min_us: u32,
}
