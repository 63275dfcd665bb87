//! `cargo xtask hostile`: what reads the bytes of others is given hostile ones for a time.
//!
//! Each test has a process of its own, so that what that takes of memory is the reader's.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::{
    binaries::{self, Binary},
    runner,
    steps::Output,
    tally::Tally,
};
use crate::{build, process};

/// Give what reads the bytes of others hostile ones for a time, and hold it to a bound of memory
#[derive(clap::Args)]
#[command(
    after_help = "There are seven kinds of bytes: BTF, records of the rings, recordings, answers by netlink, paths and
files of control groups, other files of the kernel, and answers from the network. The tests of a kind share its
time. Of a failure it is said which NETDIAG_SEED gives it again, for `cargo test -p netdiag NAME`.

Examples:
  cargo xtask hostile                 ten minutes of processor time for each kind
  cargo xtask hostile --seconds 60    as the step `hostile` of `cargo xtask test`"
)]
pub(crate) struct Args {
    /// Seconds of processor time for each kind of bytes
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,

    /// What all is drawn from; by chance unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Seconds for each kind in a run of all tests.
pub(super) const SECONDS: u64 = 60;

/// What a test's name begins with, in its module.
const PREFIX: &str = "hostile_";

/// Kinds of bytes, and the modules that read them; a test is of the first that its name begins like one of.
const GROUPS: [(&str, &[&str]); 7] = [
    ("BTF", &["kernel::btf::"]),
    ("records", &["signal::"]),
    ("recordings", &["view::dump::", "run::recordings::", "report::", "flow::latency::"]),
    (
        "netlink",
        &[
            "node::census::tests::",
            "node::conntrack::listener::",
            "node::conntrack::netlink::",
            "node::links::",
            "node::netlink::",
            "node::qdiscs::",
            "node::routes::",
            "node::ruleset::",
            "node::sockets::",
        ],
    ),
    ("control groups", &["node::cgroups::", "node::places::hierarchy::", "owner::"]),
    ("files", &["kernel::", "node::"]),
    ("network", &["run::otlp::", "view::otlp::"]),
];

/// A test, and how long it may take.
#[derive(Debug)]
struct Target<'a> {
    binary: &'a Binary,
    name: String,
    group: usize,
    seconds: u64,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    build::object()?;
    let built = binaries::units()?;
    let mut output = Output::new();
    let tally = run(&built, args.seconds, args.seed, &mut output)?;
    for failure in &tally.failures {
        eprintln!("hostile: {failure}");
    }
    eprintln!("hostile: {} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs them all, as many at a time as there are processors.
pub(super) fn run(
    built: &[Binary],
    seconds: u64,
    seed: Option<u64>,
    output: &mut Output,
) -> Result<Tally> {
    let waiting = Mutex::new(VecDeque::from(targets(built, seconds)?));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let ended = Mutex::new((Tally::default(), output));
    let work = || -> Result<()> {
        while let Some(target) = next() {
            let mut said = Output::new();
            let tally = target.run(seed, &mut said)?;
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.0 += tally;
            ended.1.extend(said);
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    })?;
    let (tally, _) = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(tally)
}

/// The tests, each with its part of its kind's time.
fn targets(built: &[Binary], seconds: u64) -> Result<Vec<Target<'_>>> {
    let mut targets = Vec::new();
    for binary in built.iter().filter(|binary| !binary.kernel_facing) {
        let mut list = Command::new(&binary.path);
        list.current_dir(&binary.directory).args([PREFIX, "--list", "--format", "terse"]);
        for line in process::output(&mut list)?.lines() {
            let name = line.strip_suffix(": test");
            let Some(name) = name.filter(|name| is_one(name)) else { continue };
            let group = group(name).with_context(|| {
                format!(
                    "{name} is of no kind of bytes: name its module in xtask/src/test/hostile.rs"
                )
            })?;
            targets.push(Target { binary, name: name.to_owned(), group, seconds: 0 });
        }
    }
    for (at, (name, _)) in GROUPS.iter().enumerate() {
        let number = targets.iter().filter(|target| target.group == at).count();
        if number == 0 {
            bail!("there is no test of {name}: mend the modules in xtask/src/test/hostile.rs");
        }
        let part = (seconds / number as u64).max(1);
        targets.iter_mut().filter(|target| target.group == at).for_each(|it| it.seconds = part);
    }
    // Those that take longest first, so that the last to end does not end alone.
    targets.sort_by_key(|target| Reverse(target.seconds));
    Ok(targets)
}

fn is_one(name: &str) -> bool {
    name.rsplit("::").next().is_some_and(|name| name.starts_with(PREFIX))
}

/// The kind of bytes that a test is of.
fn group(name: &str) -> Option<usize> {
    GROUPS.iter().position(|(_, modules)| modules.iter().any(|module| name.starts_with(module)))
}

impl Target<'_> {
    fn run(&self, seed: Option<u64>, output: &mut Output) -> Result<Tally> {
        let Self { binary, name, group, seconds } = self;
        eprintln!("hostile: {}, {seconds} s: {name}", GROUPS[*group].0);
        let mut command = Command::new(&binary.path);
        command.current_dir(&binary.directory).env("CARGO_MANIFEST_DIR", &binary.directory);
        command.env("NETDIAG_HOSTILE_SECONDS", seconds.to_string());
        command.envs(seed.map(|seed| ("NETDIAG_SEED", seed.to_string())));
        command.args(["--exact", name, "--show-output"]);
        runner::tests(&mut command, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_of_one_kind_of_bytes() {
        let named = |name: &str| group(name).map(|group| GROUPS[group].0);
        for (name, expected) in [
            ("kernel::btf::tests::hostile_files", Some("BTF")),
            ("kernel::symbols::tests::hostile_tables", Some("files")),
            ("node::census::tests::hostile_messages", Some("netlink")),
            ("node::census::signs::tests::hostile_files", Some("files")),
            ("node::places::hierarchy::tests::hostile_paths", Some("control groups")),
            ("run::recordings::pairs::tests::hostile_files", Some("recordings")),
            ("run::otlp::resolve::tests::hostile_answers", Some("network")),
            ("view::screen::tests::hostile_names", None),
        ] {
            assert_eq!(named(name), expected, "{name}");
        }
        assert!(is_one("a::hostile_b") && !is_one("hostile_a::b"));
    }
}
