//! Calls of `tcp_sendmsg` (and `tcp_sendpage` where it exists), entry to return.
//!
//! Kernel: `net/ipv4/tcp.c`, `tcp_sendmsg(sk, msg, size)`, all versions; `tcp_sendpage` until 6.4.
//! This is the time to copy the data and to wait for room in the send buffer. It is not network
//! latency.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{flow::FlowId, header::Header};

/// Numbers of the lanes of this signal. Userspace tells the two ends of a call by them when the
/// kernel skipped a program at one of them.
pub mod lane {
    /// `tcp_sendmsg` begins.
    pub const BEGIN: usize = 0;
    /// It returns.
    pub const END: usize = 1;
    /// `tcp_sendpage` begins.
    pub const SENDPAGE_BEGIN: usize = 2;
    /// It returns.
    pub const SENDPAGE_END: usize = 3;
    /// Userspace empties the batches.
    pub const FLUSH: usize = 4;
}

/// Samples in a full batch.
pub const BATCH: usize = 64;

/// One send call.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Sample {
    /// The socket it was made on.
    pub flow: FlowId,
    /// Entry to return, in nanoseconds.
    pub latency_ns: u64,
    /// What the call returned: bytes taken, or a negative errno.
    pub result: i64,
}

/// A batch of up to [`BATCH`] samples of one CPU; the record ends after the last valid one.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Send`], `samples` the valid samples.
    pub header: Header,
    /// The samples, in the order in which the calls returned.
    pub samples: [Sample; BATCH],
}

/// Samples of one lane on one CPU, on their way to the ring. No lane shares it with another, so that
/// plain loads and stores are enough where tasks are preempted inside programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Batch {
    /// 1 while a program works on it. Another run that interrupts it there leaves it alone.
    pub busy: u32,
    /// Valid samples.
    pub len: u32,
    /// The record to be; its header is written when it is submitted.
    pub record: Record,
}
