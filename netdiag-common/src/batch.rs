//! Samples that a CPU gathers before it hands them over: one record for many, which costs a fraction
//! of a record each.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{
    header::Header,
    signal::{Signal, rtt, send, turn},
};

/// Samples in a full batch.
pub const BATCH: usize = 64;

/// A batch of up to [`BATCH`] samples of one CPU; the record ends after the last valid one.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Record<S> {
    /// `samples` are the valid ones.
    pub header: Header,
    /// The samples, in the order in which they were taken.
    pub samples: [S; BATCH],
}

/// Samples of one lane on one CPU, on their way to the ring. No lane shares it with another, so that
/// plain loads and stores are enough where tasks are preempted inside programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
pub struct Batch<S> {
    /// Valid samples.
    pub len: u32,
    /// 1 while a program works on it. Another run that interrupts it there leaves it alone.
    pub busy: u32,
    /// The record to be; its header is written when it is submitted.
    pub record: Record<S>,
}

/// All batches of one CPU, in one value so that one look-up finds them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// Returned calls of `tcp_sendmsg`.
    pub sends: Batch<send::Sample>,
    /// Those of `tcp_sendpage`.
    pub pages: Batch<send::Sample>,
    /// Round trips.
    pub rtts: Batch<rtt::Sample>,
    /// Answers of this node.
    pub services: Batch<turn::Sample>,
    /// Answers of peers.
    pub responses: Batch<turn::Sample>,
    /// Data that was read.
    pub reads: Batch<turn::Sample>,
}

/// The kernel takes no larger value of a per-CPU array (`PCPU_MIN_UNIT_SIZE`, `array_map_alloc_check`
/// in kernel/bpf/arraymap.c).
const _: () = assert!(size_of::<Batches>() <= 32 << 10);

impl Batches {
    /// The signals that have some.
    pub const SIGNALS: &[Signal] = &[Signal::Send, Signal::Rtt, Signal::Turn];

    /// Sends that wait in them.
    #[must_use]
    pub const fn sends(&self) -> u64 {
        self.sends.len as u64 + self.pages.len as u64
    }

    /// Whether nothing waits in them.
    #[must_use]
    pub const fn are_empty(&self) -> bool {
        let turns = self.services.len | self.responses.len | self.reads.len;
        self.sends() == 0 && self.rtts.len == 0 && turns == 0
    }
}
