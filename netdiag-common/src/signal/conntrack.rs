//! Connection tracking: entries of its table as they come and go, and those that could not.
//!
//! Kernel: `net/netfilter/nf_conntrack_core.c`: `__nf_conntrack_alloc` makes an entry for the first
//! packet of a conversation, `__nf_conntrack_confirm` puts it into the table when that packet leaves,
//! `early_drop` evicts one from a full table, `nf_conntrack_free` frees it. Equal events are counted
//! together on each CPU, see [`crate::table`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::header::Header;

/// What happened.
pub mod what {
    /// An entry was made for the first packet of a conversation.
    pub const NEW: u32 = 0;
    /// It was put into the table.
    pub const CONFIRMED: u32 = 1;
    /// It could not be, and its packet was dropped.
    pub const INSERT_FAILED: u32 = 2;
    /// Another one for the same conversation was there already, and the two were reconciled.
    pub const CLASH: u32 = 3;
    /// None was made, for the table is full (or memory), and the packet was dropped.
    pub const TABLE_FULL: u32 = 4;
    /// One without reply was evicted to make room.
    pub const EARLY_DROP: u32 = 5;
    /// A confirmed one was freed.
    pub const DESTROYED: u32 = 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
}

/// One direction of a conversation (`struct nf_conntrack_tuple`,
/// `include/net/netfilter/nf_conntrack_tuple.h`). Addresses are 16 bytes, IPv4 as v4-mapped; ports in
/// host order, 0 for protocols without.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: [u8; 16],
    /// Where they go.
    pub destination: [u8; 16],
    /// Port of the source.
    pub source_port: u16,
    /// Port of the destination.
    pub destination_port: u16,
}

/// Events of one entry that say the same.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Conntrack`], `samples` how often it happened, `time_ns` when
    /// it last did.
    pub header: Header,
    /// The conversation as it began. Where there were too many, the destination alone; all zero where
    /// there were too many of these.
    pub original: Tuple,
    /// As its answers come back, address translation undone; all zero as above.
    pub reply: Tuple,
    /// Inode number of the network namespace, 0 when unknown.
    pub netns: u32,
    /// Process id (tgid) of the process that sent the first packet, 0 where none here did.
    pub pid: u32,
    /// Its name, zero-padded.
    pub comm: [u8; 16],
    /// One of [`what`].
    pub what: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// `IPPROTO_TCP` and so on.
    pub protocol: u16,
}

/// Whether a protocol's conversations have ports: TCP, UDP, DCCP, SCTP and UDP-Lite. Others keep their own
/// numbers where these have ports (`union nf_conntrack_man_proto`).
#[must_use]
#[inline(always)]
pub const fn has_ports(protocol: u16) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// Events that one record counts at most.
pub const SAMPLES: u32 = 1 << 24;
