//! What userspace tells the programs before they are loaded: frozen, hence constants to the
//! verifier, which removes the branches that a run does not need.

use zerocopy::{Immutable, IntoBytes};

use crate::field::Field;

/// Values that each filter flag may have in the kernel.
pub const FILTER_VALUES: usize = 16;

/// Locations of all fields, indexed by [`Field`].
pub type Locations = [u32; Field::ALL.len()];

/// Filter by exact number: `len` values are valid, 0 passes everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Numbers {
    /// Accepted values, in any order.
    pub values: [u32; FILTER_VALUES],
    /// How many of them count.
    pub len: u32,
}

/// Filter by address prefix: the peer matches when `addr & mask == network` for one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Prefixes {
    /// Networks as four big-endian words in native load order, IPv4 as v4-mapped.
    pub network: [[u32; 4]; FILTER_VALUES],
    /// Masks of the same form.
    pub mask: [[u32; 4]; FILTER_VALUES],
    /// How many of them count.
    pub len: u32,
}

/// All filters: AND between the fields, OR within one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Filters {
    /// Process ids (tgid) of the socket's owner.
    pub pid: Numbers,
    /// Either port.
    pub port: Numbers,
    /// Port of this end.
    pub local_port: Numbers,
    /// Port of the other end.
    pub peer_port: Numbers,
    /// Network namespaces by inode.
    pub netns: Numbers,
    /// Address of the other end.
    pub peer: Prefixes,
}

impl Filters {
    /// Whether everything passes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pid.len
            + self.port.len
            + self.local_port.len
            + self.peer_port.len
            + self.netns.len
            + self.peer.len
            == 0
    }
}

/// Where the programs keep what they know of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotPlace {
    /// A hash keyed by the socket's address; every program type can reach it.
    Hash = 0,
    /// Socket-local storage: cheaper, but only for typed programs (fentry, tp_btf) from 6.1 on.
    Storage = 1,
}

/// Settings of a run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Settings {
    /// Shortest time between two counter reports of one socket, in nanoseconds.
    pub report_every_ns: u64,
    /// Bytes waiting in a ring from which on the reader is woken.
    pub wake_above_bytes: u64,
    /// A [`SlotPlace`].
    pub slot_place: u32,
    /// 1 when a rare event wakes the reader at once.
    pub wake_on_event: u32,
    /// 1 when typed programs may ask for socket cookies (6.1 and later).
    pub has_cookie: u32,
    /// 1 when the tracepoint `tcp_retransmit_skb` has the argument `err` (6.16 and later).
    pub retransmit_has_error: u32,
}
