//! bpftrace: another tracer on the same hooks.

use std::{collections::BTreeMap, io::Read as _, process::Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{child::Own, tool};

/// A running one; killed when dropped.
pub struct Bpftrace(Own);

impl Bpftrace {
    /// Runs these probes, and returns when all of them are attached.
    ///
    /// # Errors
    /// When it is not installed or ends instead.
    pub fn start(probes: &str) -> Result<Self> {
        let program = format!("BEGIN {{ printf(\"ready\\n\"); }} {probes}");
        // It needs tracefs, which not every machine mounts: a mount of its own.
        let script = "mount -t tracefs none /sys/kernel/tracing; exec bpftrace -e \"$0\"";
        let child = tool::command("unshare")?
            .args(["--mount", "sh", "-c", script, &program])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut child = Own::from(child);
        let stdout = child.stdout.as_mut().context("standard output")?;
        let mut said = String::new();
        let mut byte = [0];
        while !said.contains("ready") && stdout.read(&mut byte)? == 1 {
            said.push(char::from(byte[0]));
        }
        ensure!(said.contains("ready"), "bpftrace ended: {said}");
        Ok(Self(child))
    }

    /// Ends it and returns what its maps counted, each by its name with the key: `@` or `@[3]`.
    ///
    /// # Errors
    /// When it says something else.
    pub fn counts(mut self) -> Result<BTreeMap<String, u64>> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let mut said = String::new();
        self.0.stdout.as_mut().context("standard output")?.read_to_string(&mut said)?;
        self.0.wait()?;
        said.lines()
            .filter(|line| line.starts_with('@'))
            .map(|line| {
                let (name, count) = line.split_once(": ").with_context(|| line.to_owned())?;
                Ok((name.to_owned(), count.trim().parse().with_context(|| line.to_owned())?))
            })
            .collect()
    }
}
