//! The accounting: every sample that a hook sees ends in one counter.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netdiag_common::{
    counters::{self, Counters, LANES, Lanes},
    signal::Signal,
};

use crate::{assembly::opaque_checked, globals};

/// By signal.
#[btf_map]
static COUNTERS: PerCpuArray<Lanes, { Signal::COUNT }> = PerCpuArray::new();

/// Who counts: one program that never runs inside itself on one CPU, see [`crate::nested`]. Each signal
/// numbers its own; programs of which only one is ever attached may share a lane.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    signal: Signal,
    nth: usize,
}

impl Lane {
    /// How many there are.
    pub(crate) const COUNT: usize = Signal::COUNT * 2 * LANES;

    /// The `nth` lane of a signal.
    pub(crate) const fn new(signal: Signal, nth: usize) -> Self {
        assert!(nth < LANES, "a signal has no more lanes than that");
        Self { signal, nth }
    }

    /// This lane or, where a run of its program is `inside` (1) another one, its twin.
    #[inline(always)]
    pub(crate) const fn or_twin(self, inside: u64) -> Self {
        Self { nth: self.nth + LANES * (inside & 1) as usize, ..self }
    }

    /// 1 for a twin.
    #[inline(always)]
    pub(crate) const fn is_twin(self) -> usize {
        self.nth / LANES
    }

    /// Its number among those of its signal, twins included.
    #[inline(always)]
    pub(crate) const fn nth(self) -> usize {
        self.nth
    }

    /// Its number among all.
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.signal as usize * 2 * LANES + self.nth
    }
}

/// The counters of a lane on this CPU; none before the beginning, when nothing is to be told.
#[inline(always)]
fn of(lane: Lane) -> Option<&'static mut counters::Lane> {
    if !globals::has_begun() {
        return None;
    }
    let lanes = COUNTERS.get_ptr_mut(lane.signal as u32)?;
    // SAFETY: the element of this CPU lives as long as the map, and only this lane's program writes
    // these counters on this CPU.
    Some(unsafe { &mut (*opaque_checked(lanes)).lanes[lane.nth] })
}

/// What this program counts of its own signal on this CPU.
#[inline(always)]
pub(crate) fn counters(lane: Lane) -> Option<&'static mut Counters> {
    Some(&mut of(lane)?.own)
}

/// What this program counts of the sockets that it introduces.
#[inline(always)]
pub(crate) fn socket_counters(lane: Lane) -> Option<&'static mut Counters> {
    Some(&mut of(lane)?.sockets)
}

/// Whether a sample of a signal is left out to keep the cost down; it is counted then.
#[inline(always)]
pub(crate) fn sheds(signal: Signal, counters: &mut Counters) -> bool {
    let sheds = globals::sheds(signal);
    if sheds {
        counters.seen += 1;
        counters.shed += 1;
    }
    sheds
}
