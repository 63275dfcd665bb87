//! A program on a classic tracepoint, attached without a mounted tracefs, and the kernel's counts.

use std::{
    ffi::CStr,
    io,
    net::TcpListener,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
};

use netdiag::kernel::{
    missed::Runs,
    tracefs::{Tracefs, attach_tracepoint},
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

fn bpf<T>(command: libc::c_int, attr: &T) -> OwnedFd {
    // SAFETY: `attr` is a live, initialised bpf_attr of the size given; the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    let fd = i32::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "bpf({command}): {}", io::Error::last_os_error());
    // SAFETY: the kernel returned a new descriptor, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `return 0`.
fn program() -> OwnedFd {
    const LICENSE: &CStr = c"GPL";
    let instructions = [0xb7_u64, 0x95];
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACEPOINT,
        insn_cnt: 2,
        insns: instructions.as_ptr(),
        license: LICENSE.as_ptr(),
        rest: [0; 8],
    };
    bpf(BPF_PROG_LOAD, &attr)
}

/// Two state changes each: CLOSE to LISTEN and back.
fn listen(times: u64) {
    for _ in 0..times {
        drop(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    }
}

#[test]
fn one_event_runs_the_program_on_every_cpu() {
    let program = program();
    let _stats = bpf(BPF_ENABLE_STATS, &0_u32);
    let runs = || Runs::of(program.as_fd()).unwrap().run_count.unwrap();
    let id = Tracefs::open().unwrap().id("sock", "inet_sock_set_state").unwrap().unwrap();
    let attachment = attach_tracepoint(program.as_fd(), id).unwrap();

    let all = sched_getaffinity(None).unwrap();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)) {
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).unwrap();
        let before = runs();
        listen(50);
        let ran = runs() - before;
        // Other sockets of this machine may add to it.
        assert!(ran >= 100, "{ran} runs for 100 state changes on CPU {cpu}");
    }
    sched_setaffinity(None, &all).unwrap();

    drop(attachment);
    let before = runs();
    listen(50);
    assert_eq!(runs(), before, "runs after it was detached");
}

#[test]
fn a_number_of_no_tracepoint_is_refused() {
    assert!(attach_tracepoint(program().as_fd(), u64::from(u32::MAX)).is_err());
}
