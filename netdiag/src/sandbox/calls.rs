//! System calls that are refused from then on, by seccomp: with `EPERM`, in all threads.
//!
//! They are those by which who has taken over this process would get further: starting programs, looking into
//! other processes, changing mounts, keys or the kernel. A list of what is allowed would be shorter to attack,
//! and would break with each C library and kernel that does the same by a newer call: here what is unknown stays
//! allowed, and capabilities bound it.

use std::{collections::BTreeMap, env::consts::ARCH};

use anyhow::{Context as _, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Later;

/// What a run still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// It reads recordings: nothing of `bpf(2)`, no perf events, no sockets, and no namespace but its own.
    Recordings,
    /// It watches the node: it reads and writes maps, runs programs that empty batches, enters network namespaces and has
    /// sockets in them; and what it may have to do later.
    Watching(Later),
}

/// Refused to every run. Where a call has an older name that does the same, both are here.
const REFUSED: &[i64] = &[
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tkill,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // File systems and what is found where.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    // Namespaces of its own.
    libc::SYS_unshare,
    // The kernel.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_personality,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Calls by a queue, which no filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];

/// Likewise, where the processor has them.
#[cfg(target_arch = "x86_64")]
const OF_PROCESSOR: &[i64] =
    &[libc::SYS_uselib, libc::SYS_mknod, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const OF_PROCESSOR: &[i64] = &[];

/// What the ABI of 32-bit pointers adds to the numbers of calls (`__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h),
/// where the kernel has it.
const X32: i64 = 0x4000_0000;
/// The calls that have numbers of their own there (arch/x86/entry/syscalls/syscall_64.tbl): all of them.
const X32_OWN: std::ops::RangeInclusive<i64> = 512..=547;

/// Commands of `bpf(2)` (enum `bpf_cmd`, include/uapi/linux/bpf.h) on what is there: look-up, update and delete of one
/// entry of a map (1 to 3), runs of a program (10), facts of a map, which mapping a ring again asks for, and of a program,
/// of which its skipped runs and what it takes are (15), and having the kernel measure that (32). Nothing else is asked
/// of what is there: no map is walked through, and links are taken out by closing them.
const MAPS: &[u64] = &[1, 2, 3, 10, 15, 32];
/// Attaching a program to a kprobe (28). It is loaded by then and stays so while it is taken out: what follows a module
/// loads its programs at the start, whether or not the module is there.
const LATE: &[u64] = &[28];

/// Refuses them from now on.
///
/// # Errors
/// The kernel has no seccomp, or does not allow it.
pub(super) fn deny(needs: Needs) -> Result<()> {
    Ok(apply_filter_all_threads(&program(needs)?)?)
}

fn program(needs: Needs) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(OF_PROCESSOR).map(|&call| (call, Vec::new())).collect();
    // Others of this user may be killed without any capability.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![none_of(0, &[u64::from(std::process::id())])?]);
    }
    match needs {
        Needs::Recordings => {
            let more = [
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_setns,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_bind,
            ];
            rules.extend(more.map(|call| (call, Vec::new())));
        }
        Needs::Watching(later) => {
            let late: &[u64] = if later.programs { LATE } else { &[] };
            rules.insert(libc::SYS_bpf, vec![none_of(0, &[MAPS, late].concat())?]);
            // Network namespaces are entered, and no others.
            rules.insert(libc::SYS_setns, vec![none_of(1, &[libc::CLONE_NEWNET as u64])?]);
            if !later.opens_perf_events() {
                rules.insert(libc::SYS_perf_event_open, Vec::new());
            }
        }
    }
    if cfg!(target_arch = "x86_64") {
        let twins: Vec<_> = rules.keys().map(|call| call | X32).collect();
        rules.extend(
            twins.into_iter().chain(X32_OWN.map(|call| call | X32)).map(|it| (it, Vec::new())),
        );
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        TargetArch::try_from(ARCH).context("system calls of this processor are not known")?,
    )?;
    Ok(filter.try_into()?)
}

/// Where an argument has none of these values.
fn none_of(argument: u8, values: &[u64]) -> Result<SeccompRule> {
    let is_not = |&value: &u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
    };
    let conditions = values.iter().map(is_not).collect::<Result<_, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command, thread};

    use rustix::{
        io::Errno,
        process::{Pid, getpid, test_kill_process},
    };
    use seccompiler::apply_filter;

    use super::*;

    const NEVER: Later = Later { programs: false, rings: false };
    const LATER: Later = Later { programs: true, rings: true };

    /// What a thread can do that these calls are refused to.
    fn refused<T: Send + 'static>(needs: Needs, then: impl FnOnce() -> T + Send + 'static) -> T {
        let run = move || {
            apply_filter(&program(needs).expect("a filter")).expect("seccomp");
            then()
        };
        thread::spawn(run).join().expect("a thread")
    }

    #[test]
    fn no_program_is_started_and_nobody_is_killed() {
        for needs in [Needs::Recordings, Needs::Watching(NEVER), Needs::Watching(LATER)] {
            let (started, killed, own) = refused(needs, || {
                let parent = rustix::process::getppid().unwrap_or(Pid::INIT);
                (
                    Command::new("true").status(),
                    test_kill_process(parent),
                    test_kill_process(getpid()),
                )
            });
            let error = started.expect_err("it is refused");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{needs:?}");
            assert_eq!(killed, Err(Errno::PERM), "{needs:?}");
            assert_eq!(own, Ok(()), "{needs:?}");
        }
    }

    #[test]
    fn sockets_are_for_those_who_watch() {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").map(drop);
        let error = refused(Needs::Recordings, bind).expect_err("it is refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        refused(Needs::Watching(NEVER), bind).expect("a socket");
    }
}
