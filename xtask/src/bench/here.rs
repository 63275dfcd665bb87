//! Loads of the tests on this machine: built with netdiag, and run as root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Args;
use crate::{build, process, workspace};

/// netdiag and a load, as they were built last where they are not to be built.
pub(super) fn programs(args: &Args, load: &str) -> Result<(PathBuf, PathBuf)> {
    Ok(if args.no_build {
        (workspace::netdiag("release"), workspace::host_target()?.join("debug").join(load))
    } else {
        (build::netdiag(true)?, build::load(load)?)
    })
}

/// What a load prints that runs netdiag.
pub(super) fn run(netdiag: &Path, load: &Path, arguments: &[String]) -> Result<String> {
    finish(process::as_root("env")?, netdiag, load, arguments)
}

/// The same where tracefs is mounted, which bpftrace needs and not every machine does: by a mount of its own.
pub(super) fn run_with_tracefs(
    netdiag: &Path,
    load: &Path,
    arguments: &[String],
) -> Result<String> {
    let mut command = process::as_root("unshare")?;
    let mount = "mount -t tracefs none /sys/kernel/tracing; exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", mount, "env"]);
    finish(command, netdiag, load, arguments)
}

/// Runs a command that ends in `env`.
fn finish(
    mut command: Command,
    netdiag: &Path,
    load: &Path,
    arguments: &[String],
) -> Result<String> {
    command.arg(format!("NETDIAG_BIN={}", netdiag.display())).arg(load).args(arguments);
    process::output(command.stderr(Stdio::inherit()))
}

/// The source of `send` that netdiag takes on this machine.
pub(super) fn source(netdiag: &Path) -> Result<String> {
    let mut command = process::as_root(netdiag)?;
    command.args(["doctor", "--signals", "send", "-o", "json"]);
    let said: Value = serde_json::from_str(&process::output(&mut command)?)?;
    let signals = said["signals"].as_array().context("netdiag's doctor names no signals")?;
    let send = signals.iter().find(|signal| signal["signal"] == "send");
    let source = send.and_then(|send| send["source"].as_str());
    Ok(source.context("netdiag cannot trace sends on this kernel: see netdiag doctor")?.to_owned())
}
