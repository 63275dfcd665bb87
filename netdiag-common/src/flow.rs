//! What a flow is called on both sides.

use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number that the programs give a socket when they first see it: unique in a run, never reused.
/// 0 means none: the packet had no full socket, or the socket could not be remembered.
pub type FlowId = u64;

/// `IPPROTO_TCP` (`include/uapi/linux/in.h`).
pub const TCP: u16 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u16 = 17;

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
    /// [`TCP`] or [`UDP`].
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

/// An address as a [`FlowKey`] has it: IPv4 as v4-mapped, behind [`V4_MAPPED_PREFIX`].
#[must_use]
pub const fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

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

macro_rules! details {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// One number of [`TcpDetail`]: three times first, then words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Detail {
            $($(#[$doc])* $name,)+
        }

        impl Detail {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; DETAILS] = [$(Self::$name,)+];
        }
    };
}

/// How many there are.
pub const DETAILS: usize = 20;
const TIMES: usize = 3;

details! {
    /// Microseconds with data to send, those of the next two included (`tcpi_busy_time`).
    Busy,
    /// Microseconds in which the peer's receive window held back what was to be sent
    /// (`tcpi_rwnd_limited`).
    RwndLimited,
    /// Microseconds in which the send buffer was full and all of it was sent (`tcpi_sndbuf_limited`).
    SndbufLimited,
    /// Segments with payload sent, retransmissions included (`data_segs_out`).
    DataSegmentsSent,
    /// Segments with payload received (`data_segs_in`).
    DataSegmentsReceived,
    /// Segments that the peer got, as far as its ACKs tell (`delivered`).
    Delivered,
    /// Of those the ones that met congestion, by ECN (`delivered_ce`).
    DeliveredCe,
    /// Segments that the peer said it got twice (`dsack_dups`, RFC 2883).
    Dsacks,
    /// Times that the peer's ACKs showed segments overtaking others (`reord_seen`).
    Reorderings,
    /// Segments received out of order (`rcv_ooopack`).
    OutOfOrder,
    /// Retransmission timeouts (`total_rto`), 16 bits wide.
    Timeouts,
    /// Slow start threshold in segments (`snd_ssthresh`).
    Ssthresh,
    /// Bytes that the peer's receive window has room for (`snd_wnd`), scaled.
    SndWnd,
    /// Bytes that the receive window offered to the peer has room for (`rcv_wnd`), scaled.
    RcvWnd,
    /// Segments sent and not acknowledged (`packets_out`).
    Unacknowledged,
    /// Bytes received and not read (`rcv_nxt - copied_seq`).
    Unread,
    /// Bytes written and not sent once (`write_seq - snd_nxt`).
    Unsent,
    /// Bytes of memory that the receive queue may take (`sk_rcvbuf`).
    RcvBuf,
    /// Bytes of memory that the send queue may take (`sk_sndbuf`).
    SndBuf,
    /// Bytes of memory that the send queue takes (`sk_wmem_queued`).
    SndBufUsed,
}

/// What the kernel tells of a TCP socket beside [`TcpCounters`]: why it sends no faster, and how far
/// its windows and buffers are filled.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TcpDetail {
    /// The first of [`Detail`].
    pub times_us: [u64; TIMES],
    /// The others.
    pub words: [u32; DETAILS - TIMES],
    /// Bit n: the kernel has the nth of [`Detail`], and it was read.
    pub known: u32,
}

impl TcpDetail {
    /// Fills in a time in microseconds.
    #[inline(always)]
    pub const fn set_time(&mut self, detail: Detail, us: u64) {
        self.times_us[detail as usize] = us;
        self.known |= 1 << detail as u32;
    }

    /// Fills in any other.
    #[inline(always)]
    pub const fn set(&mut self, detail: Detail, word: u32) {
        self.words[detail as usize - TIMES] = word;
        self.known |= 1 << detail as u32;
    }

    /// Its number, where known.
    #[must_use]
    pub fn get(&self, detail: Detail) -> Option<u64> {
        let at = detail as usize;
        let known = self.known & 1 << at != 0;
        known.then(|| match at.checked_sub(TIMES) {
            Some(at) => self.words[at].into(),
            None => self.times_us[at],
        })
    }
}
