//! The command line: what was typed, parsed into values with units. Nothing is looked up and
//! nothing is opened here; [`crate::config`] does that.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use netdiag_common::signal::Signal;

use crate::{event::Kind, exit, flow::Grouping, snapshot::build::Sort};

mod diagnose;
mod generate;
mod report;
pub mod value;

pub use diagnose::Diagnose;
pub use generate::{Completions, Man, Shell};
pub use report::Report;
use value::{Collector, NetnsName, Prefix, SourceChoice};

const EXAMPLES: &str = "\
Examples:
  netdiag                            what the flows of this node do
  netdiag --peer-port 5432 -i 5s     only connections to PostgreSQL servers
  netdiag live -d 30s -o json        30 lines of JSON, then the total
  netdiag diagnose                   what is wrong here, and what to do about it
  netdiag record --out /var/lib/netdiag -i 10s
  netdiag events --kind drop --stack what is dropped where, as it happens
  netdiag report DIR --html FILE     percentiles of recordings, and a page
  netdiag doctor                     what this kernel allows

Without a command it is `live`; its flags: `netdiag live --help`.
Exit status: 0 ran, 1 failed while running, 2 wrong usage, 3 cannot observe,
4 --strict and samples were lost, 10 --fail-on and something is that bad.";

const FILTERS: &str = "Filters (AND between flags, OR between the values of one)";
const KERNEL: &str = "Kernel";

/// Says why this node's network is slow: whose time each flow takes, what it loses and why
#[derive(Clone, Debug, Parser)]
#[command(name = "netdiag", version, max_term_width = 80, after_help = EXAMPLES)]
#[command(subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show what each flow does, every interval (the default)
    Live(Live),
    /// Watch for a while, then say what is wrong, why, and what to do
    Diagnose(Diagnose),
    /// Write the latency histograms of each interval to files
    Record(Record),
    /// Tell of single events as they happen: retransmits, drops, connects, …
    Events(Events),
    /// Merge recordings of any nodes: percentiles, and a page of them
    Report(Report),
    /// Say what this kernel and these privileges allow, and what is lost
    Doctor(Doctor),
    /// Print what makes a shell complete netdiag's commands and flags
    Completions(Completions),
    /// Print a manual page
    Man(Man),
}

/// `netdiag live`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  netdiag live --sort retransmits        on a terminal: ? tells the keys
  netdiag live --plain --sort retransmits --top 5
  netdiag live --by backend --sort response.p99
  netdiag live --port 443,8443 --netns blue -i 500ms
  netdiag live --pid 4711 -d 1m -o json --strict")]
pub struct Live {
    /// Print the plain table on a terminal, too, not the full screen
    #[arg(long)]
    pub plain: bool,
    /// Where `w` on the full screen writes: a directory, created with mode 0700 when missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// How and what to watch.
    #[command(flatten)]
    pub watch: Watch,
    /// Which kernel facilities to use.
    #[command(flatten)]
    pub kernel: Kernel,
}

/// `netdiag record`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Files are netdiag-NODE-TIME.hlog (HdrHistogram interval log 1.3, values in
nanoseconds) and the same name with .jsonl (one snapshot per interval).

Examples:
  netdiag record --out /var/lib/netdiag
  netdiag record --out dumps -i 10s -d 1h --max-disk 200MiB --top 100
  netdiag record --out dumps -i 10s --listen :9464 --otlp http://127.0.0.1:4318")]
pub struct Record {
    /// Directory of the files; created with mode 0700 when missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the node in file names and snapshots [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME", value_parser = value::node)]
    pub node: Option<String>,
    /// Room that all files of this node in DIR may take; the oldest go first
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = value::max_disk)]
    pub max_disk: u64,
    /// Size at which a new pair of files is begun [default: 64MiB, at most a quarter of --max-disk]
    #[arg(long, value_name = "BYTES", value_parser = value::rotate_size)]
    pub rotate_size: Option<u64>,
    /// Age at which a new pair of files is begun
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = value::rotate_every)]
    pub rotate_every: Duration,
    /// How and what to watch.
    #[command(flatten)]
    pub watch: Watch,
    /// Which kernel facilities to use.
    #[command(flatten)]
    pub kernel: Kernel,
}

/// `netdiag events`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A line comes within about 0.1 s of what it tells. In a flood drops of one
conversation are told together, with their number. What --pcap writes are no
captured packets, but headers made of what is known of each; its comment names
the findings of netdiag diagnose that such packets count for.

Examples:
  netdiag events --kind drop,listen_overflow
  netdiag events --kind retransmit --peer-port 5432 --stack
  netdiag events --netns blue -d 1m -o json | jq 'select(.kind == \"connect\")'
  netdiag events --kind drop,retransmit,reset --pcap lost.pcapng
  netdiag events --pcap - | tshark -r -")]
pub struct Events {
    /// Kinds of events to tell of [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = value::kind)]
    pub kind: Vec<&'static Kind>,
    /// Lines a second at most, 0 for no limit; what is left out is counted and said
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub limit: u32,
    /// Tell where in the kernel packets were dropped and segments sent again
    #[arg(long)]
    pub stack: bool,
    /// Stop after this long, with a unit [default: run until interrupted]
    #[arg(short, long, value_name = "TIME", value_parser = value::duration)]
    pub duration: Option<Duration>,
    /// Form of the output [default: text]
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Output>,
    /// Write the headers of packets that were dropped, sent again or reset to a new FILE (pcapng);
    /// `-` is standard output, which then has no lines
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// What is remembered of flows, and what ends the run badly.
    #[command(flatten)]
    pub flows: Flows,
    /// Which events to tell of.
    #[command(flatten)]
    pub filters: Filters,
    /// Which kernel facilities to use.
    #[command(flatten)]
    pub kernel: Kernel,
}

/// `netdiag doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  netdiag doctor
  netdiag doctor -o json | jq '.signals[] | select(.status != \"full\")'
  netdiag doctor --source send=kprobe    would this source work here?")]
pub struct Doctor {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t)]
    pub output: Output,
    /// Which kernel facilities to use.
    #[command(flatten)]
    pub kernel: Kernel,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people, 80 columns
    #[default]
    Text,
    /// One JSON object per line, see docs/schema
    Json,
}

/// How programs' own diagnostics are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what went wrong
    Error = 1,
    /// And what is odd
    Warn = 2,
    /// And what is done
    Info = 3,
    /// And how
    Debug = 4,
    /// Everything
    Trace = 5,
}

/// How and what to watch: shared by the commands that watch.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// Time between two outputs, with a unit, 100ms to 1h
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = value::interval)]
    pub interval: Duration,
    /// Stop after this long, with a unit [default: run until interrupted]
    #[arg(short, long, value_name = "TIME", value_parser = value::duration)]
    pub duration: Option<Duration>,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t)]
    pub output: Output,
    /// List the first N flows, the rest is summed up in `other`
    /// [default: live 20, live -o json all, record 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,
    /// Make flows one row that have that in common
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub by: Grouping,
    /// Sort flows by a metric's p50, p99 or max, or by a count, largest first
    /// [default: the most send calls]
    #[arg(long, value_name = "KEY", value_parser = value::sort)]
    pub sort: Option<Sort>,
    /// List flows that were idle in the interval, too
    #[arg(long)]
    pub all: bool,
    /// Serve metrics for Prometheus at http://ADDR/metrics; of a port alone,
    /// such as :9464, on the loopback
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub listen: Option<SocketAddr>,
    /// Send metrics to an OpenTelemetry collector at the end of each interval,
    /// by OTLP over HTTP; without a port to 4318, without a path to /v1/metrics
    #[arg(long, value_name = "URL", value_parser = value::collector)]
    pub otlp: Option<Collector>,
    /// Groups of flows that metrics tell apart, the rest is `other` [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub listen_groups: Option<u32>,
    /// What is remembered of flows, and what ends the run badly.
    #[command(flatten)]
    pub flows: Flows,
    /// Which flows to watch.
    #[command(flatten)]
    pub filters: Filters,
}

/// What is remembered of flows, what that may cost, and what ends a run badly.
#[derive(Clone, Debug, Args)]
pub struct Flows {
    /// Forget a flow after this long without activity
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = value::idle)]
    pub idle: Duration,
    /// Flows remembered; beyond, the longest idle one is summed up in `other`
    #[arg(long, value_name = "N", default_value_t = 65_536,
        value_parser = clap::value_parser!(u32).range(16..=4_194_304))]
    pub max_flows: u32,
    /// Percent of one core that netdiag and its programs may take: beyond, bulk signals are left out
    /// one by one and counted, until there is room again
    #[arg(long, value_name = "PERCENT", value_parser = value::max_cpu)]
    pub max_cpu: Option<f64>,
    /// End with status 4 when samples were lost or missed
    #[arg(long)]
    pub strict: bool,
}

/// What is watched: shared by the commands that watch.
#[derive(Clone, Debug, Args)]
pub struct Filters {
    /// Process that owns the socket
    #[arg(long, value_name = "PID", value_delimiter = ',', help_heading = FILTERS,
        value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pid: Vec<u32>,
    /// Port of either end
    #[arg(long, value_name = "PORT", value_delimiter = ',', help_heading = FILTERS,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Port of this end
    #[arg(long, value_name = "PORT", value_delimiter = ',', help_heading = FILTERS,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub local_port: Vec<u16>,
    /// Port of the other end
    #[arg(long, value_name = "PORT", value_delimiter = ',', help_heading = FILTERS,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: Vec<u16>,
    /// Address or prefix of the other end: 10.0.0.0/8, 2001:db8::1
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::prefix)]
    pub peer: Vec<Prefix>,
    /// Network namespace: inode, name under /run/netns, path, or pid:N
    #[arg(long, value_name = "NETNS", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::netns)]
    pub netns: Vec<NetnsName>,
    /// Name of the process that owns the socket, exactly
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::name)]
    pub comm: Vec<String>,
    /// Cgroup of that process, or one below it: kubepods.slice
    #[arg(long, value_name = "PATH", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::cgroup)]
    pub cgroup: Vec<String>,
    /// Container of that process, by the beginning of its id
    #[arg(long, value_name = "ID", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::container)]
    pub container: Vec<String>,
    /// Pod of that process
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::name)]
    pub pod: Vec<String>,
    /// Kubernetes namespace of that pod
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = FILTERS,
        value_parser = value::name)]
    pub namespace: Vec<String>,
    /// Wait for what does not exist yet: a process, namespace, cgroup, container or pod
    #[arg(long, help_heading = FILTERS)]
    pub wait: bool,
}

/// Which kernel facilities to use: shared by all commands.
#[derive(Clone, Debug, Args)]
pub struct Kernel {
    /// Signals to observe [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = KERNEL,
        value_parser = value::signal)]
    pub signals: Vec<Signal>,
    /// Force the source of a signal, e.g. send=kprobe; may be repeated
    #[arg(long, value_name = "SIGNAL=SOURCE", value_delimiter = ',', help_heading = KERNEL,
        value_parser = value::source)]
    pub source: Vec<SourceChoice>,
    /// BTF of the kernel, where it has none of its own
    #[arg(long, value_name = "FILE", help_heading = KERNEL)]
    pub btf: Option<PathBuf>,
    /// Where the host's file system is mounted, in a container
    /// [default: /host where its procfs is there, else /]
    #[arg(long, value_name = "DIR", help_heading = KERNEL)]
    pub host_root: Option<PathBuf>,
    /// Size of the ring buffer; a power of two of whole pages
    #[arg(long, value_name = "BYTES", default_value = "8MiB", help_heading = KERNEL,
        value_parser = value::ring_size)]
    pub ring_size: u32,
    /// Show and write pseudonyms for addresses and for names of processes, groups, pods and interfaces: the same one
    /// for the same name until netdiag ends; lines on standard error have none
    #[arg(long)]
    pub redact: bool,
    /// Keep all privileges after the start, where giving them up is in the way
    #[arg(long, help_heading = KERNEL)]
    pub no_sandbox: bool,
    /// Show the eBPF programs' own diagnostics
    #[arg(long, value_enum, value_name = "LEVEL", help_heading = KERNEL)]
    pub log: Option<LogLevel>,
}

/// What a command line asks for.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Run a command.
    Run(Box<Cli>),
    /// Print this text: help, version, a manual page or completions.
    Print(String),
}

/// Parses a command line; `args[0]` is the program's name.
///
/// # Errors
/// Wrong usage, in one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, exit::Error> {
    parse_for(args, false)
}

/// The same for whoever `shows_colours`, in which help stands out then.
///
/// # Errors
/// As for [`parse`].
pub fn parse_for(
    args: impl IntoIterator<Item = OsString>,
    shows_colours: bool,
) -> Result<Asked, exit::Error> {
    let matches = Cli::command().try_get_matches_from(with_command(args.into_iter().collect()));
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(Cli { command: Command::Completions(of) }) => {
            Ok(Asked::Print(generate::completions(of.shell)))
        }
        Ok(Cli { command: Command::Man(of) }) => {
            Ok(Asked::Print(generate::man(of.command.as_deref())))
        }
        Ok(cli) => Ok(Asked::Run(Box::new(cli))),
        Err(error) => exit::from_clap(&error, shows_colours).map(Asked::Print),
    }
}

/// Puts in the default command where the first argument is a flag, or where there is none.
fn with_command(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.is_empty() {
        args.push("netdiag".into());
    }
    let first = args.get(1).and_then(|first| first.to_str()).unwrap_or_default();
    let own = ["-h", "--help", "-V", "--version"].contains(&first);
    if (first.starts_with('-') && !own) || args.len() == 1 {
        args.insert(1, "live".into());
    }
    args
}

#[cfg(test)]
mod tests;
