//! Packets that the kernel threw away.
//!
//! Kernel: tracepoint `skb:kfree_skb` (`net/core/skbuff.c`): the packet, the place, from 5.17 on the
//! reason (`enum skb_drop_reason`, `include/net/dropreason-core.h`) and from 6.11 on the receiving
//! socket. Packets of one conversation that are dropped for one reason at one place are counted
//! together on each CPU, see [`crate::table`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{flow::FlowKey, header::Header};

/// How sure a record is of which end of the conversation is this one's, and of the way that the packet went.
pub mod ends {
    /// A socket told; the way is not known.
    pub const KNOWN: u32 = 0;
    /// The packet's destination counts as this end: it was on its way in, or through.
    pub const BY_DESTINATION: u32 = 1;
    /// Not known at all: no address could be read, or there were too many conversations.
    pub const NONE: u32 = 2;
    /// The socket told that sent it.
    pub const SENT: u32 = 3;
    /// The socket told that it was for.
    pub const RECEIVED: u32 = 4;
}

/// Drops of one conversation for one reason at one place.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Drop`], `samples` the packets, `time_ns` when the last
    /// of them was dropped.
    pub header: Header,
    /// Address in the kernel's code where they were dropped.
    pub location: u64,
    /// Bytes of them, `skb->len` where they were dropped.
    pub bytes: u64,
    /// The conversation; all zero where it is not known.
    pub key: FlowKey,
    /// `enum skb_drop_reason`, the subsystem in the upper 16 bits; 0 on kernels without.
    pub reason: u32,
    /// One of [`ends`].
    pub ends: u32,
    /// Where in the kernel, see [`crate::stack`]; those of one record are the same.
    pub stack: u32,
}

/// Packets that one record counts at most.
pub const SAMPLES: u32 = 1 << 24;
