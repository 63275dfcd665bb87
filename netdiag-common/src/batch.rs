//! Samples that a CPU gathers before it hands them over: one record for many, which costs a fraction
//! of a record each.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::header::Header;

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
    /// 1 while a program works on it. Another run that interrupts it there leaves it alone.
    pub busy: u32,
    /// Valid samples.
    pub len: u32,
    /// The record to be; its header is written when it is submitted.
    pub record: Record<S>,
}
