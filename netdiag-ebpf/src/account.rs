//! The accounting: every sample that a hook sees ends in one counter.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netdiag_common::{
    batch::Batch,
    counters::{self, Counters, LANES, PerCpu},
    signal::{Signal, rtt, send, turn},
};

use crate::assembly::opaque;

#[btf_map]
static PER_CPU: PerCpuArray<PerCpu, 1> = PerCpuArray::new();

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

    /// Its number among all.
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.signal as usize * 2 * LANES + self.nth
    }
}

/// What the programs keep of this CPU.
#[derive(Clone, Copy)]
pub(crate) struct ThisCpu(*mut PerCpu);

impl ThisCpu {
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        Some(Self(opaque(PER_CPU.get_ptr_mut(0)?)))
    }

    #[inline(always)]
    fn of(self, lane: Lane) -> &'static mut counters::Lane {
        // SAFETY: the element of this CPU lives as long as the map, and only this lane's program
        // writes these counters on this CPU.
        unsafe { &mut (*self.0).signals[lane.signal as usize].lanes[lane.nth] }
    }

    /// What this program counts of its own signal.
    #[inline(always)]
    pub(crate) fn counters(self, lane: Lane) -> &'static mut Counters {
        &mut self.of(lane).own
    }

    /// The batch of returned calls of `tcp_sendmsg`. Who works on it holds its `busy`.
    #[inline(always)]
    pub(crate) fn sends(self) -> *mut Batch<send::Sample> {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).sends }
    }

    /// That of `tcp_sendpage`.
    #[inline(always)]
    pub(crate) fn pages(self) -> *mut Batch<send::Sample> {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).pages }
    }

    /// That of round trips.
    #[inline(always)]
    pub(crate) fn rtts(self) -> *mut Batch<rtt::Sample> {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).rtts }
    }

    /// That of answers of peers.
    #[inline(always)]
    pub(crate) fn responses(self) -> *mut Batch<turn::Sample> {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).responses }
    }

    /// That of data that was read.
    #[inline(always)]
    pub(crate) fn reads(self) -> *mut Batch<turn::Sample> {
        // SAFETY: as above; makes no reference.
        unsafe { &raw mut (*self.0).reads }
    }
}

/// What this program counts of its own signal on this CPU.
#[inline(always)]
pub(crate) fn counters(lane: Lane) -> Option<&'static mut Counters> {
    Some(ThisCpu::get()?.counters(lane))
}

/// What this program counts of the sockets that it introduces.
#[inline(always)]
pub(crate) fn socket_counters(lane: Lane) -> Option<&'static mut Counters> {
    Some(&mut ThisCpu::get()?.of(lane).sockets)
}
