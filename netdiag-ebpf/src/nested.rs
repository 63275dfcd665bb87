//! Programs that a softirq interrupts and then runs once more, on the same CPU.
//!
//! From 6.1 on the kernel skips such a run and counts it. Where nothing may go unseen a second program
//! on the same hook stands in ([`first`], [`second`]). Older kernels run a program inside itself: then
//! the inner run has the lane's twin ([`private`]). TCP runs in tasks and softirqs, so two are enough.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_get_current_pid_tgid, macros::btf_map};

use crate::{
    account::{Lane, counters},
    assembly::opaque,
    kernel::{self, Access, Pointer},
};

/// Of one lane on one CPU.
#[repr(C)]
struct Flag {
    /// 1 while its program is under way.
    up: u64,
    /// The task in which [`first`] was last done with its body.
    done_by: u64,
    /// And what that run was about.
    done_with: u64,
}

/// By lane.
#[btf_map]
static UNDER_WAY: PerCpuArray<[Flag; Lane::COUNT], 1> = PerCpuArray::new();

#[inline(always)]
fn flag_of(lane: Lane) -> Option<*mut Flag> {
    let all = opaque(UNDER_WAY.get_ptr_mut(0)?);
    // SAFETY: the element of this CPU lives as long as the map; makes no reference.
    Some(unsafe { (&raw mut (*all)).cast::<Flag>().add(lane.index()) })
}

/// # Safety
/// `flag` comes from [`flag_of`].
#[inline(always)]
unsafe fn is_up(flag: *mut Flag) -> bool {
    // SAFETY: see above. Volatile: an interrupt may come at any point.
    unsafe { core::ptr::read_volatile(&raw const (*flag).up) != 0 }
}

/// Runs `body` with the flag up, and lowers it.
///
/// # Safety
/// `flag` comes from [`flag_of`].
#[inline(always)]
unsafe fn under(flag: *mut Flag, body: impl FnOnce()) {
    // SAFETY: see above. Volatile: an interrupt may come at any point.
    unsafe {
        core::ptr::write_volatile(&raw mut (*flag).up, 1);
        compiler_fence(Ordering::SeqCst);
        body();
        compiler_fence(Ordering::SeqCst);
        core::ptr::write_volatile(&raw mut (*flag).up, 0);
    }
}

/// Runs a program with a lane of its own: the twin of `lane` inside another run of it.
#[inline(always)]
pub(crate) fn private(lane: Lane, body: impl FnOnce(Lane)) {
    let Some(flag) = flag_of(lane) else { return };
    // By arithmetic: a branch here would have verifiers walk through all that follows twice.
    // SAFETY: just got. Volatile: an interrupt may come at any point.
    let lane = lane.or_twin(unsafe { core::ptr::read_volatile(&raw const (*flag).up) });
    let Some(flag) = flag_of(lane) else { return };
    // SAFETY: just got.
    unsafe { under(flag, || body(lane)) };
}

/// The program of `lane`, which is about `what`. Leaves a run inside itself to the second one.
#[inline(always)]
pub(crate) fn first(lane: Lane, what: Pointer, body: impl FnOnce()) {
    let Some(flag) = flag_of(lane) else { return };
    // SAFETY: just got.
    unsafe {
        if is_up(flag) {
            return;
        }
        let task = bpf_get_current_pid_tgid();
        if core::ptr::read_volatile(&raw const (*flag).done_by) == task {
            // It is here again, so the second one is done with that, too.
            core::ptr::write_volatile(&raw mut (*flag).done_with, 0);
        }
        under(flag, body);
        core::ptr::write_volatile(&raw mut (*flag).done_by, task);
        core::ptr::write_volatile(&raw mut (*flag).done_with, what as u64);
    }
}

/// The program that stands in for that of `lane`, and counts in `own`. It must run after it on the same
/// hook (`Source::attachments` in netdiag/src/definition.rs).
///
/// The kernel also skips the first one where it interrupts it before its first instruction or behind
/// its last, and no flag is up. In a softirq nothing comes between the two, so there it is enough that
/// the first one was not here.
///
/// # Safety
/// `sk` is a full socket, and where a task works on it, it owns it.
#[inline(always)]
pub(crate) unsafe fn second<A: Access>(
    lane: Lane,
    own: Lane,
    sk: Pointer,
    what: Pointer,
    body: impl FnOnce(),
) {
    let (Some(flag), Some(counters)) = (flag_of(lane), counters(own)) else { return };
    // SAFETY: just got.
    unsafe {
        if core::ptr::read_volatile(&raw const (*flag).done_with) == what as u64
            && core::ptr::read_volatile(&raw const (*flag).done_by) == bpf_get_current_pid_tgid()
        {
            core::ptr::write_volatile(&raw mut (*flag).done_with, 0);
            return;
        }
        // A task may be preempted between the two by one that does both.
        if !is_up(flag) && kernel::is_owned::<A>(sk) != Ok(false) {
            return;
        }
    }
    counters.stood_in += 1;
    body();
}
