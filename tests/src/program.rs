//! Programs for the kernel, written here instruction by instruction: they need neither a compiler nor a loader.

use std::{
    ffi::CStr,
    io, iter,
    os::fd::{FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use netdiag::kernel::memlock;

/// `enum bpf_cmd` and `enum bpf_prog_type`, include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_ENABLE_STATS: libc::c_int = 32;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: *const u64,
    license: *const libc::c_char,
    rest: [u64; 8],
}

fn bpf<T>(command: libc::c_int, attr: &T) -> Result<OwnedFd> {
    // SAFETY: `attr` is a live, initialised bpf_attr of the size given; the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    ensure!(fd >= 0, "bpf({command}): {}", io::Error::last_os_error());
    let fd = i32::try_from(fd).context("a descriptor")?;
    // SAFETY: the kernel returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One for tracepoints that does nothing, in so many instructions more than it takes.
///
/// # Errors
/// The kernel refuses it.
pub fn idle(more: usize) -> Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    /// `r0 = 0`, `r0 += 1` and `exit` (Documentation/bpf/standardization/instruction-set.rst).
    const ZERO: u64 = 0xb7;
    const ADD: u64 = 1 << 32 | 0x07;
    const EXIT: u64 = 0x95;
    // Kernels before 5.11 charge programs to locked memory: where that stays limited, loading may fail.
    let _limited = memlock::raise();
    let work = iter::repeat_n(ADD, more);
    let instructions: Vec<u64> = iter::once(ZERO).chain(work).chain([ZERO, EXIT]).collect();
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACEPOINT,
        insn_cnt: u32::try_from(instructions.len())?,
        insns: instructions.as_ptr(),
        license: LICENSE.as_ptr(),
        rest: [0; 8],
    };
    bpf(BPF_PROG_LOAD, &attr)
}

/// Lets the kernel count the runs of all programs as long as the value lives.
///
/// # Errors
/// The kernel refuses to.
pub fn count_runs() -> Result<OwnedFd> {
    bpf(BPF_ENABLE_STATS, &0_u32)
}
