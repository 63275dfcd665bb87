//! `cargo xtask soak`: one netdiag for hours, while all happens that may happen to a node.

use std::process::ExitCode;

use anyhow::Result;

use crate::lab;

/// Let one netdiag run for hours while all happens that may happen to a node, and tell what came of it
#[derive(clap::Args)]
#[command(
    after_help = "It records and serves metrics, while scenarios of the lab and random flows, ports that are used again,
namespaces and interfaces come and go, other netdiags beside it, too. It is stopped, its disk is full,
it is killed and begun again. All that is drawn comes from a seed that is printed. At the end stands a
table: what was told and written, what it held at the quarters of its longest life, by how much it grew,
what was left behind. It fails where an account of any interval does not balance, where it grew, or left
anything.

Examples:
  cargo xtask soak --for 2h
  cargo xtask soak --for 10m --seed 7 --loads 4    what that seed draws, with more at once
  cargo xtask soak --for 30m --kernel 6.12         in a virtual machine"
)]
pub(crate) struct Args {
    /// How long, with a unit, but for its beginning and its end
    #[arg(long = "for", value_name = "TIME", default_value = "2h")]
    time: String,

    /// What all is drawn from; the time unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Loads side by side
    #[arg(long, value_name = "N", default_value_t = 2)]
    loads: u8,

    /// MiB that it may grow by, from a quarter of its longest life on
    #[arg(long, value_name = "MIB", default_value_t = 4)]
    growth: u32,

    /// In a virtual machine with this kernel: 5.10, 6.1, 6.12, or the newest that Debian has
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
}

/// A machine's life in seconds: it ends by itself, so this ends only one that hangs.
const LONGEST_S: u32 = 7 * 24 * 60 * 60;

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let mut command = lab::program("soak", args.kernel.as_deref(), LONGEST_S)?;
    command.args(["--for", &args.time]);
    command.args(["--loads", &args.loads.to_string(), "--growth", &args.growth.to_string()]);
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    Ok(if command.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
