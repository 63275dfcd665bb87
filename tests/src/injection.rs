//! System calls that fail although nothing is wrong: strace(1) lets them.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{netdiag::binary, tool};

/// A failure: of which call, by which errno, and of each thread's how manyth, as strace has it (`3`, `3+` for all from
/// there on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The system call.
    pub call: &'static str,
    /// The error's name.
    pub error: &'static str,
    /// Which ones.
    pub when: String,
    /// Of what files; where none is named, whatever the call is of.
    pub files: Vec<PathBuf>,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:error={}:when={}", self.call, self.error, self.when)
    }
}

impl Injection {
    /// That one.
    #[must_use]
    pub fn new(call: &'static str, error: &'static str, when: impl fmt::Display) -> Self {
        Self { call, error, when: when.to_string(), files: Vec::new() }
    }

    /// The same of calls on these files alone, by the paths that the kernel has for them; others do not count.
    #[must_use]
    pub fn on(self, files: Vec<PathBuf>) -> Self {
        Self { files, ..self }
    }

    /// A command for netdiag under strace, which notes in `trace` which calls failed. It waits for netdiag and ends as
    /// that does, and hands on no signal.
    ///
    /// # Errors
    /// When there is no strace or no binary.
    pub fn command(&self, trace: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = strace(trace, self.call)?;
        command.args(["-e", &format!("inject={self}")]);
        for file in &self.files {
            command.arg("-P").arg(file);
        }
        command.arg(binary()?).args(arguments).stdin(Stdio::null());
        Ok(command)
    }
}

/// strace that notes these calls of a program and all its threads in `trace`.
fn strace(trace: &Path, calls: &str) -> Result<Command> {
    let mut command = tool::command("strace")?;
    // With a filter in the kernel the other calls take no longer than ever.
    command.args(["-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o"]).arg(trace);
    command.args(["-e", &format!("trace={calls}")]);
    Ok(command)
}

/// How many of some calls each thread of a run made in which none was made to fail.
#[derive(Debug)]
pub struct Calls {
    /// By thread and call.
    made: BTreeMap<(u32, String), usize>,
    /// By call, those of the first thread before `main`.
    before_main: BTreeMap<String, usize>,
}

/// Rust's runtime makes it twice in the first thread, and nothing else of its own before `main` (`make_handler` in
/// std's stack_overflow.rs).
const RUNTIMES: &str = "sigaltstack";

impl Calls {
    /// A command for netdiag under a strace that lets nothing fail, as [`Injection::command`].
    ///
    /// # Errors
    /// When there is no strace or no binary.
    pub fn command(calls: &[&str], trace: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = strace(trace, &[calls, &[RUNTIMES]].concat().join(","))?;
        // Descriptors with the paths of their files.
        command.args(["-y", "-s", "0"]).arg(binary()?).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// What it noted. Of `write` those to files in that directory count.
    ///
    /// # Errors
    /// When there is no such file, or nothing in it.
    pub fn read(trace: &Trace, directory: &Path) -> Result<Self> {
        let text = std::fs::read(&trace.0).with_context(|| trace.0.display().to_string())?;
        let text = String::from_utf8_lossy(&text);
        let call = |line: &str| {
            let (thread, rest) = line.split_once(' ')?;
            let (name, arguments) = rest.trim_start().split_once('(')?;
            // Not that a call goes on.
            let is_one = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let counts =
                name != "write" || arguments.contains(&format!("<{}/", directory.display()));
            let thread = thread.parse::<u32>().ok()?;
            (is_one && counts).then(|| (thread, name.to_owned()))
        };
        let all: Vec<_> = text.lines().filter_map(call).collect();
        let (first, _) = all.first().context("strace noted no call")?;
        let mut made: BTreeMap<(u32, String), usize> = BTreeMap::new();
        for one in &all {
            *made.entry(one.clone()).or_default() += 1;
        }
        let mut before_main: BTreeMap<String, usize> = BTreeMap::new();
        let mut runtimes = 0;
        for (_, name) in all.iter().filter(|(thread, _)| thread == first) {
            runtimes += usize::from(name == RUNTIMES);
            if runtimes == 2 {
                break;
            }
            *before_main.entry(name.clone()).or_default() += 1;
        }
        ensure!(runtimes == 2, "{runtimes} calls of {RUNTIMES}: where `main` begins is unknown");
        Ok(Self { made, before_main })
    }

    /// The most that a thread made.
    #[must_use]
    pub fn most(&self, call: &str) -> usize {
        let of = self.made.iter().filter(|((_, name), _)| name == call);
        of.map(|(_, times)| *times).max().unwrap_or_default()
    }

    /// Those of the first thread before `main`, which are the loader's and the runtime's.
    #[must_use]
    pub fn before_main(&self, call: &str) -> usize {
        self.before_main.get(call).copied().unwrap_or_default()
    }
}

/// The process that a strace runs: it takes signals, strace does not.
///
/// # Errors
/// When there is none any more.
pub fn traced(strace: u32) -> Result<Pid> {
    let path = format!("/proc/{strace}/task/{strace}/children");
    let children = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    child.and_then(Pid::from_raw).with_context(|| format!("nobody in {path}"))
}

/// The process that a strace runs, which stays when strace is killed: it goes with this, if it is there still.
#[derive(Debug)]
pub struct Killed(pub u32);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Ok(pid) = traced(self.0) {
            let _ended = kill_process(pid, Signal::KILL);
        }
    }
}

/// What strace noted.
#[derive(Debug)]
pub struct Trace(PathBuf);

impl Trace {
    /// A file in this directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self(directory.join("trace"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Calls that failed by it.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn failed(&self) -> Result<usize> {
        let text = std::fs::read(&self.0).with_context(|| self.0.display().to_string())?;
        Ok(String::from_utf8_lossy(&text).matches("(INJECTED)").count())
    }
}
