//! Where the beginnings of calls lie until their ends come for them.

use aya_ebpf::{
    bindings::BPF_NOEXIST, btf_maps::HashMap, helpers::bpf_get_current_pid_tgid, macros::btf_map,
};
use netdiag_common::{counters::Counters, flow::FlowId};

use super::seat::{self, Asked};
use crate::kernel::Pointer;

/// Another key like it is there (include/uapi/asm-generic/errno-base.h).
const EEXIST: i32 = -17;
/// No such key is there.
const ENOENT: i32 = -2;
/// How often a change of [`STARTS`] is tried: from 6.15 on a bucket's lock can be refused while
/// others contend for it (rqspinlock, `htab_lock_bucket` in kernel/bpf/hashtab.c).
const TRIES: u32 = 3;

/// A call under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) sk: u64,
    /// `bpf_get_current_pid_tgid`: unique to a thread, never 0.
    pub(super) thread: u64,
}

impl Call {
    /// Of the current thread.
    #[inline(always)]
    pub(super) fn on(sk: Pointer) -> Self {
        Self::of(sk, bpf_get_current_pid_tgid())
    }

    /// Of a thread, by what `bpf_get_current_pid_tgid` says of it.
    #[inline(always)]
    pub(super) fn of(sk: Pointer, thread: u64) -> Self {
        Self { sk: sk as u64, thread }
    }

    /// The process that makes it.
    #[inline(always)]
    pub(super) const fn process(&self) -> u32 {
        (self.thread >> 32) as u32
    }
}

/// What its end needs to know of its beginning.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// The number of the socket.
    pub(super) flow: FlowId,
    /// When it began, 0 when the call returned.
    pub(super) start_ns: u64,
}

/// Beginnings that have no seat to lie in. Userspace sets the size.
#[btf_map]
static STARTS: HashMap<Call, Start, 1> = HashMap::new();

/// Where beginnings may lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a seat if it is free, else in [`STARTS`]. Needs compare-and-exchange (5.12).
    Seat,
    /// In [`STARTS`].
    Hash,
}

/// Whether a call lies in [`STARTS`], for a program that looks there only when it may.
#[inline(always)]
fn may_be_elsewhere(call: &Call, place: Place) -> bool {
    place == Place::Hash || seat::is_shared(call)
}

/// Whether the beginning of a call on a flow was seen.
#[inline(always)]
pub(super) fn is_under_way(call: &Call, flow: FlowId, place: Place) -> bool {
    if place == Place::Seat && seat::has(call, flow) {
        return true;
    }
    if !may_be_elsewhere(call, place) {
        return false;
    }
    let key = *call;
    // SAFETY: only this thread writes and removes its own entry.
    unsafe { STARTS.get(&key) }.is_some_and(|start| start.start_ns != 0 && start.flow == flow)
}

/// Puts the beginning of this thread's call where its end finds it, and counts it.
#[inline(always)]
pub(super) fn remember(call: &Call, place: Place, start: Start, counters: &mut Counters) {
    if place == Place::Seat {
        let asked = seat::take(call, start);
        if asked != Asked::Refused {
            if asked == Asked::GivenAgain {
                overwritten(counters);
            }
            counters.seen += 1;
            counters.begun += 1;
            return;
        }
    }
    // A copy: what helpers are shown is in memory, and a call that has a seat shall not be.
    let key = *call;
    let inserted = insert(&key, start);
    counters.seen += 1;
    if inserted == Ok(()) {
        counters.begun += 1;
        return;
    }
    let Some(earlier) = STARTS.get_ptr_mut(&key) else {
        counters.map_full += 1;
        return;
    };
    // SAFETY: only this thread writes and removes its own entry, so it stays.
    unsafe {
        if (*earlier).start_ns != 0 {
            overwritten(counters);
        }
        counters.begun += 1;
        *earlier = start;
    }
}

/// A beginning was found whose end was missed.
#[inline(always)]
const fn overwritten(counters: &mut Counters) {
    counters.unmatched += 1;
    counters.ended += 1;
}

/// A call begins that is not remembered. Its end must not be taken for that of an earlier one, whose own was missed.
#[inline(always)]
pub(super) fn forget_earlier(call: &Call, place: Place, counters: &mut Counters) {
    if recall(call, place).is_some() {
        overwritten(counters);
    }
}

/// Puts a beginning into [`STARTS`] unless one of the same call is there.
#[inline(always)]
fn insert(call: &Call, start: Start) -> Result<(), i32> {
    let mut result = Err(EEXIST);
    let mut tries = 0;
    while tries < TRIES {
        result = STARTS.insert(call, &start, u64::from(BPF_NOEXIST));
        if matches!(result, Ok(()) | Err(EEXIST)) {
            break;
        }
        tries += 1;
    }
    result
}

/// Takes the beginning of this thread's call out again.
#[inline(always)]
pub(super) fn recall(call: &Call, place: Place) -> Option<Start> {
    if place == Place::Seat
        && let Some(start) = seat::leave(call)
    {
        return Some(start);
    }
    if !may_be_elsewhere(call, place) {
        return None;
    }
    let key = *call;
    let entry = STARTS.get_ptr_mut(&key)?;
    // SAFETY: only this thread writes and removes its own entry. Cleared first, so that an entry
    // that cannot be removed is not taken for a call under way.
    let start = unsafe {
        let start = *entry;
        (*entry).start_ns = 0;
        start
    };
    let mut tries = 0;
    while tries < TRIES {
        if matches!(STARTS.remove(&key), Ok(()) | Err(ENOENT)) {
            break;
        }
        tries += 1;
    }
    (start.start_ns != 0).then_some(start)
}

/// A socket has another number from here on. Where the current thread makes a call on it, it is one that connects
/// (`MSG_FASTOPEN`), and belongs to the new conversation.
#[inline(always)]
pub(crate) fn renumber(sk: Pointer, flow: FlowId) {
    let call = Call::on(sk);
    if seat::renumber(&call, flow) {
        return;
    }
    if let Some(start) = STARTS.get_ptr_mut(&call) {
        // SAFETY: only this thread writes and removes its own entry.
        unsafe { (*start).flow = flow };
    }
}
