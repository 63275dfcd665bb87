//! Round-trip times, as the kernel takes them.
//!
//! Kernel: `net/ipv4/tcp_input.c`, `tcp_ack_update_rtt`: from the sending of a segment to the ACK for
//! it, by the clock or the timestamps of RFC 7323, never of a segment that was sent again (Karn's
//! algorithm, RFC 6298). What the estimator of the smoothed time is given is one sample here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowId;

/// Numbers of the lanes of this signal.
pub mod lane {
    /// An ACK, or what tells of it.
    pub const ACK: usize = 0;
    /// A connection leaves the state in which ACKs are told of.
    pub const CLOSING: usize = 1;
    /// Userspace empties the batches.
    pub const FLUSH: usize = 2;
    /// An ACK in a softirq that interrupts the program of another one.
    pub const SECOND: usize = 3;
}

/// Samples of one flow that are told in [`WINDOW_US`] at most: enough for any percentile, and a busy
/// connection takes one for each ACK, some ten thousand a second.
pub const MOST: u32 = 20;
/// Microseconds that [`MOST`] is for.
pub const WINDOW_US: u32 = 10_000;

/// Bits of [`Sample::flags`].
pub mod flag {
    /// The peer may have delayed the ACK: the kernel takes it for such a one (`FLAG_ACK_MAYBE_DELAYED`) or,
    /// where that is not to be had, it is for less than a full segment.
    pub const MAYBE_DELAYED: u32 = 1;
}

/// One round trip.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Sample {
    /// The socket.
    pub flow: FlowId,
    /// From the segment to its ACK, in microseconds.
    pub rtt_us: u32,
    /// The smallest of late as the kernel keeps it (`tcp_sock.rtt_min`, of a window of minutes), in
    /// microseconds; 0 while it has none.
    pub rtt_min_us: u32,
    /// Smoothed, in microseconds (`srtt_us >> 3`), this sample included.
    pub srtt_us: u32,
    /// When the ACK came: the low bits of the microseconds of `CLOCK_MONOTONIC`.
    pub time_us: u32,
    /// Of [`flag`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}
