//! What only assembly can say: two atomic instructions that rustc does not offer for BPF targets (it
//! declares them without compare-and-exchange, which the kernel's BPF machine has from 5.12 on), and
//! a barrier for the optimiser.

use core::arch::asm;

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

/// If `*at` is `expected`, makes it `new`. Returns what it was.
///
/// # Safety
/// `at` is an 8-byte aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(at: *mut u64, expected: u64, new: u64) -> u64 {
    let old;
    // SAFETY: see above; the instruction compares with and returns through r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({at} + 0, r0, {new})",
            at = in(reg) at,
            new = in(reg) new,
            inlateout("r0") expected => old,
        );
    }
    old
}

/// Never attached: userspace tries to load it, to learn whether the kernel has [`compare_exchange`].
#[raw_tracepoint(tracepoint = "netdiag_probe")]
fn compare_exchange_probe(_ctx: RawTracePointContext) -> i32 {
    let mut word = 0;
    // SAFETY: a word of the stack is as good as one of a map value.
    let _zero = unsafe { compare_exchange(&raw mut word, 0, 1) };
    0
}

/// Stores `new` and returns what was there.
///
/// # Safety
/// As for [`compare_exchange`].
#[inline(always)]
pub(crate) unsafe fn exchange(at: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: see above.
    unsafe {
        asm!(
            "{value} = xchg_64({at} + 0, {value})",
            at = in(reg) at,
            value = inout(reg) value,
        );
    }
    value
}

/// The pointer itself, opaque to the optimiser, which would otherwise add offsets to a map value
/// before the check for null: verifiers up to 6.12 refuse that.
#[inline(always)]
pub(crate) fn opaque<T>(mut pointer: *mut T) -> *mut T {
    // A real instruction, not an empty one: the kernel refuses line numbers that share an address.
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// The same for a pointer that was checked: what the optimiser has lost sight of is not checked again.
///
/// # Safety
/// It is not null.
#[inline(always)]
pub(crate) unsafe fn opaque_checked<T>(pointer: *mut T) -> *mut T {
    let pointer = opaque(pointer);
    // SAFETY: see above.
    unsafe { core::hint::assert_unchecked(!pointer.is_null()) };
    pointer
}

/// The number itself, opaque to the optimiser.
#[inline(always)]
pub(crate) fn opaque_number(mut number: u64) -> u64 {
    // SAFETY: as above.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}

/// The number itself, which verifiers up to 6.3 know nothing of.
///
/// They lose sight of what a caller's code depends on while they walk through a function that it calls: what such a
/// function does to its own registers and stack they take for the caller's (`backtrack_insn`, kernel/bpf/verifier.c of
/// 5.10; mended by 6.4's "support precision propagation in the presence of subprogs"). So they may hold a call with one
/// number for the same as an earlier one with another, and remove the branch for it. Where a number is known before such
/// a call, by an assignment or a comparison, and decides something behind it, this one does.
#[inline(always)]
pub(crate) fn forgotten(mut number: u64) -> u64 {
    // A negated number is any number to them.
    // SAFETY: changes nothing.
    unsafe {
        asm!(
            "{0} = -{0}",
            "{0} = -{0}",
            inout(reg) number,
            options(nomem, nostack, preserves_flags),
        );
    }
    number
}
