//! The accounting: every sample that a hook sees ends in one counter.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netdiag_common::{
    counters::{Counters, PerCpu},
    signal::Signal,
};

use crate::assembly::opaque;

#[btf_map]
static COUNTERS: PerCpuArray<PerCpu, 1> = PerCpuArray::new();

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

/// The counters of a signal on this CPU.
#[inline(always)]
pub(crate) fn counters(signal: Signal, lane: Lane) -> Option<&'static mut Counters> {
    let all = opaque(COUNTERS.get_ptr_mut(0)?);
    // SAFETY: the element of this CPU lives as long as the map, and only this lane's program writes
    // these counters on this CPU.
    Some(unsafe { &mut (*all).signals[signal as usize].lanes[lane as usize] })
}
