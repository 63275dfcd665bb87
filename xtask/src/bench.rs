//! `cargo xtask bench`: what netdiag costs, by the instructions of a machine that counts them, or by the
//! throughput of a conversation.

mod cost;
mod turns;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::{
    cost::{Bounds, Cost},
    turns::Turns,
};
use crate::{build, process, setup, vm};

/// Most instructions that a send may cost more than untraced, by series of the kernel and source.
const BOUNDS: &str = include_str!("../../benches/icount.json");

/// Measure what tracing adds to a send, and fail when it is more than benches/icount.json allows, or
/// what each signal costs a conversation
#[derive(clap::Args)]
#[command(
    after_help = "A thread holds both ends of a loopback connection and sends one byte at a time, untraced and
traced by turns, in a virtual machine with one CPU whose clock counts instructions. So the figure
is repeatable; it does not know of cache misses or other CPUs. The result is a line on stderr and
a JSON object on stdout.

With --turns a client and a server on this machine ask and answer over loopback as fast as they can,
untraced and traced by turns, with all signals and with each alone. Only the ratios mean anything.

Examples:
  cargo xtask bench --icount
  cargo xtask bench --icount --kernel newest --source kprobe
  cargo xtask bench --turns --rounds 9"
)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(crate) struct Args {
    /// Count instructions of the guest
    #[arg(long, group = "what")]
    icount: bool,

    /// Compare the throughput of requests and answers on this machine
    #[arg(long, group = "what", conflicts_with_all = ["kernel", "source", "arguments"])]
    turns: bool,

    /// Series of the kernel: 5.10, 6.1, 6.12, or the newest that Debian has
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,

    /// Source of the signal `send`
    #[arg(long, value_name = "SOURCE", default_value = "fexit")]
    source: String,

    /// Turns of untraced, traced, untraced
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,

    /// Sends in each measurement, or turns
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    sends: u32,

    /// Arguments for netdiag, such as filters
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if args.turns { conversation(args) } else { send(args) }
}

/// Requests and answers on this machine.
fn conversation(args: &Args) -> Result<ExitCode> {
    let netdiag = build::netdiag(true)?;
    let mut command = process::as_root("env")?;
    command.arg(format!("NETDIAG_BIN={}", netdiag.display()));
    command.arg(build::load("turn_load")?);
    command.args([args.rounds, args.sends].map(|number| number.to_string()));
    let turns = Turns::parse(&process::output(&mut command)?)?;
    eprint!("{}", turns.table());
    println!("{}", turns.json());
    Ok(ExitCode::SUCCESS)
}

/// Sends in a machine that counts instructions.
fn send(args: &Args) -> Result<ExitCode> {
    setup::vm_tools()?;
    let netdiag = build::netdiag(true)?;
    let load = build::load("send_load")?;
    let bounds = Bounds::parse(BOUNDS).context("benches/icount.json")?;
    let mut command =
        vec!["./send_load".to_owned(), args.rounds.to_string(), args.sends.to_string()];
    command.extend(["--source".to_owned(), format!("send={}", args.source)]);
    if !args.arguments.iter().any(|argument| argument.starts_with("--signals")) {
        // Other signals see the load's segments, too: that is their cost, not a send's.
        command.extend(["--signals", "send"].map(str::to_owned));
    }
    command.extend_from_slice(&args.arguments);
    let counted = vm::count(&args.kernel, &netdiag, &load, &command)?;
    let cost = Cost::parse(&counted.output)
        .with_context(|| format!("the load printed {:?}", counted.output))?;
    let bound = bounds.get(&counted.series, &args.source);
    eprintln!("bench: {} send={}: {}", counted.series, args.source, cost.line(bound));
    println!("{}", cost.json(&counted.series, &counted.build, &args.source, bound));
    if bound.is_some_and(|bound| cost.added() > bound) {
        bail!("a send costs more than benches/icount.json allows: make the programs cheaper");
    }
    Ok(ExitCode::SUCCESS)
}
