//! The signals: from the bytes of a record to typed events, and from events to what a flow counts.
//!
//! Each signal is one file of the same name in netdiag-common (its bytes), netdiag-ebpf (its
//! programs) and here (its definition), plus one line in each list. Tables, views and docs learn a
//! signal's metrics and counts from its [`Definition`].

use netdiag_common::{
    field::Field,
    flow::{FlowId, FlowKey, SocketRef, TcpCounters},
    header::{Header, VERSION},
    signal::Signal,
};
use zerocopy::FromBytes;

use crate::event::{Kind, Past, Told};

/// A latency that a signal measures, in nanoseconds.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name in outputs: lower case, no unit (the unit stands in the keys below it).
    pub name: &'static str,
    /// From where to where it is measured and what it says, one line.
    pub help: &'static str,
}

/// Something that a signal counts per flow.
#[derive(Debug, PartialEq, Eq)]
pub struct Count {
    /// Key in `counts`; `group.key` for a nested one (`retransmits.rto`).
    pub name: &'static str,
    /// What is counted, with its unit, one line.
    pub help: &'static str,
    /// Whether a flow without it counted zero; otherwise the number is unknown there.
    pub absent_is_zero: bool,
    /// Whether it is a group whose keys are the kernel's: one number for each [`Label`] that came.
    pub labelled: bool,
}

impl Count {
    /// A count that starts at zero.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, absent_is_zero: true, labelled: false }
    }

    /// A reading of the kernel's counter, unknown until the kernel was asked.
    #[must_use]
    pub const fn reading(name: &'static str, help: &'static str) -> Self {
        Self { name, help, absent_is_zero: false, labelled: false }
    }

    /// A group of counts that start at zero, by keys that only the running kernel knows.
    #[must_use]
    pub const fn labelled(name: &'static str, help: &'static str) -> Self {
        Self { name, help, absent_is_zero: true, labelled: true }
    }

    /// The group that it stands in, if any.
    #[must_use]
    pub fn group(&self) -> Option<&'static str> {
        if self.labelled { Some(self.name) } else { Some(self.name.split_once('.')?.0) }
    }
}

/// How a program reaches the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// BPF trampoline at the entry of a vmlinux function.
    Fentry(&'static str),
    /// BPF trampoline at its return.
    Fexit(&'static str),
    /// The same, where the function takes so many arguments: its program finds the returned value
    /// behind them, and signatures change.
    FexitWith(&'static str, usize),
    /// kprobe at the entry of a function.
    Kprobe(&'static str),
    /// BTF-typed raw tracepoint.
    TpBtf(&'static str),
    /// Raw tracepoint, arguments read by the probe-read helper.
    RawTp(&'static str),
    /// Classic tracepoint `category:name`, by perf event.
    Tracepoint(&'static str, &'static str),
}

/// A program and the place it attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the program in the eBPF object. Where sockets are remembered in the hash, a program
    /// of that name with `_hash` behind it goes first if there is one.
    pub program: &'static str,
    /// Where it goes.
    pub hook: Hook,
    /// What a run of it means.
    pub role: Role,
}

impl Attachment {
    /// A program that sees samples begin, or all that there is of them.
    #[must_use]
    pub const fn new(program: &'static str, hook: Hook) -> Self {
        Self { program, hook, role: Role::Begin }
    }

    /// A program that sees the ends of samples that began elsewhere.
    #[must_use]
    pub const fn end(program: &'static str, hook: Hook) -> Self {
        Self { program, hook, role: Role::End }
    }

    /// A program by which no sample is missed when the kernel skips it.
    #[must_use]
    pub const fn aside(program: &'static str, hook: Hook) -> Self {
        Self { program, hook, role: Role::Aside }
    }
}

/// What the kernel's skipping a run of a program means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A sample was missed.
    Begin,
    /// The end of one was, whose beginning is left behind.
    End,
    /// None was: it only adds to what another program sees, or stands in for one on the same hook,
    /// where a run that is skipped itself would have done nothing.
    Aside,
}

/// When an [`Extra`] is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The kernel has the function.
    FunctionExists(&'static str),
    /// The kernel has the tracepoint.
    TracepointExists(&'static str),
    /// The tracepoint has fewer arguments than this.
    TracepointArgumentsBelow(&'static str, usize),
}

/// Programs beside those of a source, for what only some kernels have or need.
#[derive(Debug, PartialEq, Eq)]
pub struct Extra {
    /// When it is wanted; otherwise nothing is lost without it.
    pub when: When,
    /// Ways to have it, in order of preference, each with what it cannot see.
    pub alternatives: &'static [(&'static [Attachment], &'static [&'static str])],
    /// What is lost when none of them works.
    pub lost: &'static str,
    /// Counts that are unknown when none of them works.
    pub counts: &'static [&'static str],
}

/// One way to get a signal. The first that loads and attaches wins.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Name in `--source SIGNAL=NAME` and outputs.
    pub name: &'static str,
    /// Its programs, all or nothing.
    pub attachments: &'static [Attachment],
    /// Programs beside them.
    pub extras: &'static [Extra],
    /// Fields it cannot do without.
    pub fields: &'static [Field],
    /// Whether its programs can reach socket storage (typed socket pointers).
    pub typed: bool,
    /// Whether they read kernel memory by address, which lockdown in mode confidentiality forbids.
    pub reads_memory: bool,
    /// Whether the kernel skips runs of it when a task is preempted inside the program.
    pub skips_when_preempted: bool,
    /// What it cannot see, one line each; empty for a full source.
    pub blind: &'static [&'static str],
    /// Other programs by the same name, in its place where tasks are preempted inside programs.
    pub when_preempted: Option<&'static Self>,
}

/// Everything the rest of netdiag knows of a signal.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which one.
    pub signal: Signal,
    /// What it tells, one line.
    pub help: &'static str,
    /// Latencies it measures.
    pub metrics: &'static [Metric],
    /// What it counts.
    pub counts: &'static [Count],
    /// Sources, in order of preference.
    pub sources: &'static [Source],
    /// Samples that one record carries at most.
    pub samples: u32,
    /// Kinds of events that it tells of one by one.
    pub kinds: &'static [&'static Kind],
}

/// Index of a metric in [`metrics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricId(pub u16);

/// Index of a count in [`counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CountId(pub u16);

/// Key of a labelled count, as the kernel gives it; named when it leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// `enum skb_drop_reason`, the subsystem in the upper 16 bits.
    Reason(u32),
    /// An address in the kernel's code.
    Place(u64),
}

/// Whom an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A socket that an earlier record introduced.
    Flow(FlowId),
    /// A socket or a connection request, with all that identifies it.
    Socket(&'a SocketRef),
    /// A packet, of which there may be no socket.
    Packet {
        /// Its conversation; all zero where it is not known, the netns 0 where that is not.
        key: &'a FlowKey,
        /// Whether the key's ends are this end and the other; else this end is the destination's.
        ends_known: bool,
    },
}

/// Where [`Event::fold`] puts what an event says: the row of its flow.
pub trait Fold {
    /// One sample of a latency.
    fn latency(&mut self, metric: MetricId, nanoseconds: u64);
    /// `n` more of something.
    fn count(&mut self, count: CountId, n: u64);
    /// `n` more of something that is counted by label.
    fn labelled(&mut self, count: CountId, label: Label, n: u64);
    /// What is known of the socket itself.
    fn socket(&mut self, event: &socket::Event);
    /// What an event of another signal says of the socket besides: its owner's process id and the
    /// kernel's counters.
    fn seen(&mut self, pid: Option<u32>, tcp: Option<&TcpCounters>);
}

/// Why a record was refused; each is one malformed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its header or than what its header promises.
    Short,
    /// Longer than the layout allows.
    Long,
    /// Written by another version.
    Version(u16),
    /// A signal number that does not exist.
    Signal(u16),
    /// A value that the layout forbids.
    Value(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => write!(f, "record shorter than it says"),
            Self::Long => write!(f, "record longer than its layout"),
            Self::Version(version) => write!(f, "record of version {version}, expected {VERSION}"),
            Self::Signal(signal) => write!(f, "record of unknown signal {signal}"),
            Self::Value(what) => write!(f, "record with impossible {what}"),
        }
    }
}

macro_rules! signals {
    ($($module:ident $name:ident,)+) => {
        $(pub mod $module;)+

        /// Definitions of all signals, in the order of [`Signal::ALL`].
        pub const DEFINITIONS: [&Definition; Signal::COUNT] = [$(&$module::DEFINITION,)+];

        /// A decoded record, or one sample of a batch.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $(#[doc = concat!("Of signal `", stringify!($module), "`.")] $name($module::Event),)+
        }

        impl Event {
            /// Whom it belongs to.
            #[must_use]
            pub fn subject(&self) -> Subject<'_> {
                match self { $(Self::$name(event) => event.subject(),)+ }
            }

            /// Samples that no program saw and of which it is the first to tell, by signal.
            #[must_use]
            pub fn unseen(&self) -> Option<(Signal, u64)> {
                match self { $(Self::$name(event) => event.unseen(),)+ }
            }

            /// Adds what it says to the row of its flow.
            pub fn fold(&self, row: &mut impl Fold) {
                match self { $(Self::$name(event) => event.fold(row),)+ }
            }

            /// Tells of it by itself, where it is of a kind that is; `past` is that of its flow.
            pub fn tell(&self, past: &Past, told: &mut impl FnMut(Told)) {
                match self { $(Self::$name(event) => event.tell(past, told),)+ }
            }
        }

        fn dispatch(
            signal: Signal,
            bytes: &[u8],
            emit: &mut impl FnMut(Event),
        ) -> Result<(), Malformed> {
            match signal {
                $(Signal::$name => $module::decode(bytes, &mut |event| emit(Event::$name(event))),)+
            }
        }
    };
}

signals! {
    socket Socket,
    send Send,
    retransmit Retransmit,
    drop Drop,
}

/// The samples that a record claims to carry, as far as a record of its signal can; 1 where it claims
/// none.
#[must_use]
pub fn samples(bytes: &[u8]) -> u64 {
    let Ok((header, _)) = Header::read_from_prefix(bytes) else { return 1 };
    let definition = DEFINITIONS.get(usize::from(header.signal));
    let most = definition.map_or(1, |definition| definition.samples);
    u64::from(header.samples.clamp(1, most))
}

/// Decodes one record, trusting neither its length nor its content.
///
/// Returns the header on success; `emit` gets every sample, or none when the record is refused.
///
/// # Errors
/// [`Malformed`], and the samples that the header claims are lost.
pub fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<Header, Malformed> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if header.version != VERSION {
        return Err(Malformed::Version(header.version));
    }
    let signal =
        *Signal::ALL.get(usize::from(header.signal)).ok_or(Malformed::Signal(header.signal))?;
    dispatch(signal, bytes, emit)?;
    Ok(header)
}

const fn metrics_before(signal: Signal) -> u16 {
    let mut id = 0;
    let mut at = 0;
    while at < signal as usize {
        id += DEFINITIONS[at].metrics.len();
        at += 1;
    }
    id as u16
}

const fn counts_before(signal: Signal) -> u16 {
    let mut id = 0;
    let mut at = 0;
    while at < signal as usize {
        id += DEFINITIONS[at].counts.len();
        at += 1;
    }
    id as u16
}

/// The id of the `nth` metric of a signal's definition.
#[must_use]
pub const fn metric_id(signal: Signal, nth: u16) -> MetricId {
    MetricId(metrics_before(signal) + nth)
}

/// The id of the `nth` count of a signal's definition.
#[must_use]
pub const fn count_id(signal: Signal, nth: u16) -> CountId {
    CountId(counts_before(signal) + nth)
}

/// All metrics with their ids and signals.
pub fn metrics() -> impl Iterator<Item = (MetricId, Signal, &'static Metric)> {
    DEFINITIONS
        .iter()
        .flat_map(|d| d.metrics.iter().map(|metric| (d.signal, metric)))
        .enumerate()
        .map(|(id, (signal, metric))| (MetricId(id as u16), signal, metric))
}

/// All counts with their ids and signals.
pub fn counts() -> impl Iterator<Item = (CountId, Signal, &'static Count)> {
    DEFINITIONS
        .iter()
        .flat_map(|d| d.counts.iter().map(|count| (d.signal, count)))
        .enumerate()
        .map(|(id, (signal, count))| (CountId(id as u16), signal, count))
}

#[cfg(test)]
mod tests;
