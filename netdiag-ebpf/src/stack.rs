//! The kernel's stack at a hook, where a run asks for it.

use aya_ebpf::{btf_maps::StackTrace, macros::btf_map, programs::tracing::StackIdContext};
use netdiag_common::stack::{self, FRAMES};

use crate::globals::settings;

/// Userspace sets how many there may be.
#[btf_map]
static STACKS: StackTrace<1, 0, FRAMES> = StackTrace::new();

/// What a record says of the stack. A stack that finds its place in the map taken by another is not
/// taken: replacing that one would give earlier records a stack that is not theirs.
#[inline(always)]
pub(crate) fn of(ctx: &impl StackIdContext) -> u32 {
    if !settings::stacks() {
        return stack::NOT_ASKED;
    }
    match ctx.get_stackid(&STACKS, 0) {
        Ok(id) => stack::of(id as u32),
        Err(_) => stack::NOT_TAKEN,
    }
}
