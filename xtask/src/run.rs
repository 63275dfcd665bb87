//! `cargo xtask run`: netdiag with the privileges it needs.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::{build, process};

/// Build netdiag and run it as root (by sudo when needed)
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask run                          the live view
  cargo xtask run -- doctor                what this kernel allows
  cargo xtask run -- diagnose -d 10s -o json")]
pub(crate) struct Args {
    /// Arguments for netdiag
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process, so that signals and the exit status are netdiag's own.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let binary = build::netdiag(true)?;
    let error = process::as_root(&binary)?.args(&args.arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}
