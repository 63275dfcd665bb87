//! Loads of the tests on this machine: built with netdiag, and run as root.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Result;

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
    let mut command = process::as_root("env")?;
    command.arg(format!("NETDIAG_BIN={}", netdiag.display())).arg(load).args(arguments);
    process::output(command.stderr(Stdio::inherit()))
}
