//! A program on a classic tracepoint, attached without a mounted tracefs, and the kernel's counts.

use std::{net::TcpListener, os::fd::AsFd as _};

use netdiag::kernel::{
    missed::Runs,
    tracefs::{Tracefs, attach_tracepoint},
};
use netdiag_tests::program;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two state changes each: CLOSE to LISTEN and back.
fn listen(times: u64) {
    for _ in 0..times {
        drop(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    }
}

#[test]
fn one_event_runs_the_program_on_every_cpu() {
    let program = program::idle(0).unwrap();
    let _stats = program::count_runs().unwrap();
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
    let program = program::idle(0).unwrap();
    assert!(attach_tracepoint(program.as_fd(), u64::from(u32::MAX)).is_err());
}
