//! The accounting of samples: [`Counters`] per signal, program and CPU.
//!
//! Every sample that a hook sees ends in exactly one counter, so that
//! `seen = filtered + submitted + ring_full + map_full + read_failed + rate_limited + shed +
//! unmatched + pending`, where [`Counters::pending`] is the samples that are still on their way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Lanes that a signal can give to its programs. Who counts in a lane never runs inside itself (from
/// 6.1 on the kernel skips such a run and counts it; before, the inner run counts in the lane's twin),
/// so plain additions lose nothing even where programs are preempted or interrupted by others.
pub const LANES: usize = 8;

/// What the program of one lane counts on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Samples of its own signal.
    pub own: Counters,
    /// Samples of the signal `socket`: sockets that it introduced.
    pub sockets: Counters,
}

/// The lanes of one signal on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// By the numbers that the signal's programs give them, and then the twin of each.
    pub lanes: [Lane; 2 * LANES],
}

/// Fates of samples on one CPU, all monotonic since the programs were loaded.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Counters {
    /// Samples that a hook saw.
    pub seen: u64,
    /// Rejected by a filter.
    pub filtered: u64,
    /// Handed to the ring buffer.
    pub submitted: u64,
    /// Lost: the ring buffer had no room.
    pub ring_full: u64,
    /// Lost: a map had no room to remember them.
    pub map_full: u64,
    /// Lost: kernel memory could not be read.
    pub read_failed: u64,
    /// Left out by a rate limit.
    pub rate_limited: u64,
    /// Left out to keep the cost down.
    pub shed: u64,
    /// An end without a beginning, or a beginning that another one overwrote.
    pub unmatched: u64,
    /// Beginnings remembered.
    pub begun: u64,
    /// Samples of those that are no longer on their way: taken out of a batch, into the ring or
    /// lost for want of room, or overwritten by another beginning.
    pub ended: u64,
    /// Runs in place of another program's that the kernel skipped; no fate of a sample.
    pub stood_in: u64,
}

impl Counters {
    /// Samples begun whose call has not returned, or which wait in a batch. Only a sum over all CPUs
    /// means anything: a sample may begin on one CPU and end on another.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        // CPUs are read one after the other: a sample may seem to end before it began.
        self.begun.saturating_sub(self.ended)
    }

    /// Whether these may be the counts of one instant: every seen sample has its fate, and none
    /// ended before it began. A sum over all CPUs that were read while programs ran may not be.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.begun >= self.ended && self.seen == self.fates() + self.pending()
    }

    /// Samples of which it is known what became of them.
    #[must_use]
    pub const fn fates(&self) -> u64 {
        self.filtered
            + self.submitted
            + self.ring_full
            + self.map_full
            + self.read_failed
            + self.rate_limited
            + self.shed
            + self.unmatched
    }

    /// Field-wise sum.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            seen: self.seen.wrapping_add(other.seen),
            filtered: self.filtered.wrapping_add(other.filtered),
            submitted: self.submitted.wrapping_add(other.submitted),
            ring_full: self.ring_full.wrapping_add(other.ring_full),
            map_full: self.map_full.wrapping_add(other.map_full),
            read_failed: self.read_failed.wrapping_add(other.read_failed),
            rate_limited: self.rate_limited.wrapping_add(other.rate_limited),
            shed: self.shed.wrapping_add(other.shed),
            unmatched: self.unmatched.wrapping_add(other.unmatched),
            begun: self.begun.wrapping_add(other.begun),
            ended: self.ended.wrapping_add(other.ended),
            stood_in: self.stood_in.wrapping_add(other.stood_in),
        }
    }
}
