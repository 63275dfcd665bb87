//! From what was typed to what a run does: plain data, validated, with every default filled in.
//!
//! Two steps: [`Config::new`] is pure; [`filters`] looks up the processes and namespaces that
//! filters name, again and again under `--wait`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use netdiag_common::{globals::FILTER_VALUES, signal::Signal};

use crate::{
    cli::{self, Cli, Output, value::SourceChoice},
    event::Kind,
    exit::Error,
    flow::Grouping,
    snapshot::build::Sort,
};

pub use self::{diagnose::Diagnose, metrics::Metrics, report::Report};
pub use self::{
    owners::Owners,
    targets::{Home, Lookup, Process, Targets, filters, unknowable},
};

mod diagnose;
mod events;
pub mod host;
mod metrics;
mod owners;
mod redact;
mod report;
mod targets;

/// Rows of the text table where `--top` is not given.
const TOP_TEXT: usize = 20;
/// Flows of an interval that `record` writes where `--top` is not given.
const TOP_RECORD: usize = 1_000;
/// Size of a pair of files where `--rotate-size` is not given.
const ROTATE_SIZE: u64 = 64 << 20;
/// Rotated files that must fit `--max-disk`, so that removing the oldest one leaves something.
const ROTATED_AT_LEAST: u64 = 4;

/// Everything that decides what a run does.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What to do.
    pub command: Command,
    /// Which kernel facilities to use.
    pub kernel: Kernel,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A full screen, or a table or an object every interval.
    Live(Watch, Live),
    /// Findings at the end.
    Diagnose(Watch, Diagnose),
    /// Findings from a directory of recordings.
    DiagnoseFrom(PathBuf, Output, Diagnose),
    /// Histograms of every interval to files.
    Record(Watch, Dump),
    /// Single events as they happen.
    Events(Watch, Tell),
    /// Recordings, merged.
    Report(Box<Report>),
    /// What this kernel allows.
    Doctor(Output),
}

impl Command {
    /// Whether it looks at what happens on the node.
    #[must_use]
    pub const fn watches(&self) -> bool {
        match self {
            Self::Live(..) | Self::Diagnose(..) | Self::Record(..) | Self::Events(..) => true,
            Self::DiagnoseFrom(..) | Self::Report(_) | Self::Doctor(_) => false,
        }
    }
}

/// Which kernel facilities to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Signals to observe, in the order of [`Signal::ALL`]; always with [`Signal::Socket`], which
    /// gives the flows of all others their names.
    pub signals: Vec<Signal>,
    /// Forced sources, at most one per signal, each of an observed signal.
    pub sources: Vec<SourceChoice>,
    /// BTF of the kernel, where it has none of its own.
    pub btf: Option<PathBuf>,
    /// Where the host's file system is.
    pub host_root: PathBuf,
    /// Nobody named that.
    pub finds_host_root: bool,
    /// Size of the ring buffer: a power of two of whole pages.
    pub ring_bytes: u32,
    /// Whether outputs have pseudonyms for addresses and names.
    pub redact: bool,
    /// Whether what is not needed any more is given up.
    pub sandbox: bool,
    /// Which of the programs' own diagnostics are wanted: 0 none, 1 errors to 5 everything.
    pub log_level: u32,
}

impl Kernel {
    /// That of a command that does not ask for any.
    fn none(host_root: &Path) -> Self {
        Self {
            signals: Vec::new(),
            sources: Vec::new(),
            btf: None,
            host_root: host_root.to_owned(),
            finds_host_root: false,
            ring_bytes: 0,
            redact: false,
            sandbox: true,
            log_level: 0,
        }
    }
}

/// How and what to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Time between two outputs.
    pub interval: Duration,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Form of the output.
    pub output: Output,
    /// Flows listed one by one, `None` all.
    pub top: Option<usize>,
    /// What makes flows one row.
    pub by: Grouping,
    /// Order of the flows.
    pub sort: Sort,
    /// List idle flows, too.
    pub all: bool,
    /// Forget a flow after this long without activity.
    pub idle: Duration,
    /// Flows remembered.
    pub max_flows: usize,
    /// What netdiag may take, as a part of one core; none for no limit.
    pub max_cpu: Option<f64>,
    /// Loss decides the exit status.
    pub strict: bool,
    /// What filters name; see [`filters`].
    pub targets: Targets,
    /// Wait for targets that do not exist yet.
    pub wait: bool,
    /// Where metrics go, if they go anywhere.
    pub metrics: Option<Metrics>,
}

/// How `live` shows what it watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// By no full screen, even on a terminal.
    pub plain: bool,
    /// Where the full screen's dumps go.
    pub out: PathBuf,
}

/// Which events to tell of, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Their kinds.
    pub kinds: Vec<&'static Kind>,
    /// Lines a second at most, 0 for no limit.
    pub limit: u64,
    /// Whether the kernel's stack is told.
    pub stack: bool,
    /// Where headers of packets go, if they shall go anywhere.
    pub pcap: Option<CaptureTo>,
}

/// Where headers of packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureTo {
    /// To standard output, instead of lines.
    Stdout,
    /// To a new file.
    File(PathBuf),
}

impl CaptureTo {
    /// The file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File(path) => Some(path),
        }
    }
}

/// Where and how `record` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Directory of the files.
    pub out: PathBuf,
    /// Name of the node, where given.
    pub node: Option<String>,
    /// Room for all files of the node, in bytes.
    pub max_disk: u64,
    /// Size at which a new pair of files is begun, in bytes; at most a quarter of `max_disk`.
    pub rotate_size: u64,
    /// Age at which a new pair of files is begun.
    pub rotate_every: Duration,
}

impl Config {
    /// Validates a parsed command line and fills in the defaults; `host_root` is where the host's file system
    /// is where no flag tells.
    ///
    /// # Errors
    /// Wrong usage: values that contradict each other, or too many of them.
    pub fn new(cli: &Cli, host_root: &Path) -> Result<Self, Error> {
        let kernel = |flags| kernel(flags, host_root);
        match &cli.command {
            cli::Command::Live(live) => {
                redact::check_live(live)?;
                let default_top = (live.watch.output == Output::Text).then_some(TOP_TEXT);
                let shown = Live { plain: live.plain, out: live.out.clone() };
                let command = Command::Live(watch(&live.watch, default_top)?, shown);
                Ok(Self { command, kernel: kernel(&live.kernel)? })
            }
            cli::Command::Record(record) => {
                redact::check_record(record)?;
                let command =
                    Command::Record(watch(&record.watch, Some(TOP_RECORD))?, dump(record)?);
                Ok(Self { command, kernel: kernel(&record.kernel)? })
            }
            cli::Command::Diagnose(flags) => {
                redact::check_diagnose(flags)?;
                let diagnose = diagnose::diagnose(flags);
                let command = match &flags.from {
                    Some(from) => Command::DiagnoseFrom(from.clone(), flags.output, diagnose),
                    None => Command::Diagnose(diagnose::watch(flags)?, diagnose),
                };
                Ok(Self { command, kernel: kernel(&flags.kernel)? })
            }
            cli::Command::Events(flags) => {
                redact::check_events(flags)?;
                let tell = events::tell(flags)?;
                let mut kernel = kernel(&flags.kernel)?;
                events::narrow(&mut kernel, &tell)?;
                Ok(Self { command: Command::Events(events::watch(flags)?, tell), kernel })
            }
            cli::Command::Report(flags) => Ok(Self {
                command: Command::Report(Box::new(report::report(flags)?)),
                kernel: Kernel { sandbox: !flags.no_sandbox, ..Kernel::none(host_root) },
            }),
            cli::Command::Doctor(doctor) => {
                redact::check_doctor(doctor)?;
                let command = Command::Doctor(doctor.output);
                Ok(Self { command, kernel: kernel(&doctor.kernel)? })
            }
            cli::Command::Completions(_) | cli::Command::Man(_) => Err(Error::usage(
                "it prints a text and does nothing else, so there is nothing to set",
            )),
        }
    }
}

fn kernel(flags: &cli::Kernel, host_root: &Path) -> Result<Kernel, Error> {
    let wanted = |signal: Signal| {
        flags.signals.is_empty() || flags.signals.contains(&signal) || signal == Signal::Socket
    };
    for (at, choice) in flags.source.iter().enumerate() {
        let name = choice.signal.name();
        if flags.source[..at].iter().any(|earlier| earlier.signal == choice.signal) {
            return Err(Error::usage(format!(
                "--source names two sources of `{name}`; a signal has one, keep one of them"
            )));
        }
        if !wanted(choice.signal) {
            return Err(Error::usage(format!(
                "--source forces `{name}`, which --signals leaves out; add it there"
            )));
        }
    }
    Ok(Kernel {
        signals: Signal::ALL.iter().copied().filter(|&signal| wanted(signal)).collect(),
        sources: flags.source.clone(),
        btf: flags.btf.clone(),
        finds_host_root: flags.host_root.is_none(),
        host_root: flags.host_root.clone().unwrap_or_else(|| host_root.to_owned()),
        ring_bytes: flags.ring_size,
        redact: flags.redact,
        sandbox: !flags.no_sandbox,
        log_level: flags.log.map_or(0, |level| level as u32),
    })
}

fn check_filters(flags: &cli::Filters) -> Result<(), Error> {
    let counts = [
        ("--pid", flags.pid.len()),
        ("--port", flags.port.len()),
        ("--local-port", flags.local_port.len()),
        ("--peer-port", flags.peer_port.len()),
        ("--peer", flags.peer.len()),
        ("--netns", flags.netns.len()),
        ("--comm", flags.comm.len()),
    ];
    for (flag, count) in counts {
        if count > FILTER_VALUES {
            return Err(Error::usage(format!(
                "{flag} has {count} values, the programs in the kernel take {FILTER_VALUES}; \
                 leave some out, or a prefix may cover several"
            )));
        }
    }
    Ok(())
}

fn targets(flags: &cli::Filters) -> Targets {
    Targets {
        pids: flags.pid.clone(),
        ports: flags.port.clone(),
        local_ports: flags.local_port.clone(),
        peer_ports: flags.peer_port.clone(),
        peers: flags.peer.clone(),
        netns: flags.netns.clone(),
        owners: Owners {
            comms: flags.comm.clone(),
            cgroups: flags.cgroup.clone(),
            containers: flags.container.clone(),
            pods: flags.pod.clone(),
            namespaces: flags.namespace.clone(),
        },
    }
}

fn watch(flags: &cli::Watch, default_top: Option<usize>) -> Result<Watch, Error> {
    if flags.duration.is_some_and(|duration| duration < flags.interval) {
        return Err(Error::usage(
            "--duration is shorter than one --interval, so nothing would be shown; \
             shorten --interval",
        ));
    }
    check_filters(&flags.filters)?;
    Ok(Watch {
        interval: flags.interval,
        duration: flags.duration,
        output: flags.output,
        top: flags.top.map(|top| top as usize).or(default_top),
        by: flags.by,
        sort: flags.sort.unwrap_or_default(),
        all: flags.all,
        idle: flags.flows.idle,
        max_flows: flags.flows.max_flows as usize,
        max_cpu: flags.flows.max_cpu,
        strict: flags.flows.strict,
        targets: targets(&flags.filters),
        wait: flags.filters.wait,
        metrics: metrics::metrics(flags)?,
    })
}

fn dump(flags: &cli::Record) -> Result<Dump, Error> {
    let most = flags.max_disk / ROTATED_AT_LEAST;
    let rotate_size = flags.rotate_size.unwrap_or(ROTATE_SIZE.min(most));
    if rotate_size > most {
        return Err(Error::usage(format!(
            "--rotate-size is more than a quarter of --max-disk, so removing one file would \
             remove most of the record; give at most {most} bytes or raise --max-disk"
        )));
    }
    Ok(Dump {
        out: flags.out.clone(),
        node: flags.node.clone(),
        max_disk: flags.max_disk,
        rotate_size,
        rotate_every: flags.rotate_every,
    })
}

#[cfg(test)]
mod tests;
