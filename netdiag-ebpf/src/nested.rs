//! Runs that the kernel would skip: it never lets a program run inside itself, so what a softirq does
//! while it interrupts a program of a task would go unseen by that program. A second program on the
//! same hook stands in for it.
//!
//! The first one is attached first, and so runs first: a kernel that runs it all the same (before
//! 6.1) has it done and over when the second one looks.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};

use crate::{account::Lane, assembly::opaque};

/// Of one lane on one CPU.
#[repr(C)]
struct Flag {
    /// 1 while its program is under way.
    up: u32,
}

/// By lane.
#[btf_map]
static UNDER_WAY: PerCpuArray<[Flag; Lane::COUNT], 1> = PerCpuArray::new();

#[inline(always)]
fn under_way(lane: Lane) -> Option<*mut Flag> {
    let all = opaque(UNDER_WAY.get_ptr_mut(0)?);
    // SAFETY: the element of this CPU lives as long as the map; makes no reference.
    Some(unsafe { (&raw mut (*all)).cast::<Flag>().add(lane.index()) })
}

/// The program of `lane`.
#[inline(always)]
pub(crate) fn first(lane: Lane, body: impl FnOnce()) {
    let Some(flag) = under_way(lane) else { return };
    // SAFETY: see `under_way`. Volatile: an interrupt may come at any point.
    unsafe {
        core::ptr::write_volatile(&raw mut (*flag).up, 1);
        compiler_fence(Ordering::SeqCst);
        body();
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*flag).up, 0);
    }
}

/// The program that stands in for that of `lane`.
#[inline(always)]
pub(crate) fn second(lane: Lane, body: impl FnOnce()) {
    let Some(flag) = under_way(lane) else { return };
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const (*flag).up) } != 0 {
        body();
    }
}
