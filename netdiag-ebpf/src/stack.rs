//! The kernel's stack at a hook, where a run asks for it.

use aya_ebpf::{btf_maps::StackTrace, macros::btf_map, programs::tracing::StackIdContext};
use netdiag_common::stack::{self, FRAMES};

use crate::globals::settings;

/// Userspace sets how many there may be.
#[btf_map]
static STACKS: StackTrace<1, 0, FRAMES> = StackTrace::new();

/// Innermost frames that no hook of ours tells anything by: the program's own, and what called it
/// (`bpf_trace_run*`, a trampoline).
const SPARE: u64 = 2;

/// What a record says of the stack. A stack that finds its place in the map taken by another is not
/// put in its stead: that would give earlier records a stack that is not theirs. Without a spare frame
/// it has another place; one that finds none of them free is not taken.
#[inline(always)]
pub(crate) fn of(ctx: &impl StackIdContext) -> u32 {
    if !settings::stacks() {
        return stack::NOT_ASKED;
    }
    for skipped in 0..=SPARE {
        if let Ok(id) = ctx.get_stackid(&STACKS, skipped) {
            return stack::of(id as u32);
        }
    }
    stack::NOT_TAKEN
}
