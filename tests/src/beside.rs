//! Other tracers of the same calls, to compare costs with: each counts as it would for a user, with its
//! programs attached where netdiag's are.

mod telling;

use std::{
    fmt,
    io::{BufRead, BufReader, Read as _},
    path::PathBuf,
    process::{ChildStdout, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use netdiag::snapshot::Snapshot;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use self::telling::Telling;
use crate::{child::Own, machine, netdiag::Netdiag, tool};

/// What bpftrace is to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// How long sends take, by kprobe and kretprobe on `tcp_sendmsg`.
    Kprobe,
    /// The same by the tracepoints `tcp_sendmsg_locked` and `sock_send_length`, of 6.16 and later.
    Tracepoints,
    /// Segments that are sent again, by their ports.
    Retransmit,
    /// Packets that are dropped, by where.
    Drop,
}

impl Script {
    /// Of sends that which everyone copies, of rare events one that counts them; a filter may narrow it.
    fn text(self, filter: &str) -> String {
        let [begin, end] = match self {
            Self::Kprobe => ["kprobe:tcp_sendmsg", "kretprobe:tcp_sendmsg"],
            Self::Tracepoints => {
                ["tracepoint:tcp:tcp_sendmsg_locked", "tracepoint:sock:sock_send_length"]
            }
            Self::Retransmit => {
                let ports = "@[args->sport, args->dport] = count();";
                return format!("tracepoint:tcp:tcp_retransmit_skb {filter} {{ {ports} }}");
            }
            Self::Drop => {
                let place = "@[args->location] = count();";
                return format!("tracepoint:skb:kfree_skb {filter} {{ {place} }}");
            }
        };
        format!(
            "{begin} {filter} {{ @start[tid] = nsecs; }} \
             {end} /@start[tid]/ {{ @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }}"
        )
    }

    const fn probes(self) -> usize {
        match self {
            Self::Kprobe | Self::Tracepoints => 2,
            Self::Retransmit | Self::Drop => 1,
        }
    }
}

/// A tracer that can be started again and again.
#[derive(Clone, Debug)]
pub enum Tracer {
    /// `netdiag live` with these arguments.
    Netdiag(Vec<String>),
    /// bpftrace.
    Bpftrace(Script),
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
            Self::Bpftrace(script) => bpftrace(*script),
            Self::Object { loader, object } => {
                let mut other = Other::spawn(Command::new(loader).arg(object))?;
                ensure!(other.line()? == "ready\n", "{} says something else", loader.display());
                Ok(Running(Kind::Object(other)))
            }
        }
    }
}

fn bpftrace(script: Script) -> Result<Running> {
    // It needs tracefs, which not every machine mounts: a mount of its own.
    let mount = "mount -t tracefs none /sys/kernel/tracing; exec bpftrace -e \"$0\"";
    let mut command = tool::command("unshare")?;
    let other = Other::spawn(command.args(["-m", "sh", "-c", mount, &script.text("")]))?;
    // What it says of it comes before it is so.
    let mut failed = None;
    let attached = machine::wait_until(|| match probes_of(other.child.id()) {
        Ok(probes) => probes >= script.probes(),
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
    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.0 {
            Kind::Netdiag(netdiag) => netdiag.pid(),
            Kind::Bpftrace(other) | Kind::Object(other) => other.child.id(),
        }
    }

    /// Ends it and gives the events that it has counted: netdiag what `told` finds in its last line, others all
    /// of the machine. None when it counts none: empty programs, netdiag without that signal.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(self, told: impl FnOnce(&Snapshot) -> Result<Option<u64>>) -> Result<Option<u64>> {
        match self.0 {
            Kind::Netdiag(netdiag) => told(netdiag.stop()?.total()?),
            Kind::Bpftrace(mut other) => {
                other.interrupt()?;
                Ok(Some(counted(&other.end()?)?))
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

/// The sum of bpftrace's histogram, lines such as `[1K, 2K)    12 |@@@   |`, or of its counts by keys, lines such as
/// `@[5, 7]: 12`.
fn counted(said: &str) -> Result<u64> {
    let mut sum = 0;
    for line in said.lines().filter(|line| line.starts_with(['[', '@'])) {
        let count = match line.strip_prefix("@[") {
            Some(entry) => entry.rsplit_once("]: ").map(|(_, count)| count),
            // The name of a histogram stands above it.
            None if line.starts_with('@') => continue,
            None => {
                line.split_once([')', ']']).and_then(|(_, rest)| rest.split_whitespace().next())
            }
        };
        let count = count.and_then(|count| count.parse::<u64>().ok());
        sum += count.with_context(|| line.to_owned())?;
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
    fn what_bpftrace_counted_is_summed() {
        let said =
            "Attaching 2 probes...\n\n\n@ns: \n[512, 1K)   3 |@@|\n[1K, 2K)   40 |@@@|\n\n\n";
        assert_eq!(counted(said).unwrap(), 43);
        assert_eq!(counted("@ns: \n[0]   1 |@|\n").unwrap(), 1);
        assert_eq!(counted("Attaching 1 probe...\n\n@[80, 5]: 2\n@[-7]: 40\n").unwrap(), 42);
        for bad in ["@ns: \n[1K, 2K) many\n", "@[80]: many\n", ""] {
            assert!(counted(bad).is_err(), "{bad}");
        }
    }
}
