//! System calls of netdiag that fail one by one: it ends with a clear line and the status of the contract, or goes on
//! and says what it lacks; it never panics, hangs, or loses anything in silence.

use std::env;

use anyhow::{Context as _, Result};
use netdiag::snapshot::{Snapshot, Status};
use netdiag_tests::{
    facts::Facts,
    injection::{Injection, Killed, Trace, traced},
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{Outcome, count, flow_of},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::{Signal, kill_process};

const SOME: Exchange = Exchange { sends: 50, bytes: 10, echo: true };

/// A call, by which errno it fails, which ones of a thread are tried as a rule, and which by `NETDIAG_SWEEP`: up to
/// there, each so many. netdiag renames nothing, and receives by `recvfrom`. What a kernel cannot do is not tried:
/// a write to an eventfd has no room or is interrupted, and waking by that is tokio's.
type Case = (&'static str, &'static str, &'static [usize], (usize, usize));

const CASES: &[Case] = &[
    ("bpf", "EPERM", &[1, 8, 55], (300, 3)),
    ("bpf", "ENOMEM", &[30, 100, 150], (300, 7)),
    ("perf_event_open", "EACCES", &[1, 3], (8, 1)),
    // Before those are the first that Rust's runtime makes before `main`.
    ("mmap", "ENOMEM", &[10, 15], (80, 1)),
    ("openat", "EMFILE", &[10, 40, 160], (400, 9)),
    ("fcntl", "EMFILE", &[20], (200, 11)),
    ("socket", "EMFILE", &[1, 3], (30, 1)),
    // The first ones of the main thread are those by which a signal wakes it, and tokio's, too.
    ("recvfrom", "ENOBUFS", &[4, 8], (50, 1)),
    ("sendto", "EPERM", &[2], (20, 1)),
    ("ioctl", "EINVAL", &[1], (12, 1)),
    ("read", "EIO", &[100], (1_000, 23)),
    ("epoll_wait", "EINTR", &[2], (20, 1)),
    ("inotify_init1", "EMFILE", &[1], (1, 1)),
    ("setns", "EPERM", &[1], (10, 1)),
    ("clone3", "EAGAIN", &[1, 2, 4], (12, 1)),
    ("fsync", "EIO", &[1], (2, 1)),
];

fn numbers((_, _, some, (last, step)): &Case) -> Vec<usize> {
    if env::var_os("NETDIAG_SWEEP").is_none() {
        return some.to_vec();
    }
    let first = some.iter().copied().min().unwrap_or(1);
    (first..=*last).step_by(*step).collect()
}

/// Runs netdiag with a call that fails, beside some traffic; what it said, or only how it ended where that was before
/// it was ready. Gives how many calls failed.
fn run(injection: &Injection, namespace: &Namespace, facts: &mut Facts) -> Result<usize> {
    let directory = tempfile::tempdir()?;
    let trace = Trace::in_directory(directory.path());
    let out = directory.path().join("dumps").display().to_string();
    let arguments = ["record", "-o", "json", "-i", "200ms", "-d", "10h", "--out", &out];
    let all = [&arguments[..], &["--netns", namespace.name()]].concat();
    let mut netdiag = Netdiag::begin_by(injection.command(trace.path(), &all)?)?;
    // Before netdiag, which is strace here.
    let _both = Killed(netdiag.pid());
    if !netdiag.wait_ready_or_ended()? {
        let (status, _, said) = netdiag.wait_text()?;
        refused(facts, injection, status.code(), &said);
        let failed = trace.failed()?;
        eprintln!("{injection}: {failed} failed, status {:?}", status.code());
        return Ok(failed);
    }
    let connection = Connection::open(namespace, namespace, Family::V4)?;
    exchange([(&connection, SOME)])?;
    let end = connection.client_end()?;
    // It may have ended meanwhile.
    let _lines = netdiag.wait_lines(2);
    if let Ok(pid) = traced(netdiag.pid()) {
        let _ended = kill_process(pid, Signal::INT);
    }
    let outcome = netdiag.wait()?;
    let failed = trace.failed()?;
    eprintln!("{injection}: {failed} failed, status {:?}", outcome.code());
    if outcome.code() != Some(0) {
        refused(facts, injection, outcome.code(), &outcome.stderr);
        return Ok(failed);
    }
    let total = outcome.total()?;
    facts.note(format_args!("{injection}: {:?}", outcome.stderr));
    facts.at_rest(total);
    calm(facts, injection, &outcome.stderr);
    named(facts, injection, total);
    let seen = flow_of(total, &end).ok().and_then(|flow| count(flow, "sends"));
    let gap = seen != Some(SOME.sends as u64);
    facts.holds(
        format_args!("{injection}: {seen:?} sends of {} are no silent gap", SOME.sends),
        !gap || !total.complete || says_so(&outcome, "send"),
    );
    Ok(failed)
}

/// It said in one line why it ended, and with what status.
fn refused(facts: &mut Facts, injection: &Injection, code: Option<i32>, said: &[String]) {
    facts.note(format_args!("{injection}: {said:?}"));
    let statuses = [Some(1), Some(2), Some(3)];
    facts.holds(format_args!("{injection}: exit status {code:?}"), statuses.contains(&code));
    let last = said.last().map_or("", String::as_str);
    let is_clear = last.starts_with("netdiag: ") && last.contains("; ");
    facts.holds(format_args!("{injection}: a line with a next step, {last:?}"), is_clear);
    calm(facts, injection, said);
}

fn calm(facts: &mut Facts, injection: &Injection, said: &[String]) {
    let panicked = said.iter().any(|line| line.contains("panicked"));
    facts.equal(format_args!("{injection}: panicked"), panicked, false);
}

/// What is not full says what it lacks.
fn named(facts: &mut Facts, injection: &Injection, total: &Snapshot) {
    for signal in &total.signals {
        let is_named = !signal.missing.is_empty() || !signal.refused.is_empty();
        facts.holds(
            format_args!("{injection}: {signal:?} says what it lacks"),
            signal.status == Status::Full || is_named,
        );
    }
}

/// Whether a signal is told to be observed in part or not at all, or a line tells of trouble.
fn says_so(outcome: &Outcome, signal: &str) -> bool {
    let told = outcome.total.iter().flat_map(|total| &total.signals);
    let off = told.into_iter().any(|one| one.signal == signal && one.status == Status::Off);
    off || outcome.stderr.iter().any(|line| line.contains("at present"))
}

#[test]
fn each_call_may_fail() -> Result<()> {
    require!(Feature::Strace);
    let _alone = alone();
    let namespace = Namespace::new("faults")?;
    let mut facts = Facts::new();
    for case @ (call, error, ..) in CASES {
        let mut failed = 0;
        for number in numbers(case) {
            let injection = Injection::new(call, error, number);
            let run = run(&injection, &namespace, &mut facts);
            failed += run.with_context(|| injection.to_string())?;
        }
        facts.holds(format_args!("{call}: {failed} failed"), failed > 0);
    }
    facts.finish();
    Ok(())
}
