//! System calls of netdiag that fail one by one: it ends with a clear line and the status of the contract, or goes on
//! and says what it lacks; it never panics, hangs, or loses anything in silence.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
    time::Instant,
};

use anyhow::{Result, bail, ensure};
use netdiag::snapshot::{Snapshot, Status};
use netdiag_tests::{
    facts::Facts,
    injection::{Calls, Injection, Killed, Trace, traced},
    namespace::Namespace,
    netdiag::Netdiag,
    outcome::{Outcome, count, flow_of},
    recording, require,
    requirement::{Feature, alone},
    traffic::{
        Connection, End, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

const SOME: Exchange = Exchange { sends: 50, bytes: 10, echo: true };
const NODE: &str = "faulty";

/// Which calls of a thread are tried as a rule; `NETDIAG_SWEEP` tries each that a run without a failure makes. Those
/// before `main` are never.
enum Which {
    /// These.
    Each(&'static [usize]),
    /// That many percent on the way from the first to the last that a run without a failure makes.
    Percent(&'static [usize]),
    /// This one and all behind it.
    From(usize),
}

/// A call, by which errno it fails, and which ones. What a kernel cannot do is not tried: a write to an eventfd has no
/// room or is interrupted, so that of `write` those to the recording alone count.
type Case = (&'static str, &'static str, Which);

const CASES: &[Case] = &[
    ("bpf", "EPERM", Which::Each(&[1, 8, 55])),
    ("bpf", "ENOMEM", Which::Each(&[30, 100, 150])),
    ("perf_event_open", "EACCES", Which::Each(&[1, 3])),
    ("mmap", "ENOMEM", Which::Each(&[10, 15])),
    ("openat", "EMFILE", Which::Each(&[10, 40, 160])),
    // Descriptors are doubled for what is measured by, and at the end for what is counted by.
    ("fcntl", "EMFILE", Which::Percent(&[40, 90])),
    ("socket", "EMFILE", Which::Each(&[1, 3])),
    ("recvfrom", "ENOBUFS", Which::Each(&[4, 8])),
    ("sendto", "EPERM", Which::Each(&[2])),
    ("ioctl", "EINVAL", Which::Each(&[1])),
    ("read", "EIO", Which::Each(&[100])),
    ("epoll_wait", "EINTR", Which::Each(&[2])),
    ("inotify_init1", "EMFILE", Which::Each(&[1])),
    ("setns", "EPERM", Which::Each(&[1])),
    ("clone3", "EAGAIN", Which::Each(&[1, 2, 4])),
    ("fsync", "EIO", Which::Each(&[1])),
    ("write", "EIO", Which::Each(&[3])),
    ("write", "EIO", Which::From(2)),
    ("write", "ENOSPC", Which::Each(&[4])),
];

/// Calls that are never made, so that none can fail: files are written in place, and answers received by `recvfrom`.
const NEVER: [&str; 4] = ["rename", "renameat", "renameat2", "recvmsg"];

/// What tokio ends with where that fails by which a signal or a thread wakes it, which no kernel lets happen.
const TOKIOS: [&str; 2] = ["Bad read on self-pipe", "failed to wake I/O driver"];

fn is_sweep() -> bool {
    env::var_os("NETDIAG_SWEEP").is_some()
}

/// As strace has them.
fn numbers((call, _, which): &Case, calls: &Calls) -> Vec<String> {
    let first = calls.before_main(call) + 1;
    let last = calls.most(call).max(first);
    if is_sweep() {
        let end = if matches!(which, Which::From(_)) { "+" } else { "" };
        return (first..=last).map(|number| format!("{number}{end}")).collect();
    }
    // Which ones there are changes with netdiag, its kernel and its threads.
    let near = |number: usize| number.clamp(first, last).to_string();
    let mut numbers: Vec<_> = match which {
        Which::Each(numbers) => numbers.iter().map(|&number| near(number)).collect(),
        Which::Percent(parts) => {
            parts.iter().map(|part| near(first + (last - first) * part / 100)).collect()
        }
        Which::From(number) => vec![format!("{}+", near(*number))],
    };
    numbers.dedup();
    numbers
}

/// Where a run writes to, and where strace notes what it calls.
struct Stage {
    out: PathBuf,
    trace: Trace,
    _directory: TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // As the kernel names what lies in it.
        let root = directory.path().canonicalize()?;
        Ok(Self {
            out: root.join("dumps"),
            trace: Trace::in_directory(&root),
            _directory: directory,
        })
    }

    fn arguments(&self, namespace: &Namespace) -> Vec<String> {
        let out = self.out.display().to_string();
        let all =
            ["record", "-o", "json", "-i", "200ms", "-d", "10h", "--node", NODE, "--out", &out];
        let all = [&all[..], &["--netns", namespace.name()]].concat();
        all.into_iter().map(str::to_owned).collect()
    }
}

/// What came of a run.
enum Played {
    /// It ended before it was ready: with what status, and what it said.
    Refused(Option<i32>, Vec<String>),
    /// What it said beside a connection with this end.
    Ran(Box<Outcome>, End),
}

/// Runs netdiag by strace beside some traffic.
fn play(strace: Command, namespace: &Namespace) -> Result<Played> {
    let mut netdiag = Netdiag::begin_by(strace)?;
    // Before netdiag, which is strace here.
    let _both = Killed(netdiag.pid());
    if !netdiag.wait_ready_or_ended()? {
        let (status, _, said) = netdiag.wait_text()?;
        return Ok(Played::Refused(status.code(), said));
    }
    let connection = Connection::open(namespace, namespace, Family::V4)?;
    exchange([(&connection, SOME)])?;
    let end = connection.client_end()?;
    // It may have ended meanwhile.
    let _lines = netdiag.wait_lines(2);
    if let Ok(pid) = traced(netdiag.pid()) {
        let _ended = kill_process(pid, Signal::INT);
    }
    Ok(Played::Ran(Box::new(netdiag.wait()?), end))
}

/// Which calls netdiag makes where none fails.
fn counted(namespace: &Namespace) -> Result<Calls> {
    let stage = Stage::new()?;
    let mut calls: Vec<_> = CASES.iter().map(|(call, ..)| *call).chain(NEVER).collect();
    calls.sort_unstable();
    calls.dedup();
    let arguments = stage.arguments(namespace);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match play(Calls::command(&calls, stage.trace.path(), &arguments)?, namespace)? {
        Played::Ran(outcome, _) => {
            ensure!(outcome.code() == Some(0), "{:?}: {:?}", outcome.status, outcome.stderr);
        }
        Played::Refused(code, said) => bail!("without a failure: status {code:?}, {said:?}"),
    }
    Calls::read(&stage.trace, &stage.out)
}

/// Runs netdiag with a call that fails; what it said, or only how it ended where that was before it was ready. Gives how
/// many calls failed.
fn run(injection: Injection, namespace: &Namespace, facts: &mut Facts) -> Result<usize> {
    let stage = Stage::new()?;
    let files = match injection.call {
        "write" => recording::upcoming(&stage.out, NODE),
        _ => Vec::new(),
    };
    let injection = injection.on(files);
    let arguments = stage.arguments(namespace);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let played = play(injection.command(stage.trace.path(), &arguments)?, namespace)?;
    let failed = stage.trace.failed()?;
    let (code, said) = match &played {
        Played::Refused(code, said) => (*code, said),
        Played::Ran(outcome, _) => (outcome.code(), &outcome.stderr),
    };
    eprintln!("{injection}: {failed} failed, status {code:?}");
    if said.iter().any(|line| TOKIOS.iter().any(|words| line.contains(words))) {
        facts.note(format_args!("{injection}: tokio's, {said:?}"));
        return Ok(failed);
    }
    match &played {
        Played::Ran(outcome, end) if code == Some(0) => went_on(facts, &injection, outcome, end)?,
        _ => refused(facts, &injection, code, said),
    }
    Ok(failed)
}

/// It ran to its end, and says what it lacks.
fn went_on(facts: &mut Facts, injection: &Injection, outcome: &Outcome, end: &End) -> Result<()> {
    let total = outcome.total()?;
    facts.note(format_args!("{injection}: {:?}", outcome.stderr));
    facts.at_rest(total);
    calm(facts, injection, &outcome.stderr);
    named(facts, injection, total);
    let seen = flow_of(total, end).ok().and_then(|flow| count(flow, "sends"));
    let gap = seen != Some(SOME.sends as u64);
    facts.holds(
        format_args!("{injection}: {seen:?} sends of {} are no silent gap", SOME.sends),
        !gap || !total.complete || says_so(outcome, "send"),
    );
    Ok(())
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
    let calls = counted(&namespace)?;
    let mut facts = Facts::new();
    for call in NEVER {
        facts.equal(format_args!("calls of {call}"), calls.most(call), 0);
    }
    let plan: Vec<_> = CASES.iter().map(|case| (case, numbers(case, &calls))).collect();
    let all: usize = plan.iter().map(|(_, numbers)| numbers.len()).sum();
    let (began, mut runs) = (Instant::now(), 0);
    for ((call, error, _), numbers) in plan {
        let mut failed = 0;
        for number in numbers {
            let injection = Injection::new(call, error, number);
            match run(injection.clone(), &namespace, &mut facts) {
                Ok(more) => failed += more,
                Err(error) => facts.holds(format_args!("{injection}: {error:#}"), false),
            }
            runs += 1;
            if is_sweep() {
                // Not by the macro, whose lines are kept until the end: that is an hour or more away.
                let took = began.elapsed().as_secs();
                let wrong = if facts.any_wrong() { ", some wrong" } else { "" };
                let line = format!("{runs} of {all} in {took} s{wrong}: {injection}\n");
                let _closed = io::stderr().write_all(line.as_bytes());
            }
        }
        facts.holds(format_args!("{call}: {failed} failed"), failed > 0);
    }
    facts.finish();
    Ok(())
}
