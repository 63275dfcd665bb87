//! The accounting: every sample that a hook sees ends in one counter.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netdiag_common::{
    counters::{Counters, PerCpu},
    signal::{Signal, send::Batch},
};

use crate::assembly::opaque;

#[btf_map]
static PER_CPU: PerCpuArray<PerCpu, 1> = PerCpuArray::new();

/// Who counts: one program that never runs inside itself on one CPU, see
/// [`netdiag_common::counters::LANES`].
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    Begin = 0,
    End = 1,
    SendpageBegin = 2,
    SendpageEnd = 3,
    Flush = 4,
    SocketState = 5,
    SocketDestroy = 6,
    Retransmit = 7,
    Synack = 8,
    RetransmitBegin = 9,
    RetransmitEnd = 10,
}

/// What the programs keep of this CPU.
#[derive(Clone, Copy)]
pub(crate) struct ThisCpu(*mut PerCpu);

impl ThisCpu {
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        Some(Self(opaque(PER_CPU.get_ptr_mut(0)?)))
    }

    /// The counters of a signal.
    #[inline(always)]
    pub(crate) fn counters(self, signal: Signal, lane: Lane) -> &'static mut Counters {
        // SAFETY: the element of this CPU lives as long as the map, and only this lane's program
        // writes these counters on this CPU.
        unsafe { &mut (*self.0).signals[signal as usize].lanes[lane as usize] }
    }

    /// The batch of sends. Who works on it holds its `busy`.
    #[inline(always)]
    pub(crate) fn sends(self) -> *mut Batch {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).sends }
    }
}

/// The counters of a signal on this CPU.
#[inline(always)]
pub(crate) fn counters(signal: Signal, lane: Lane) -> Option<&'static mut Counters> {
    Some(ThisCpu::get()?.counters(signal, lane))
}
