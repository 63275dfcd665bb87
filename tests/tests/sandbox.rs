//! What a running netdiag has given up: capabilities of every thread, new privileges, system calls; and that nobody can
//! connect to it unless it was asked to listen.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::{Netdiag, command, run},
    network::Pair,
    outcome::{count, flow_of},
    requirement::{KERNELS, alone},
    source, tool,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};

/// Capabilities that may be left, by their numbers (include/uapi/linux/capability.h): `DAC_READ_SEARCH`, `NET_ADMIN`,
/// `SYS_PTRACE`, `SYS_ADMIN`, `SYSLOG`, `BPF`.
const KEPT: [u32; 6] = [2, 12, 19, 21, 34, 39];
/// `PERFMON`, beside those where programs may be attached or rings opened later, and [`ALL`] does not stand in for it.
const LATE: u32 = 38;
/// `SYS_ADMIN`.
const ALL: u32 = 21;

/// What the kernel says of a thread, by name.
type Told = BTreeMap<String, String>;

/// Of each thread of a process: its name, and what `/proc` says of it.
fn threads(pid: u32) -> Result<Vec<(String, Told)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended.
        let Ok(text) = fs::read_to_string(task?.path().join("status")) else { continue };
        let told: Told = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        threads.push((told.get("Name").cloned().unwrap_or_default(), told));
    }
    ensure!(!threads.is_empty(), "process {pid} has no thread");
    Ok(threads)
}

fn set(told: &Told, name: &str) -> Result<u64> {
    let text = told.get(name).with_context(|| format!("no {name} in {told:?}"))?;
    Ok(u64::from_str_radix(text, 16)?)
}

fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |bits, number| bits | 1 << number)
}

/// Sockets of a process by which others may reach it, as `ss` has them: TCP that listens, UDP that is not connected.
fn listening(pid: u32) -> Result<Vec<String>> {
    let all = tool::run("ss", &["-Hlntup"])?;
    let own = format!("pid={pid},");
    Ok(all.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect())
}

/// Further arguments of a command: on a machine where loading takes long, which is not of the oldest kernel, it loads
/// little. What is given up does not depend on that.
fn little(command: &str) -> &'static [&'static str] {
    if !machine::emulated() || machine::series() == KERNELS[0] {
        return &[];
    }
    if command == "events" { &["--kind", "drop"] } else { &["--signals", "conntrack"] }
}

/// Every command that watches, once it is ready and a thread has come and gone.
#[test]
fn every_thread_gives_up_what_it_does_not_need() -> Result<()> {
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let out = directory.path().to_string_lossy().into_owned();
    let listen = ["--listen", "127.0.0.1:0"];
    let own = set(&threads(std::process::id())?[0].1, "CapPrm")?;
    let mut facts = Facts::new();
    let doctor = source::doctor(little("doctor"))?;
    let said = doctor.sandbox.context("doctor says nothing of the sandbox")?;
    facts.note(format_args!("doctor: {said:?}"));
    facts.equal("what could not be given up", said.lacking.len(), 0);
    facts.holds("doctor: no new privileges, seccomp", said.no_new_privileges && said.seccomp);
    let (late, always): (Vec<_>, Vec<_>) =
        said.capabilities.iter().partition(|name| *name == "CAP_PERFMON");
    facts.holds(
        "no more than one that allows perf events",
        late.is_empty() || own & bits(&[ALL]) == 0,
    );
    for arguments in [
        &["live", "-o", "json", "-i", "100ms"][..],
        &["record", "-o", "json", "-i", "100ms", "--out", &out, listen[0], listen[1]],
        &["diagnose", "-i", "100ms", "-d", "1h"],
        &["events", "-o", "json"],
    ] {
        let mut netdiag = Netdiag::start(&[arguments, little(arguments[0])].concat())?;
        if arguments.contains(&"100ms") && arguments[0] != "diagnose" {
            netdiag.wait_lines(2)?;
        }
        for (name, told) in threads(netdiag.pid())? {
            let what = format!("{} thread {name}", arguments[0]);
            let (effective, permitted) = (set(&told, "CapEff")?, set(&told, "CapPrm")?);
            // The first thread, and those that it makes when all else is attached.
            let may_attach = permitted & bits(&[LATE]);
            let kept = permitted & !may_attach;
            facts.equal(format_args!("{what}: permitted"), kept, own & bits(&KEPT));
            facts.holds(format_args!("{what}: late"), may_attach == 0 || !late.is_empty());
            facts.equal(format_args!("{what}: effective"), effective, permitted);
            for empty in ["CapInh", "CapBnd", "CapAmb"] {
                facts.equal(format_args!("{what}: {empty}"), set(&told, empty)?, 0);
            }
            let number = kept.count_ones() as usize;
            facts.equal(format_args!("{what}: by doctor"), number, always.len());
            let privileges = told.get("NoNewPrivs").map(String::as_str);
            facts.equal(format_args!("{what}: no new privileges"), privileges, Some("1"));
            // SECCOMP_MODE_FILTER.
            let seccomp = told.get("Seccomp").map(String::as_str);
            facts.equal(format_args!("{what}: seccomp"), seccomp, Some("2"));
        }
        let open = listening(netdiag.pid())?;
        let asked = usize::from(arguments.contains(&listen[0]));
        facts.equal(format_args!("{arguments:?}: listens by {open:?}"), open.len(), asked);
        if asked > 0 {
            let at = netdiag.metrics_at()?.to_string();
            let is_there = open.iter().all(|line| line.split_whitespace().any(|word| word == at));
            facts.holds(format_args!("{open:?} is at {at}, which it says"), is_there);
        }
        drop(netdiag);
    }
    facts.finish();
    Ok(())
}

/// For trouble: everything is as it was given.
#[test]
fn nothing_is_given_up_on_request() -> Result<()> {
    let _alone = alone();
    let own = threads(std::process::id())?[0].1.clone();
    let unconfined = |command: &'static str| [&["--no-sandbox"], little(command)].concat();
    let live = [&["live", "-o", "json"][..], &unconfined("live")].concat();
    let netdiag = Netdiag::start(&live)?;
    let mut facts = Facts::new();
    for (name, told) in threads(netdiag.pid())? {
        for what in ["CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
            facts.equal(format_args!("{name}: {what}"), told.get(what), own.get(what));
        }
    }
    let outcome = netdiag.stop()?;
    facts.equal("status", outcome.code(), Some(0));
    facts.equal("doctor", source::doctor(&unconfined("doctor"))?.sandbox, None);
    facts.finish();
    Ok(())
}

/// Namespaces and processes that come after everything was given up are looked at as those before.
#[test]
fn what_comes_later_is_seen_all_the_same() -> Result<()> {
    let _alone = alone();
    let mut netdiag = Netdiag::start(&["live", "-o", "json", "-i", "200ms", "-d", "10h"])?;
    netdiag.wait_lines(1)?;
    let pair = Pair::new()?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    exchange([(&connection, Exchange { sends: 20, bytes: 10, echo: true })])?;
    let namespaces = [pair.left.inode(), pair.right.inode()];
    netdiag.wait_outcome("the counters of the namespace", |outcome| {
        outcome
            .snapshots
            .iter()
            .any(|snapshot| namespaces.iter().all(|inode| snapshot.node.tcp.contains_key(inode)))
    })?;
    let end = connection.client_end()?;
    let outcome = netdiag.stop()?;
    let flow = flow_of(outcome.total()?, &end)?;
    let mut facts = Facts::new();
    facts.note(format_args!("said {:?}", outcome.stderr));
    facts.equal("sends", count(flow, "sends"), Some(20));
    facts.equal("process", flow.owner.pid, Some(std::process::id()));
    let refused = outcome.stderr.iter().filter(|line| line.contains("ermitted")).count();
    facts.equal("refusals", refused, 0);
    facts.at_rest(outcome.total()?);
    facts.finish();
    Ok(())
}

/// Who reads recordings starts nothing and writes nothing; where the kernel has Landlock, other files are out of reach,
/// and where it has none, that is said.
#[test]
fn recordings_are_read_without_any_privilege() -> Result<()> {
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let out = directory.path().to_string_lossy().into_owned();
    let recorded = run(&["record", "-i", "100ms", "-d", "1s", "--out", &out])?;
    ensure!(recorded.status.success(), "{recorded:?}");
    let read = run(&["diagnose", "--from", &out, "-o", "json"])?;
    let mut facts = Facts::new();
    facts.note(String::from_utf8_lossy(&read.stderr));
    facts.equal("status", read.status.code(), Some(0));
    facts.holds("a report", !read.stdout.is_empty());
    // A recording that is a symlink out of the directory.
    let elsewhere = tempfile::tempdir()?;
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let target = elsewhere.path().join(path.file_name().context("a name")?);
        fs::rename(&path, &target)?;
        std::os::unix::fs::symlink(&target, &path)?;
    }
    let sandbox = source::doctor(little("doctor"))?.sandbox;
    let has_landlock = sandbox.is_some_and(|sandbox| sandbox.landlock.is_some());
    let says = String::from_utf8_lossy(&read.stderr).contains("sandbox: Landlock");
    facts.equal("it is said that other files are in reach", says, !has_landlock);
    for arguments in [&["diagnose", "--from", &out, "-o", "json"][..], &["report", &out]] {
        let by_link = run(arguments)?;
        facts.note(String::from_utf8_lossy(&by_link.stderr));
        let is_read = by_link.status.success();
        facts.equal(format_args!("{arguments:?}: it is read elsewhere"), is_read, !has_landlock);
        let unconfined = run(&[arguments, &["--no-sandbox"]].concat())?;
        facts.note(String::from_utf8_lossy(&unconfined.stderr));
        let status = unconfined.status.code();
        facts.equal(format_args!("{arguments:?} --no-sandbox"), status, Some(0));
    }
    facts.finish();
    Ok(())
}

/// The sandbox stands before anything of the command line is acted on that could be led astray.
#[test]
fn a_refusal_says_the_same_with_and_without() -> Result<()> {
    let _alone = alone();
    let said = |mut command: Command| -> Result<_> {
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let mut facts = Facts::new();
    for arguments in [
        &["record", "--out", "/proc/netdiag"][..],
        &["diagnose", "--from", "/proc/netdiag"],
        &["live", "--btf", "/absent/btf"],
    ] {
        let without = said(command(&[arguments, &["--no-sandbox"]].concat())?)?;
        facts.equal(format_args!("{arguments:?}"), said(command(arguments)?)?, without);
    }
    facts.note(machine::release());
    facts.finish();
    Ok(())
}
