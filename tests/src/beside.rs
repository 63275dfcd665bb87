//! Other tracers of the same calls, to compare costs with: each counts as it would for a user, with its
//! programs attached where netdiag's are.

use std::{
    fmt,
    io::{BufRead, BufReader, Read as _},
    path::PathBuf,
    process::{ChildStdout, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{child::Own, machine, netdiag::Netdiag, outcome, tool, traffic::Connection};

/// Where bpftrace attaches its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hooks {
    /// kprobe and kretprobe on `tcp_sendmsg`.
    Kprobe,
    /// The tracepoints `tcp_sendmsg_locked` and `sock_send_length`, of 6.16 and later.
    Tracepoints,
}

impl Hooks {
    /// The script that everyone copies.
    fn script(self) -> String {
        let [begin, end] = match self {
            Self::Kprobe => ["kprobe:tcp_sendmsg", "kretprobe:tcp_sendmsg"],
            Self::Tracepoints => {
                ["tracepoint:tcp:tcp_sendmsg_locked", "tracepoint:sock:sock_send_length"]
            }
        };
        format!(
            "{begin} {{ @start[tid] = nsecs; }} \
             {end} /@start[tid]/ {{ @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }}"
        )
    }
}

/// A tracer that can be started again and again.
#[derive(Clone, Debug)]
pub enum Tracer {
    /// `netdiag live` with these arguments.
    Netdiag(Vec<String>),
    /// The bpftrace script.
    Bpftrace(Hooks),
    /// Programs of an object.
    Object {
        /// Program that loads and attaches the object whose path it is given (benches/beside/load.c).
        loader: PathBuf,
        /// The object.
        object: PathBuf,
    },
}

impl Tracer {
    /// Attaches its programs.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub fn start(&self) -> Result<Running> {
        match self {
            Self::Netdiag(arguments) => {
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                Ok(Running(Kind::Netdiag(Netdiag::live(&arguments)?)))
            }
            Self::Bpftrace(hooks) => bpftrace(&hooks.script()),
            Self::Object { loader, object } => {
                let mut other = Other::spawn(Command::new(loader).arg(object))?;
                ensure!(other.line()? == "ready\n", "{} says something else", loader.display());
                Ok(Running(Kind::Object(other)))
            }
        }
    }
}

/// bpftrace with a script of two probes.
fn bpftrace(script: &str) -> Result<Running> {
    // It needs tracefs, which not every machine mounts: a mount of its own.
    let mount = "mount -t tracefs none /sys/kernel/tracing; exec bpftrace -e \"$0\"";
    let other = Other::spawn(tool::command("unshare")?.args(["-m", "sh", "-c", mount, script]))?;
    // What it says of it comes before it is so.
    let mut failed = None;
    let attached = machine::wait_until(|| match probes_of(other.child.id()) {
        Ok(probes) => probes >= 2,
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    ensure!(attached, "bpftrace has not attached its probes");
    Ok(Running(Kind::Bpftrace(other)))
}

/// Probes and tracepoints with programs of a process.
fn probes_of(pid: u32) -> Result<usize> {
    let text = tool::run("bpftool", &["-j", "perf", "list"])?;
    let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok(list.as_array().into_iter().flatten().filter(|probe| probe["pid"] == pid).count())
}

/// A running tracer; killed when dropped.
#[derive(Debug)]
pub struct Running(Kind);

#[derive(Debug)]
enum Kind {
    Netdiag(Netdiag),
    Bpftrace(Other),
    Object(Other),
}

impl Running {
    /// Ends it and gives the send calls that it has counted: netdiag those of the connection, others all
    /// of the machine. None when it counts none: empty programs, netdiag without that signal.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self, connection: &Connection) -> Result<Option<u64>> {
        match self.0 {
            Kind::Netdiag(netdiag) => {
                let outcome = netdiag.stop()?;
                let flow = outcome::flow_of(outcome.total()?, &connection.client_end()?)?;
                Ok(outcome::count(flow, "sends"))
            }
            Kind::Bpftrace(mut other) => {
                other.interrupt()?;
                Ok(Some(histogram(&other.end()?)?))
            }
            Kind::Object(mut other) => {
                drop(other.child.stdin.take());
                let said = other.end()?;
                let said = Some(said.trim()).filter(|said| !said.is_empty());
                said.map(|said| said.parse().with_context(|| said.to_owned())).transpose()
            }
        }
    }
}

/// The sum of bpftrace's histogram: lines such as `[1K, 2K)    12 |@@@   |`.
fn histogram(said: &str) -> Result<u64> {
    let mut sum = 0;
    for line in said.lines().filter(|line| line.starts_with('[')) {
        let count =
            line.split_once([')', ']']).and_then(|(_, rest)| rest.split_whitespace().next());
        sum +=
            count.and_then(|count| count.parse::<u64>().ok()).with_context(|| line.to_owned())?;
    }
    if sum == 0 {
        bail!("bpftrace counted nothing: {said}");
    }
    Ok(sum)
}

/// The process of another tracer; killed when dropped.
struct Other {
    child: Own,
    stdout: BufReader<ChildStdout>,
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.child.id())
    }
}

impl Other {
    fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Own::from)
            .with_context(|| format!("{command:?}"))?;
        let stdout = BufReader::new(child.stdout.take().context("standard output")?);
        Ok(Self { child, stdout })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line)
    }

    /// As ^C does, until it ends: bpftrace may forget one. What it says has room in its pipe.
    fn interrupt(&mut self) -> Result<()> {
        let pause = machine::patience() / 9;
        let (mut next, mut result) = (Instant::now(), Ok(()));
        let ended = machine::wait_until(|| {
            if Instant::now() >= next {
                next += pause;
                result = kill_process(Pid::from_child(&self.child), Signal::INT);
            }
            result.is_err() || self.child.try_wait().is_ok_and(|status| status.is_some())
        });
        result?;
        ensure!(ended, "a tracer does not end");
        Ok(())
    }

    /// What it still says until it ends.
    fn end(&mut self) -> Result<String> {
        let mut said = String::new();
        self.stdout.read_to_string(&mut said)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a tracer failed ({status}): {said}");
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_summed() {
        let said =
            "Attaching 2 probes...\n\n\n@ns: \n[512, 1K)   3 |@@|\n[1K, 2K)   40 |@@@|\n\n\n";
        assert_eq!(histogram(said).unwrap(), 43);
        assert_eq!(histogram("@ns: \n[0]   1 |@|\n").unwrap(), 1);
        assert!(histogram("@ns: \n[1K, 2K) many\n").is_err());
        assert!(histogram("").is_err());
    }
}
