//! `cargo xtask run`: netdiag with the privileges it needs.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Error, Result, bail};

use crate::{build, process};

/// Build netdiag and run it as root (by sudo when needed)
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask run                          the live view
  cargo xtask run -- doctor                what this kernel allows
  cargo xtask run -- -i 5s --peer-port 5432 -o json")]
pub(crate) struct Args {
    /// Arguments for netdiag
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process, so that signals and the exit status are netdiag's own.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let binary = build::netdiag(true)?;
    let start = |mut command: Command| -> Error { command.args(&args.arguments).exec().into() };
    let error = process::as_root(&binary).map_or_else(|error| error, start);
    bail!("{error:#}: netdiag is built but not started, run {} as root", binary.display());
}
