//! Programs in the kernel, from attach to detach: what run.rs holds on to.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use aya_log::EbpfLogger;
use netdiag_common::{
    field::Field,
    flow::FlowKey,
    globals::{EVENTS_SHARE, Filters, SOCKETS_SHARE, Settings, SlotPlace},
    signal::Signal,
};
use zerocopy::IntoBytes as _;

use super::{
    account::{Counting, accounts},
    attach::{self, Attached, Outcome, Verdict, Wishes},
    btf::Btf,
    facts::Facts,
    hooks::Kernel,
    memlock,
    missed::Runs,
    object::{self, Frozen, Sizes},
    ring::{Records, Ring},
    symbols::Symbols,
};
use crate::{
    coverage::{Account, SignalStatus, Status},
    exit,
};

/// Sends under way at once that find no slot: threads that share a socket.
const CALLS: u32 = 16_384;
const PAGE: u32 = 4096;
/// What a reading takes out of the rings, in the order in which it is to be decoded: a socket is
/// introduced before its events and samples are submitted.
#[derive(Default)]
pub struct Taken {
    /// Records of sockets.
    pub sockets: Records,
    /// Rare events.
    pub events: Records,
    /// Batches of samples.
    pub samples: Records,
}

/// How to observe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Signals and forced sources.
    pub wishes: Wishes,
    /// Filters, checked in the kernel.
    pub filters: Filters,
    /// Types of a kernel that publishes none.
    pub btf: Option<PathBuf>,
    /// Bytes of the ring of samples, a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Sockets to remember.
    pub max_flows: u32,
    /// Shortest time between two reports of a socket's counters.
    pub report_every_ns: u64,
    /// Wake the reader for each rare event.
    pub wake_on_event: bool,
    /// Which of the programs' own diagnostics are wanted: 0 none, 1 errors to 5 everything.
    pub log_level: u8,
}

/// What the kernel gives, without holding on to it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Facts of the kernel.
    pub facts: Facts,
    /// Whether the kernel publishes its types.
    pub btf: bool,
    /// How each signal is observed.
    pub signals: Vec<SignalStatus>,
    /// Set when nothing could be observed.
    pub refusal: Option<exit::Error>,
}

/// Reader of the programs' own diagnostics.
pub type Logger<To> = EbpfLogger<To>;

/// Attached programs; the kernel takes them out when this is dropped or the process dies.
pub struct Tracer {
    ebpf: Ebpf,
    attached: Vec<Attached>,
    counting: Counting,
    samples: Ring,
    sockets: Ring,
    events: Ring,
    facts: Facts,
    signals: Vec<SignalStatus>,
}

impl Tracer {
    /// Loads and attaches. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`exit::Status::CannotObserve`] without privilege or BTF, or when no signal attaches.
    pub fn attach(options: &Options) -> Result<Self> {
        let kernel = read_kernel(options.btf.as_deref())?;
        let (ebpf, outcome) = plan(&kernel, options)?;
        if let Some(refusal) = refusal(&outcome.statuses) {
            return Err(refusal.into());
        }
        Self::finish(kernel, ebpf, outcome)
    }

    fn finish(kernel: Kernel, mut ebpf: Ebpf, outcome: Outcome) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
        };
        let counting = Counting::new(take("PER_CPU")?)?;
        let samples = Ring::new(take("SAMPLES")?, "SAMPLES")?;
        let sockets = Ring::new(take("SOCKETS")?, "SOCKETS")?;
        let events = Ring::new(take("EVENTS")?, "EVENTS")?;
        let flush: &mut RawTracePoint = program(&mut ebpf, "send_flush")?;
        flush.load().context("the kernel refused the program that empties the batches")?;
        Ok(Self {
            ebpf,
            attached: outcome.attached,
            counting,
            samples,
            sockets,
            events,
            facts: kernel.facts,
            signals: outcome.statuses,
        })
    }

    /// Facts of the kernel.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How each signal is observed.
    #[must_use]
    pub fn signals(&self) -> &[SignalStatus] {
        &self.signals
    }

    /// Tells the programs who owns the sockets that were there before them, for `--pid`.
    ///
    /// # Errors
    /// The map is full.
    pub fn seed_owners(&mut self, owners: impl Iterator<Item = (FlowKey, u32)>) -> Result<()> {
        /// A [`FlowKey`] as aya writes it: its bytes.
        const KEY: usize = size_of::<FlowKey>();
        let map = self.ebpf.map_mut("SEEDED_OWNERS").context("there is no map SEEDED_OWNERS")?;
        let mut map: HashMap<&mut MapData, [u8; KEY], u32> = HashMap::try_from(map)?;
        for (key, pid) in owners {
            let mut bytes = [0; KEY];
            bytes.copy_from_slice(key.as_bytes());
            map.insert(bytes, pid, 0).context(
                "the sockets of --pid do not fit, retransmits of older ones may be left out; \
                 raise --max-flows",
            )?;
        }
        Ok(())
    }

    /// The programs' diagnostics; `to` gets what its `flush` finds.
    ///
    /// # Errors
    /// The log ring cannot be read.
    pub fn log<T: log::Log>(&mut self, to: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(&mut self.ebpf, to).context("the programs' log cannot be read")
    }

    /// Waits until a ring fills up; the caller polls at its own pace beside it.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub async fn wanted(&self) -> Result<()> {
        tokio::select! {
            result = self.samples.wanted() => result,
            result = self.sockets.wanted() => result,
            result = self.events.wanted() => result,
        }
    }

    /// Copies out what is in the rings; false when there may be more. Sockets are read last: then
    /// the introduction of whatever was read before them is among them.
    pub fn take(&mut self, into: &mut Taken) -> bool {
        let samples = self.samples.take(&mut into.samples);
        let events = self.events.take(&mut into.events);
        let sockets = self.sockets.take(&mut into.sockets);
        samples && events && sockets
    }

    /// Empties the half-full batches of all CPUs into the ring; true when there was none.
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn flush(&mut self) -> Result<bool> {
        let unflushed = self.counting.read()?.unflushed;
        let none = unflushed.is_empty();
        let flush: &mut RawTracePoint = program(&mut self.ebpf, "send_flush")?;
        for cpu in unflushed {
            let options = RawTracePointRunOptions { cpu: Some(cpu), ..Default::default() };
            match flush.test_run(options) {
                Ok(_) => {}
                // An offline CPU runs nothing; what it held before it went is still there when it
                // comes back.
                Err(error) if is_offline(&error) => {}
                Err(error) => return Err(error).context("a batch could not be flushed"),
            }
        }
        Ok(none)
    }

    /// Fates of all samples so far, by signal.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn accounting(&self) -> Result<BTreeMap<String, Account>> {
        Ok(accounts(&self.counting.read()?, &self.missed()?))
    }

    fn missed(&self) -> Result<[u64; Signal::COUNT]> {
        let mut missed = [0; Signal::COUNT];
        for attached in &self.attached {
            let Some(program) = self.ebpf.program(&attached.program) else { continue };
            let runs = Runs::of(program.fd()?.as_fd()).context("reading a program's counts")?;
            missed[attached.signal as usize] += runs.recursion_misses.unwrap_or(0);
        }
        Ok(missed)
    }

    /// Takes the programs out of their hooks, so that nothing new is seen. What they counted and
    /// submitted stays readable through what is returned.
    ///
    /// # Errors
    /// The last counts of skipped runs cannot be read.
    pub fn detach(mut self) -> Result<Detached> {
        let missed = self.missed()?;
        // Beginnings go before their ends, and what uses sockets before what forgets them.
        for attached in self.attached.drain(..).rev() {
            super::hooks::unload(&mut self.ebpf, &attached.program);
        }
        Ok(Detached { tracer: self, missed })
    }
}

/// A tracer whose programs are gone from their hooks.
pub struct Detached {
    tracer: Tracer,
    missed: [u64; Signal::COUNT],
}

impl Detached {
    /// See [`Tracer::take`].
    pub fn take(&mut self, into: &mut Taken) -> bool {
        self.tracer.take(into)
    }

    /// See [`Tracer::flush`].
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn flush(&mut self) -> Result<bool> {
        self.tracer.flush()
    }

    /// See [`Tracer::accounting`].
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn accounting(&self) -> Result<BTreeMap<String, Account>> {
        Ok(accounts(&self.tracer.counting.read()?, &self.missed))
    }
}

/// Attaches everything, lets go again, and says how it went.
///
/// # Errors
/// [`exit::Status::CannotObserve`] without privilege or BTF.
pub fn examine(options: &Options) -> Result<Report> {
    let kernel = read_kernel(options.btf.as_deref())?;
    let (_ebpf, outcome) = plan(&kernel, options)?;
    Ok(Report {
        btf: kernel.aya_btf.is_some(),
        refusal: refusal(&outcome.statuses),
        signals: outcome.statuses,
        facts: kernel.facts,
    })
}

/// Tries to remember sockets in socket storage, else in the hash.
fn plan(kernel: &Kernel, options: &Options) -> Result<(Ebpf, Outcome)> {
    let (locations, _missing) = kernel.btf.locations();
    for &field in IDENTITY {
        if let Err(error) = kernel.btf.locate(field) {
            return Err(exit::Error::cannot_observe(format!(
                "{error}, so flows cannot be told apart; give the kernel's own types by --btf FILE"
            ))
            .into());
        }
    }
    for place in [SlotPlace::Storage, SlotPlace::Hash] {
        let mut ebpf = object::load(&Frozen {
            settings: settings(kernel, options, place),
            filters: &options.filters,
            locations: &locations,
            sizes: sizes(options),
            log_level: options.log_level,
        })?;
        match attach::attach(kernel, &mut ebpf, &locations, place, &options.wishes) {
            Verdict::NeedsHash => {}
            Verdict::Done(outcome) => return Ok((ebpf, outcome)),
        }
    }
    bail!("no place to remember sockets in works on this kernel; please report this")
}

/// Fields without which no flow can be named.
const IDENTITY: &[Field] = &[
    Field::SkDaddr,
    Field::SkRcvSaddr,
    Field::SkDport,
    Field::SkNum,
    Field::SkFamily,
    Field::SkState,
    Field::SkNet,
    Field::SkV6Daddr,
    Field::SkV6RcvSaddr,
    Field::SkProtocol,
    Field::NetInum,
];

fn read_kernel(btf_file: Option<&Path>) -> Result<Kernel> {
    let facts = Facts::read();
    if let Some(missing) = facts.privileges.refusal() {
        return Err(exit::Error::cannot_observe(missing).into());
    }
    memlock::raise().ok();
    let btf = Btf::load(btf_file).map_err(|error| {
        let status =
            if error.is_usage() { exit::Status::Usage } else { exit::Status::CannotObserve };
        exit::Error::new(status, error.to_string())
    })?;
    let aya_btf = aya::Btf::from_sys_fs().ok();
    let symbols = Symbols::load(&Kernel::functions()).unwrap_or_default();
    Ok(Kernel { facts, btf, aya_btf, symbols })
}

fn settings(kernel: &Kernel, options: &Options, place: SlotPlace) -> Settings {
    let retransmit = kernel.btf.tracepoint("tcp_retransmit_skb");
    Settings {
        report_every_ns: options.report_every_ns,
        wake_above_bytes: u64::from(options.ring_bytes / 4),
        slot_place: place as u32,
        wake_on_event: u32::from(options.wake_on_event),
        // Cookies and socket storage came to typed programs together (5.11).
        has_cookie: u32::from(place == SlotPlace::Storage),
        retransmit_has_error: u32::from(retransmit.is_some_and(|args| args.len() > 2)),
    }
}

fn sizes(options: &Options) -> Sizes {
    // A ring has at least one page.
    let share = |share: u64| (options.ring_bytes / share as u32).max(PAGE);
    Sizes {
        samples_bytes: options.ring_bytes,
        sockets_bytes: share(SOCKETS_SHARE),
        events_bytes: share(EVENTS_SHARE),
        sockets: options.max_flows.max(1),
        calls: CALLS.max(options.max_flows / 4),
        owners: if options.filters.pid.len == 0 { 1 } else { options.max_flows.max(1) },
    }
}

/// Why a run would be pointless: no socket could be named, or nothing is seen of them.
fn refusal(statuses: &[SignalStatus]) -> Option<exit::Error> {
    let is_off = |signal: Signal| statuses[signal as usize].status == Status::Off;
    let others_off = Signal::ALL.iter().all(|&s| s == Signal::Socket || is_off(s));
    if !is_off(Signal::Socket) && !others_off {
        return None;
    }
    let mut reasons = Vec::new();
    for status in statuses {
        for refusal in &status.refused {
            reasons.push(format!("{}={}: {}", status.signal, refusal.source, refusal.reason));
        }
    }
    Some(exit::Error::cannot_observe(format!(
        "nothing can be observed on this kernel ({}); `netdiag doctor` shows what was tried",
        reasons.join("; ")
    )))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program =
        ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn is_offline(error: &aya::programs::ProgramError) -> bool {
    matches!(
        error,
        aya::programs::ProgramError::SyscallError(error)
            if error.io_error.raw_os_error() == Some(libc::ENXIO)
    )
}
