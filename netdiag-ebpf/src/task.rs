//! Who is at work: the task in whose own context a program runs, and the call that it is in.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_task},
};
use netdiag_common::{
    field::Field,
    globals::hierarchy::{FIRST_SUBSYSTEM, NONE, UNIFIED},
};

use crate::{
    globals::{location, settings},
    kernel::{Access as _, Pointer, Probed, Refused, field},
};

/// `PF_KTHREAD` (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// `THREAD_SIZE` where it is smallest. What lies beyond counts as another stack.
pub(crate) const STACK_BYTES: u64 = 16 << 10;

/// A call returns to where it was made, so its frame names it from its beginning to its end: a softirq
/// that interrupts it has another stack, and the same thread id.
#[inline(always)]
fn stack_pointer(regs: Pointer) -> Result<u64, Refused> {
    // SAFETY: the access survives any address; `regs` is a `struct pt_regs`.
    unsafe { field::<Probed, u64>(regs, Field::RegsSp) }
}

/// The frame of the function that begins; `regs` is a kprobe's context.
#[inline(always)]
pub(crate) fn frame_that_begins(regs: Pointer) -> Result<u64, Refused> {
    // x86 has pushed the address that the function returns to.
    let pushed = if cfg!(bpf_target_arch = "x86_64") { 8 } else { 0 };
    Ok(stack_pointer(regs)? + pushed)
}

/// The frame of the function that returns; `regs` is a kretprobe's context.
#[inline(always)]
pub(crate) fn frame_that_ends(regs: Pointer) -> Result<u64, Refused> {
    stack_pointer(regs)
}

/// The process that called into the kernel, and its name; nothing of a kernel thread, or in an
/// interrupt, which has nothing to do with the task that it interrupts. `frame` is on the stack that
/// is at work.
#[inline(always)]
pub(crate) fn caller(frame: u64, pid: &mut u32, comm: &mut [u8; 16]) -> Result<(), Refused> {
    // SAFETY: of the current task.
    let stack = unsafe { field::<Probed, u64>(current(), Field::TaskStack) }?;
    if frame.wrapping_sub(stack) < STACK_BYTES { process(pid, comm) } else { Ok(()) }
}

/// The process that the current task belongs to, and its name; nothing of a kernel thread.
#[inline(always)]
pub(crate) fn process(pid: &mut u32, comm: &mut [u8; 16]) -> Result<(), Refused> {
    // SAFETY: of the current task.
    unsafe {
        if field::<Probed, u32>(current(), Field::TaskFlags)? & KERNEL_THREAD != 0 {
            return Ok(());
        }
        let leader: Pointer = field::<Probed, _>(current(), Field::TaskLeader)?;
        *comm = field::<Probed, _>(leader, Field::TaskComm)?;
    }
    *pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    Ok(())
}

/// Whether the current task is a process's, not a kernel thread.
#[inline(always)]
pub(crate) fn is_of_process() -> bool {
    // SAFETY: of the current task.
    let flags = unsafe { field::<Probed, u32>(current(), Field::TaskFlags) };
    flags.is_ok_and(|flags| flags & KERNEL_THREAD == 0)
}

/// The name of a process, zero-padded, as two words.
pub(crate) type Name = [u64; 2];

/// The name of the process that the current task belongs to, and the thread that it is the name of: the process's
/// first, or this one where its memory must not be read.
#[inline(always)]
pub(crate) fn name() -> (Name, u32) {
    let task = bpf_get_current_pid_tgid();
    let (process, thread) = ((task >> 32) as u32, task as u32);
    if process != thread
        && settings::reads_tasks()
        && let Ok(name) = leaders_name()
    {
        return (padded(name), process);
    }
    // Kernels around 6.1 copy a name up to its end and leave what is behind it (`bpf_get_current_comm`,
    // kernel/bpf/helpers.c, `strscpy` there).
    let mut name = [0; 2];
    // SAFETY: it is as large as that.
    let _always_works =
        unsafe { bpf_get_current_comm((&raw mut name).cast(), size_of::<Name>() as u32) };
    (name, thread)
}

#[inline(always)]
fn leaders_name() -> Result<Name, Refused> {
    // SAFETY: of the current task.
    unsafe {
        let leader: Pointer = field::<Probed, _>(current(), Field::TaskLeader)?;
        field::<Probed, _>(leader, Field::TaskComm)
    }
}

/// The kernel leaves behind a name's end what a longer one left there. No look at one byte after the other, for each
/// of which the verifier would go two ways.
#[inline(always)]
fn padded([first, second]: Name) -> Name {
    let end = end_of(first);
    let second = second & end_of(second).wrapping_sub(1);
    [first & end.wrapping_sub(1), if end == 0 { second } else { 0 }]
}

/// The highest bit of the first byte that is zero, the lowest being the first; 0 where none is.
#[inline(always)]
fn end_of(word: u64) -> u64 {
    let zeros = word.wrapping_sub(u64::MAX / 0xff) & !word & (u64::MAX / 0xff << 7);
    zeros & zeros.wrapping_neg()
}

/// Id of the cgroup of the current task in the hierarchy that userspace chose, 0 when unknown.
#[inline(always)]
pub(crate) fn cgroup() -> u64 {
    match settings::hierarchy() {
        NONE => 0,
        // SAFETY: no precondition.
        UNIFIED => unsafe { bpf_get_current_cgroup_id() },
        of_subsystem => subsystem_cgroup((of_subsystem - FIRST_SUBSYSTEM) as usize).unwrap_or(0),
    }
}

/// The same in the hierarchy of a subsystem, as `task_cgroup` (include/linux/cgroup.h) finds it.
#[inline(always)]
fn subsystem_cgroup(number: usize) -> Result<u64, Refused> {
    let subsystem = location(Field::CgroupsSubsys).offset() + number * size_of::<Pointer>();
    // SAFETY: of the current task, and each pointer comes from the struct whose BTF gives the location; the
    // helper survives any address, and a set that the task leaves meanwhile is freed after a grace period
    // of RCU.
    unsafe {
        let cgroups: Pointer = field::<Probed, _>(current(), Field::TaskCgroups)?;
        let state: Pointer = Probed::load(cgroups, subsystem)?;
        let cgroup: Pointer = field::<Probed, _>(state, Field::SubsysCgroup)?;
        let node: Pointer = field::<Probed, _>(cgroup, Field::CgroupNode)?;
        field::<Probed, _>(node, Field::NodeId)
    }
}

#[inline(always)]
fn current() -> Pointer {
    // SAFETY: always valid.
    unsafe { bpf_get_current_task() as Pointer }
}
