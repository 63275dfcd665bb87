//! Where the beginnings of calls lie until their ends come for them.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap, macros::btf_map};
use netdiag_common::counters::Counters;

use crate::{assembly, kernel::Pointer, slot::Slot};

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
struct Call {
    sk: u64,
    /// `bpf_get_current_pid_tgid`: unique to a thread, never 0.
    thread: u64,
}

/// Beginnings that have no slot to lie in; 0 when the call returned. Userspace sets the size.
#[btf_map]
static STARTS: HashMap<Call, u64, 1> = HashMap::new();

/// Where beginnings may lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the slot if it is free. Needs compare-and-exchange: 5.12 and later, typed programs.
    Slot,
    /// In [`STARTS`].
    Hash,
}

#[inline(always)]
pub(super) fn is_under_way(sk: Pointer, slot: &Slot, place: Place, thread: u64) -> bool {
    if place == Place::Slot && slot.sender == thread {
        return true;
    }
    let call = Call { sk: sk as u64, thread };
    // SAFETY: only this thread writes and removes its own entry.
    unsafe { STARTS.get(&call) }.is_some_and(|&start_ns| start_ns != 0)
}

/// Puts the beginning of this thread's call where its end finds it, and counts it.
#[inline(always)]
pub(super) fn remember(
    sk: Pointer,
    slot: &mut Slot,
    place: Place,
    thread: u64,
    start_ns: u64,
    counters: &mut Counters,
) {
    if place == Place::Slot {
        // SAFETY: a word of the slot, which outlives the program.
        let held = unsafe { assembly::compare_exchange(&raw mut slot.sender, 0, thread) };
        if held == 0 || held == thread {
            if held == thread {
                counters.unmatched += 1;
                counters.ended += 1;
            }
            counters.seen += 1;
            counters.begun += 1;
            slot.send_start_ns = start_ns;
            return;
        }
    }
    let call = Call { sk: sk as u64, thread };
    let inserted = insert(&call, start_ns);
    counters.seen += 1;
    if inserted == Ok(()) {
        counters.begun += 1;
        return;
    }
    let Some(earlier) = STARTS.get_ptr_mut(&call) else {
        counters.map_full += 1;
        return;
    };
    // SAFETY: only this thread writes and removes its own entry, so it stays.
    unsafe {
        if *earlier != 0 {
            counters.unmatched += 1;
            counters.ended += 1;
        }
        counters.begun += 1;
        *earlier = start_ns;
    }
}

/// Puts a beginning into [`STARTS`] unless one of the same call is there.
#[inline(always)]
fn insert(call: &Call, start_ns: u64) -> Result<(), i32> {
    let mut result = Err(EEXIST);
    let mut tries = 0;
    while tries < TRIES {
        result = STARTS.insert(call, &start_ns, u64::from(BPF_NOEXIST));
        if matches!(result, Ok(()) | Err(EEXIST)) {
            break;
        }
        tries += 1;
    }
    result
}

/// Takes the beginning of this thread's call out again.
#[inline(always)]
pub(super) fn recall(sk: Pointer, slot: &mut Slot, place: Place, thread: u64) -> Option<u64> {
    if place == Place::Slot && slot.sender == thread {
        let start_ns = slot.send_start_ns;
        // An exchange, not a store: on weakly ordered machines the next holder's start must not
        // be visible before ours was read.
        // SAFETY: as in `remember`.
        let _us = unsafe { assembly::exchange(&raw mut slot.sender, 0) };
        return Some(start_ns);
    }
    let call = Call { sk: sk as u64, thread };
    let start = STARTS.get_ptr_mut(&call)?;
    // SAFETY: only this thread writes and removes its own entry. Cleared first, so that an entry
    // that cannot be removed is not taken for a call under way.
    let start_ns = unsafe { core::ptr::replace(start, 0) };
    let mut tries = 0;
    while tries < TRIES {
        if matches!(STARTS.remove(&call), Ok(()) | Err(ENOENT)) {
            break;
        }
        tries += 1;
    }
    (start_ns != 0).then_some(start_ns)
}
