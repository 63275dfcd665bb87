//! The signals: from the bytes of a record to typed events, and from events to what a flow counts.
//!
//! Each signal is one file of the same name in netdiag-common (its bytes), netdiag-ebpf (its
//! programs) and here (its definition), plus one line in each list. Tables, views and docs learn a
//! signal's metrics and counts from its [`Definition`].

use netdiag_common::{
    batch::BATCH,
    flow::{FlowId, FlowKey, SocketRef, TcpCounters},
    header::{Header, VERSION},
    signal::Signal,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

pub use crate::definition::{
    Alternative, Attachment, By, Cost, Count, Definition, Extra, Hook, Metric, Role, Rows, Shed,
    Source, When,
};
use crate::event::{Past, Told};

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
    /// `enum sk_rst_reason`, none on kernels without.
    Reset(Option<u32>),
    /// With what a call failed.
    Errno(i32),
    /// The process itself gave up, so there is no errno.
    GivenUp,
    /// Result code of a DNS answer.
    Rcode(u8),
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
    /// Who asks a server, without the port that each question has of its own.
    Asker(&'a FlowKey),
    /// An entry of the connection tracking table.
    Entry(&'a conntrack::Entry),
}

/// Where [`Event::fold`] puts what an event says: the row of its flow.
///
/// Rows differ: one that has no use for something leaves it out. All take counts.
pub trait Fold {
    /// `n` more of something.
    fn count(&mut self, count: CountId, n: u64);
    /// One sample of a latency.
    fn latency(&mut self, _metric: MetricId, _nanoseconds: u64) {}
    /// `n` more of something that is counted by label.
    fn labelled(&mut self, _count: CountId, _label: Label, _n: u64) {}
    /// What something that does not add up is now.
    fn state(&mut self, _count: CountId, _value: u64) {}
    /// What is known of the socket itself.
    fn socket(&mut self, _event: &socket::Event) {}
    /// What an event of another signal says of the socket besides: its owner's process id and the
    /// kernel's counters.
    fn seen(&mut self, _time_ns: u64, _pid: Option<u32>, _tcp: Option<&TcpCounters>) {}
    /// What the kernel held of the path to the peer at that time (`CLOCK_MONOTONIC`).
    fn path(&mut self, _time_ns: u64, _path: Path) {}
    /// The smallest round trip of late, in nanoseconds, as far as it is known now.
    fn rtt_min_ns(&self) -> Option<u64> {
        None
    }
    /// Whether this end is the one that connected, where that is known.
    fn asks(&self) -> Option<bool> {
        None
    }
    /// What an event says besides of an entry of the connection tracking table.
    fn entry(&mut self, _event: &conntrack::Event) {}
}

/// What the kernel holds of the path to a peer, none while it has no sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Smoothed round-trip time in nanoseconds.
    pub srtt_ns: Option<u64>,
    /// The smallest round-trip time of late (`tcp_sock.rtt_min`), in nanoseconds.
    pub rtt_min_ns: Option<u64>,
}

impl Path {
    /// Of the kernel's microseconds, 0 while it has none.
    #[must_use]
    pub fn of(srtt_us: u32, rtt_min_us: u32) -> Self {
        let known = |us: u32| (us != 0).then_some(u64::from(us) * 1_000);
        Self { srtt_ns: known(srtt_us), rtt_min_ns: known(rtt_min_us) }
    }
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
    conntrack Conntrack,
    rtt Rtt,
    turn Turn,
    reset Reset,
    dns Dns,
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

/// Header and samples of a batch.
fn batch<S: FromBytes + Immutable + KnownLayout>(
    bytes: &[u8],
) -> Result<(&Header, &[S]), Malformed> {
    let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    let samples = header.samples as usize;
    if samples == 0 || samples > BATCH {
        return Err(Malformed::Value("number of samples"));
    }
    let (batch, rest) =
        <[S]>::ref_from_prefix_with_elems(rest, samples).map_err(|_| Malformed::Short)?;
    if !rest.is_empty() {
        return Err(Malformed::Long);
    }
    Ok((header, batch))
}

/// How many metrics there are.
pub const METRICS: usize = metrics_before(Signal::ALL[Signal::COUNT - 1]) as usize
    + DEFINITIONS[Signal::COUNT - 1].metrics.len();

/// How many counts there are, of flows and of entries.
pub const COUNTS: usize = counts_before(Signal::ALL[Signal::COUNT - 1]) as usize
    + DEFINITIONS[Signal::COUNT - 1].counts.len();

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

/// Signals that are left out where cost must be kept down, the first to go first: bulk samples that a node can do
/// without for a while.
#[must_use]
pub fn shedding() -> Vec<Signal> {
    let mut order: Vec<_> =
        DEFINITIONS.iter().filter_map(|it| Some((it.shed?.place, it.signal))).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, signal)| signal).collect()
}

/// All metrics with their ids and signals.
pub fn metrics() -> impl Iterator<Item = (MetricId, Signal, &'static Metric)> {
    DEFINITIONS
        .iter()
        .flat_map(|d| d.metrics.iter().map(|metric| (d.signal, metric)))
        .enumerate()
        .map(|(id, (signal, metric))| (MetricId(id as u16), signal, metric))
}

/// All counts of flows with their ids and signals.
pub fn counts() -> impl Iterator<Item = (CountId, Signal, &'static Count)> {
    counts_of(Rows::Flows)
}

/// All counts of one kind of rows with their ids and signals.
pub fn counts_of(rows: Rows) -> impl Iterator<Item = (CountId, Signal, &'static Count)> {
    DEFINITIONS
        .iter()
        .flat_map(|definition| definition.counts.iter().map(move |count| (definition, count)))
        .enumerate()
        .filter(move |(_, (definition, _))| definition.rows == rows)
        .map(|(id, (definition, count))| (CountId(id as u16), definition.signal, count))
}

#[cfg(test)]
mod tests;
