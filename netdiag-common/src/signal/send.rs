//! Calls of `tcp_sendmsg` (and `tcp_sendpage` where it exists), entry to return.
//!
//! Kernel: `net/ipv4/tcp.c`, `tcp_sendmsg(sk, msg, size)`, all versions; `tcp_sendpage` until 6.4.
//! This is the time to copy the data and to wait for room in the send buffer. It is not network
//! latency.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::FlowId;

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
