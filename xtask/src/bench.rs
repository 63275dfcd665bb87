//! `cargo xtask bench`: what netdiag costs, beside what else people trace with, by the time of a send, by
//! the instructions of a machine that counts them, by the throughput of a conversation, by how long it takes to start,
//! or by what it takes while there is nothing to see.

mod added;
mod baseline;
mod cost;
mod here;
mod idle;
mod others;
mod parts;
mod ratios;
mod round;
mod start;
mod traced;
mod turns;

use std::process::ExitCode;

use anyhow::Result;

use self::traced::Traced;

/// Measure what tracing costs beside other tracers, and fail when it is more than is allowed
#[derive(clap::Args)]
#[command(
    after_help = "A thread holds both ends of a loopback connection and sends one byte at a time, untraced and
traced by turns: by netdiag, by programs that do nothing on the same hooks, by histograms in the kernel
(benches/beside), and by bpftrace with the script that everyone copies. What is compared is what each adds to
the thread's CPU time. netdiag traces send and retransmit, and its signal `socket` is part of it, which is
on whatever is asked for. It fails where netdiag's part of another's cost is over benches/ratios.json.

With --icount the same in a virtual machine with one CPU whose clock counts instructions. So the figure
is repeatable; it does not know of cache misses or other CPUs. It fails where netdiag's own figure is
over 5 % above benches/icount.json too, which NETDIAG_BLESS=1 writes anew, or over benches/goals.json.
With --signals it is a signal that is measured: of retransmit, drop, conntrack, reset and socket by what
they tell of, beside bpftrace that counts the first two; of all others by what they cost the send, its
acknowledgement and the read. --every measures all of these one after the other in one machine, and fails
where one has no figure in benches/icount.json, too.

With --turns a client and a server on this machine ask and answer over loopback as fast as they can,
untraced and traced by turns, with all signals and with each alone. Only the ratios mean anything. It fails
where all signals leave less than 0.90 of the throughput.

With --start a thread sends all the time, and netdiag with all signals and bpftrace with that script are
started by turns: how long each takes from exec to the first send that counts, and to the first line of data.
It fails where netdiag has either later than bpftrace.

With --idle both run by turns for so many --seconds, on a machine that ought to be idle: what of a processor
each takes, and how much memory is resident. It fails where netdiag takes over 0.3 % or 15 MB.

Results are a table on stderr and a JSON object on stdout.

Examples:
  cargo xtask bench
  cargo xtask bench --icount --source kprobe
  cargo xtask bench --icount --alone --kernel newest
  cargo xtask bench --icount --signals rtt
  cargo xtask bench --icount --signals retransmit
  cargo xtask bench --icount --every --kernel 6.1
  cargo xtask bench --turns
  cargo xtask bench --start
  cargo xtask bench --idle --seconds 300"
)]
pub(crate) struct Args {
    /// Count instructions of a guest instead of time
    #[arg(long, conflicts_with_all = ["turns", "start", "idle"])]
    icount: bool,

    /// Compare the throughput of requests and answers on this machine
    #[arg(long, conflicts_with_all = ["source", "arguments"])]
    turns: bool,

    /// Measure how long starts take on this machine
    #[arg(long, conflicts_with_all = ["turns", "source", "sends", "arguments"])]
    start: bool,

    /// Measure what netdiag takes on this machine while there is nothing to see
    #[arg(long, conflicts_with_all = ["turns", "start", "source", "sends", "arguments"])]
    idle: bool,

    /// Seconds of each measurement with --idle
    #[arg(long, value_name = "N", default_value_t = 60, requires = "idle")]
    seconds: u64,

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

    /// Signals to trace instead, or `all`: what one costs an event, or else what they cost a send
    #[arg(long, value_name = "LIST", conflicts_with = "source", requires = "icount")]
    signals: Option<String>,

    /// Sends by each source, and each other signal, without other tracers
    #[arg(long, conflicts_with_all = ["source", "signals", "arguments"], requires = "icount")]
    every: bool,

    /// Times that each is measured: 9 unless given, 3 with --icount or --idle
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// Sends in each measurement, turns, or other events: 100,000 unless given, with --icount 20,000 sends and
    /// 2,000 of others
    #[arg(long, value_name = "N")]
    sends: Option<u32>,

    /// Take the programs as they were built last instead of building them
    #[arg(long)]
    no_build: bool,

    /// Arguments for netdiag, such as filters
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Sends or turns in each measurement on this machine.
const TIMES: u32 = 100_000;

impl Args {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.icount || self.idle { 3 } else { 9 })
    }

    /// Where packets are lost, what the kernel itself takes differs from round to round.
    fn rounds_of(&self, traced: &Traced) -> u32 {
        self.rounds() * if self.icount && traced.load != "send" { 3 } else { 1 }
    }

    fn turns_each(&self) -> u32 {
        self.sends.unwrap_or(TIMES)
    }

    /// How often the load of a measurement does what it does.
    fn times(&self, traced: &Traced) -> u32 {
        self.sends.unwrap_or(match traced.load {
            _ if !self.icount => TIMES,
            "send" => 20_000,
            _ => 2_000,
        })
    }
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    match args {
        Args { turns: true, .. } => turns::main(args),
        Args { start: true, .. } => start::main(args),
        Args { idle: true, .. } => idle::main(args),
        _ => added::main(args),
    }
}
