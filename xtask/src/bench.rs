//! `cargo xtask bench`: what netdiag costs, beside what else people trace with, by the time of a send, by
//! the instructions of a machine that counts them, or by the throughput of a conversation.

mod baseline;
mod cost;
mod others;
mod ratios;
mod send;
mod turns;

use std::process::ExitCode;

use anyhow::Result;

use self::turns::Turns;
use crate::{build, process};

/// Measure what tracing adds to a send beside other tracers, or to a conversation, and fail when it is
/// more than benches/ allows
#[derive(clap::Args)]
#[command(
    after_help = "A thread holds both ends of a loopback connection and sends one byte at a time, untraced and
traced by turns: by netdiag, by programs that do nothing on the same hooks, by histograms in the kernel
(benches/beside), and by bpftrace with the script that everyone copies. What is compared is what each adds to
the thread's CPU time. It fails where netdiag's part of another's cost is over benches/ratios.json.

With --icount the same in a virtual machine with one CPU whose clock counts instructions. So the figure
is repeatable; it does not know of cache misses or other CPUs. It fails where netdiag's own figure is
over 5 % above benches/icount.json too, which NETDIAG_BLESS=1 writes anew.

With --turns a client and a server on this machine ask and answer over loopback as fast as they can,
untraced and traced by turns, with all signals and with each alone. Only the ratios mean anything.

Results are a table on stderr and a JSON object on stdout.

Examples:
  cargo xtask bench
  cargo xtask bench --icount --source kprobe
  cargo xtask bench --icount --alone --kernel newest
  cargo xtask bench --icount --signals rtt
  cargo xtask bench --turns --rounds 9"
)]
pub(crate) struct Args {
    /// Count instructions of a guest instead of time
    #[arg(long, conflicts_with = "turns")]
    icount: bool,

    /// Compare the throughput of requests and answers on this machine
    #[arg(long, conflicts_with_all = ["source", "arguments"])]
    turns: bool,

    /// Without other tracers
    #[arg(long, conflicts_with = "turns")]
    alone: bool,

    /// Series of the guest's kernel: 5.10, 6.1, 6.12, or the newest that Debian has
    #[arg(long, value_name = "SERIES", default_value = "6.12", requires = "icount")]
    kernel: String,

    /// Source of the signal `send`; without --icount the one that netdiag takes here unless given, with it
    /// fexit
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,

    /// Signals to trace instead, or `all`: what they cost a send, its acknowledgement and the read of its byte
    #[arg(long, value_name = "LIST", conflicts_with = "source", requires = "icount")]
    signals: Option<String>,

    /// Times that each is measured: 9 unless given, 3 with --icount or --turns
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// Sends in each measurement, or turns: 100,000 unless given, 20,000 with --icount
    #[arg(long, value_name = "N")]
    sends: Option<u32>,

    /// Take the programs as they were built last instead of building them
    #[arg(long)]
    no_build: bool,

    /// Arguments for netdiag, such as filters
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Args {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.icount || self.turns { 3 } else { 9 })
    }

    fn sends(&self) -> u32 {
        self.sends.unwrap_or(if self.icount { 20_000 } else { 100_000 })
    }
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if args.turns { conversation(args) } else { send::main(args) }
}

/// Requests and answers on this machine.
fn conversation(args: &Args) -> Result<ExitCode> {
    let netdiag = build::netdiag(true)?;
    let mut command = process::as_root("env")?;
    command.arg(format!("NETDIAG_BIN={}", netdiag.display()));
    command.arg(build::load("turn_load")?);
    command.args([args.rounds(), args.sends()].map(|number| number.to_string()));
    let turns = Turns::parse(&process::output(&mut command)?)?;
    eprint!("{}", turns.table());
    println!("{}", turns.json());
    Ok(ExitCode::SUCCESS)
}
