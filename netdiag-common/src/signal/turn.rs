//! Turns of a conversation, and data that waits to be read.
//!
//! Kernel: `net/ipv4/tcp.c`, `tcp_sendmsg_locked` (and `do_tcp_sendpages` until 6.4) and the readers that
//! call `tcp_rcv_space_adjust`; `net/ipv4/tcp_input.c`, `tcp_data_ready`. What makes a turn is told by
//! [`crate::turn`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowId;

/// Numbers of the lanes of this signal.
pub mod lane {
    /// A send call begins.
    pub const SEND: usize = 0;
    /// Data arrives.
    pub const ARRIVAL: usize = 1;
    /// Data is read.
    pub const READ: usize = 2;
    /// Userspace empties the batches.
    pub const FLUSH: usize = 3;
    /// Data arrives in a softirq that interrupts the program for other data.
    pub const SECOND: usize = 4;
    /// `do_tcp_sendpages` begins.
    pub const SENDPAGE: usize = 5;
}

/// Samples of one flow that are told in [`WINDOW_NS`] at most.
pub const MOST: u32 = 20;
/// Nanoseconds that [`MOST`] is for.
pub const WINDOW_NS: u64 = 10_000_000;

/// What a sample tells.
pub mod kind {
    /// The peer answered. `latency_ns` from the last byte of the request, `other_ns` from the first.
    pub const RESPONSE: u32 = 0;
    /// This end answered. `latency_ns` from the first byte of the request, `other_ns` from when it had
    /// all of it: the last byte was there and data was read.
    pub const SERVICE: u32 = 1;
    /// Data was read that had waited for `latency_ns`, `other_ns` of it since data was read before: what
    /// is read bit by bit waits at once.
    pub const READ_WAIT: u32 = 2;
    /// A turn of the end that asks, which may have been several.
    pub const ASKED: u32 = 3;
    /// A turn of the end that answers, likewise.
    pub const SERVED: u32 = 4;
    /// Both ends spoke at once, whoever asks.
    pub const OVERLAP: u32 = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// What there is to know of a sample.
pub mod flag {
    /// Round trips were left out to keep the cost down, so that `prompt_us` says nothing.
    pub const NO_TRIPS: u32 = 1;
}

/// One turn or read.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Sample {
    /// The socket.
    pub flow: FlowId,
    /// In nanoseconds, see [`kind`]; 0 where there is none.
    pub latency_ns: u64,
    /// Likewise.
    pub other_ns: u64,
    /// What the samples of this kind add up to that were left out since the last one that was told:
    /// nanoseconds of [`kind::RESPONSE`] by `latency_ns`, of [`kind::SERVICE`] and [`kind::READ_WAIT`] by
    /// `other_ns`; of the others, how many there were.
    pub left_out: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Of [`kind::RESPONSE`], microseconds from the last byte of the request to the last time that some
    /// of it was sent again; 0 where none was.
    pub stalled_us: u32,
    /// Likewise, a round trip since then that no delay of the peer's ACK is part of, in microseconds; 0
    /// where there was none.
    pub prompt_us: u32,
    /// Of [`flag`].
    pub flags: u32,
}
