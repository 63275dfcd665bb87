//! Where the beginnings of nearly all calls lie: in a seat of the thread that makes the call, found by its number. So the
//! end of a call needs no look-up, not even of its socket's slot.

use netdiag_common::flow::FlowId;

use super::start::{Call, Start};
use crate::assembly;

/// How many there are. Threads whose numbers are that far apart share one.
const SEATS: usize = 1024;

/// A seat, on a cache line of its own.
#[repr(C, align(64))]
struct Seat {
    /// The thread whose call has it, 0 none.
    thread: u64,
    /// What the call is on.
    sk: u64,
    start: Start,
    /// 1 when a call has ever found it taken.
    shared: u64,
}

// A section of its own is a map of its own: userspace writes into the other one.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.seats")]
static mut TAKEN: [Seat; SEATS] =
    [const { Seat { thread: 0, sk: 0, start: Start { flow: 0, start_ns: 0 }, shared: 0 } }; SEATS];

/// What came of asking for a seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It was free.
    Given,
    /// An earlier call of that thread on that socket had it, whose end was missed.
    GivenAgain,
    /// Another call has it: of another thread, or the thread's own on another socket, which this one runs inside of.
    Refused,
}

#[inline(always)]
fn of(call: &Call) -> *mut Seat {
    let nth = call.thread as usize % SEATS;
    // SAFETY: one of the seats; makes no reference.
    unsafe { (&raw mut TAKEN).cast::<Seat>().add(nth) }
}

/// # Safety
/// `seat` comes from [`of`].
#[inline(always)]
unsafe fn is_of(seat: *mut Seat, call: &Call) -> bool {
    // SAFETY: see above. Volatile: others take it and leave it.
    unsafe {
        core::ptr::read_volatile(&raw const (*seat).thread) == call.thread && (*seat).sk == call.sk
    }
}

/// Whether a call of the current thread on a flow has its seat. By flow, not by socket: another one may lie where a
/// socket was whose call never ended.
#[inline(always)]
pub(super) fn has(call: &Call, flow: FlowId) -> bool {
    let seat = of(call);
    // SAFETY: just got. Volatile: others take it and leave it.
    unsafe {
        core::ptr::read_volatile(&raw const (*seat).thread) == call.thread
            && (*seat).start.flow == flow
    }
}

/// Whether a call may ever have found this one's seat taken, and thus lie elsewhere.
#[inline(always)]
pub(super) fn is_shared(call: &Call) -> bool {
    // SAFETY: just got. Volatile: others write it.
    unsafe { core::ptr::read_volatile(&raw const (*of(call)).shared) != 0 }
}

/// Gives its seat to a call that begins.
#[inline(always)]
pub(super) fn take(call: &Call, start: Start) -> Asked {
    let seat = of(call);
    // SAFETY: a word of a map value, which lives as long as the programs; what is behind it is its holder's.
    unsafe {
        let holder = assembly::compare_exchange(&raw mut (*seat).thread, 0, call.thread);
        if holder != 0 && !is_of(seat, call) {
            core::ptr::write_volatile(&raw mut (*seat).shared, 1);
            return Asked::Refused;
        }
        (*seat).sk = call.sk;
        (*seat).start = start;
        if holder == 0 { Asked::Given } else { Asked::GivenAgain }
    }
}

/// Takes the seat from a call that returned, for its beginning; none where the call has no seat.
#[inline(always)]
pub(super) fn leave(call: &Call) -> Option<Start> {
    let seat = of(call);
    // SAFETY: as in `take`.
    unsafe {
        if !is_of(seat, call) {
            return None;
        }
        let start = (*seat).start;
        // An exchange, not a store: on weakly ordered machines the next holder's start must not be visible before ours
        // was read.
        let _us = assembly::exchange(&raw mut (*seat).thread, 0);
        Some(start)
    }
}

/// Makes a call one of another flow; false where it has no seat.
#[inline(always)]
pub(super) fn renumber(call: &Call, flow: FlowId) -> bool {
    let seat = of(call);
    // SAFETY: as in `take`.
    unsafe {
        let is_its = is_of(seat, call);
        if is_its {
            (*seat).start.flow = flow;
        }
        is_its
    }
}
