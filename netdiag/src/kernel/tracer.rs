//! Programs in the kernel, from attach to detach: what run.rs holds on to.

mod detached;
mod shed;
mod skips;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use aya_log::EbpfLogger;
use netdiag_common::{flow::FlowKey, globals::Live, signal::Signal};
use zerocopy::IntoBytes as _;

pub use self::detached::Detached;
use self::skips::{Skips, counted, skipped};
use super::{
    account::{Counting, Counts, Phase, accounts},
    attach::{self, Attached, Outcome},
    ctnetlink::Ctnetlink,
    drops,
    facts::Facts,
    hooks::Kernel,
    modules::Follow,
    object,
    packets::Packets,
    plan::{self, Options},
    ring::{Records, Ring},
    stacks::Stacks,
    stranded::Stranded,
};
use crate::{
    coverage::{Account, SignalStatus, Status},
    labels::Labels,
    signal::DEFINITIONS,
};

/// What a reading takes out of the rings, in the order in which it is to be decoded: a socket is
/// introduced before its events and samples are submitted.
#[derive(Default)]
pub struct Taken {
    /// Records of sockets.
    pub sockets: Records,
    /// Rare events.
    pub events: Records,
    /// Records with packets. Of these nothing is left.
    pub packets: Records,
    /// Batches of samples.
    pub samples: Records,
}

impl Taken {
    fn is_empty(&self) -> bool {
        let Self { sockets, events, packets, samples } = self;
        [sockets, events, packets, samples].iter().all(|records| records.is_empty())
    }
}

/// For so long a reading of the counters serves for the accounts as well, where nothing came of it.
const SERVES: Duration = Duration::from_millis(10);

/// Reader of the programs' own diagnostics.
pub type Logger<To> = EbpfLogger<To>;

/// Attached programs; the kernel takes them out when this is dropped or the process dies.
pub struct Tracer {
    ebpf: Ebpf,
    attached: Vec<Attached>,
    counting: Counting,
    /// A [`Live`].
    live: Array<MapData, [u32; 3]>,
    /// What it was as the programs began.
    begun: Live,
    /// What was read for a flush that had nothing to do, and when, as long as nothing was taken out of the rings since.
    quiet: Option<(Instant, Counts)>,
    samples: Ring,
    sockets: Ring,
    events: Ring,
    packets: Option<Packets>,
    facts: Facts,
    signals: Vec<SignalStatus>,
    labels: Labels,
    /// Programs that hand over what waits on a CPU, by their signals.
    flushes: Vec<(Signal, &'static str)>,
    modular: Vec<Follow>,
    listening: Option<Ctnetlink>,
    skips: Skips,
    stranded: Stranded,
}

impl Tracer {
    /// Loads and attaches. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`exit::Status::CannotObserve`] without privilege or BTF, or when no signal attaches.
    pub fn attach(options: &Options) -> Result<Self> {
        let (kernel, loader) = plan::read_kernel(options.btf.as_deref())?;
        let (ebpf, outcome) = plan::plan(&kernel, loader, options)?;
        if let Some(refusal) = plan::refusal(&outcome.statuses, &options.wishes) {
            return Err(refusal.into());
        }
        Self::finish(kernel, ebpf, outcome)
    }

    fn finish(kernel: Kernel, mut ebpf: Ebpf, mut outcome: Outcome) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name).with_context(|| format!("the eBPF object has no map {name}"))
        };
        let mut live = Array::<_, [u32; 3]>::try_from(take(".bss")?).context("map .bss")?;
        let counting = Counting::new(take("COUNTERS")?, take("BATCHES")?)?;
        let mut ring = |name| {
            Ring::new(take(name)?, name).context(
                "netdiag cannot reach what its programs tell, so nothing was started; see limits of memory and \
                 open files (`ulimit -v -n`, cgroup), or give a smaller --ring-size",
            )
        };
        let (samples, sockets, events) = (ring("SAMPLES")?, ring("SOCKETS")?, ring("EVENTS")?);
        let packets = outcome.copies_packets().then(|| Packets::new(take("PACKETS")?)).transpose();
        let packets = packets.unwrap_or_else(|error| {
            outcome.statuses[Signal::Dns as usize].lacks(format!(
                "messages whose bytes lie in pages, over TCP nearly all (counted as ring_full: {})",
                attach::one_line(&error)
            ));
            None
        });
        let is_on = |signal| outcome.statuses[signal as usize].status != Status::Off;
        let on = DEFINITIONS.iter().filter(|definition| is_on(definition.signal));
        let flushes: Vec<_> =
            on.filter_map(|definition| Some((definition.signal, definition.flush?))).collect();
        for (_, name) in &flushes {
            let flush: &mut RawTracePoint = program(&mut ebpf, name)?;
            if flush.fd().is_err() {
                flush.load().context(
                    "the kernel refused a program that empties the batches, so nothing was started; \
                     `netdiag doctor` says what this kernel allows",
                )?;
            }
        }
        let labels = drops::labels(&kernel);
        let duties = outcome.attached.iter().fold(0, |duties, one| duties | one.attachment.duty);
        let begun = Live { begun: 1, duties, shed: 0 };
        // What programs are to do first: no run shall see half of it.
        for live_by_now in [Live { begun: 0, ..begun }, begun] {
            live.set(0, live_by_now.words(), 0).context("the programs cannot be told to begin")?;
        }
        object::release();
        Ok(Self {
            ebpf,
            attached: outcome.attached,
            counting,
            live,
            begun,
            quiet: None,
            samples,
            sockets,
            events,
            packets,
            facts: kernel.facts,
            signals: outcome.statuses,
            labels,
            flushes,
            modular: outcome.modular,
            listening: outcome.listening,
            skips: Skips::default(),
            stranded: Stranded::default(),
        })
    }

    /// Facts of the kernel.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the kernel calls what it numbers.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// How each signal is observed.
    #[must_use]
    pub fn signals(&self) -> &[SignalStatus] {
        &self.signals
    }

    /// Whether programs may have to be attached later, when a module is loaded.
    #[must_use]
    pub fn attaches_late(&self) -> bool {
        !self.modular.is_empty()
    }

    /// Whether rings may have to be opened later, when a processor is switched on.
    #[must_use]
    pub const fn opens_rings(&self) -> bool {
        self.packets.is_some()
    }

    /// Follows modules that were loaded or removed, and processors that were switched off or on; to be called
    /// about once a second. Returns what there is to say of it, and of what is listened to.
    pub fn follow(&mut self) -> Vec<String> {
        let Self { ebpf, attached, signals, modular, .. } = self;
        let mut lines = Vec::new();
        if let Some(packets) = &mut self.packets
            && let Ok(without_room) = self.counting.without_room(Signal::Dns)
        {
            lines = packets.follow(&without_room);
        }
        lines.extend(modular.iter_mut().filter_map(|it| it.follow(ebpf, attached, signals)));
        lines.extend(self.problems());
        lines
    }

    /// What there is to say of what is listened to and of the counts, since the last time.
    fn problems(&mut self) -> Vec<String> {
        let heard = self.listening.iter_mut().flat_map(Ctnetlink::problems);
        heard.chain(self.skips.problem()).chain(self.stranded.problem()).collect()
    }

    /// Tells the programs who owns the sockets that were there before them, of those that filters by owner let pass.
    /// Returns how many found no room.
    ///
    /// # Errors
    /// The map is not there.
    pub fn seed_owners(&mut self, owners: impl Iterator<Item = (FlowKey, u32)>) -> Result<usize> {
        /// A [`FlowKey`] as aya writes it: its bytes.
        const KEY: usize = size_of::<FlowKey>();
        let map = self.ebpf.map_mut("SEEDED_OWNERS").context("there is no map SEEDED_OWNERS")?;
        let mut map: HashMap<&mut MapData, [u8; KEY], u32> = HashMap::try_from(map)?;
        let mut no_room = 0;
        for (key, pid) in owners {
            let mut bytes = [0; KEY];
            bytes.copy_from_slice(key.as_bytes());
            no_room += usize::from(map.insert(bytes, pid, 0).is_err());
        }
        Ok(no_room)
    }

    /// Tells the programs whether processes in a cgroup are wanted, by its id; those that are gone make room. Returns
    /// how many found none: they stay undecided there.
    ///
    /// # Errors
    /// The map is not there.
    pub fn tell_cgroups(&mut self, new: &[(u64, bool)], gone: &[u64]) -> Result<usize> {
        let map = self.ebpf.map_mut("CGROUPS").context("there is no map CGROUPS")?;
        let mut map: HashMap<&mut MapData, u64, u32> = HashMap::try_from(map)?;
        for cgroup in gone {
            // It may have found no room.
            let _was_not_there = map.remove(cgroup);
        }
        let mut no_room = 0;
        for &(cgroup, is_wanted) in new {
            no_room += usize::from(map.insert(cgroup, u32::from(is_wanted), 0).is_err());
        }
        Ok(no_room)
    }

    /// The stacks that the programs take; once.
    ///
    /// # Errors
    /// The map is not there.
    pub fn stacks(&mut self) -> Result<Stacks> {
        Stacks::new(self.ebpf.take_map("STACKS").context("there is no map STACKS")?)
    }

    /// The programs' diagnostics; `to` gets what its `flush` finds.
    ///
    /// # Errors
    /// The log ring cannot be read.
    pub fn log<T: log::Log>(&mut self, to: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(&mut self.ebpf, to).context("the programs' log cannot be read")
    }

    /// Waits until everything is seen that is not seen from the attach on; to be asked once.
    pub fn ready(&mut self) -> impl Future<Output = ()> + use<> {
        let ready = self.listening.as_mut().map(Ctnetlink::ready);
        async {
            if let Some(ready) = ready {
                ready.await;
            }
        }
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
            () = Ctnetlink::wanted(self.listening.as_ref()) => Ok(()),
        }
    }

    /// Copies out what is in the rings; false when there may be more. Sockets are read last: then
    /// the introduction of whatever was read before them is among them.
    pub fn take(&mut self, into: &mut Taken) -> bool {
        if let Some(packets) = &mut self.packets {
            packets.take(&mut into.packets);
        }
        let samples = self.samples.take(&mut into.samples);
        let events = self.events.take(&mut into.events);
        if let Some(listening) = &self.listening {
            listening.take(&mut into.events);
        }
        let sockets = self.sockets.take(&mut into.sockets);
        if !into.is_empty() {
            // The accounts are to have what is told.
            self.quiet = None;
        }
        samples && events && sockets
    }

    /// Empties the half-full batches of all CPUs into the ring; true when there was none.
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn flush(&mut self) -> Result<bool> {
        self.quiet = None;
        let reading = self.counting.read()?;
        let batched = self.counting.batched(&reading)?;
        let (mut none, mut stranded) = (true, BTreeSet::new());
        for &(signal, name) in &self.flushes {
            let flush: &mut RawTracePoint = program(&mut self.ebpf, name)?;
            let (cpus, runs) = reading.unflushed(signal, &batched);
            none &= cpus.is_empty();
            for cpu in cpus.into_iter().flat_map(|cpu| iter::repeat_n(cpu, runs)) {
                let options = RawTracePointRunOptions { cpu: Some(cpu), ..Default::default() };
                match flush.test_run(options) {
                    Ok(_) => {}
                    // An offline CPU runs nothing; what it held before it went is still there when
                    // it comes back.
                    Err(error) if is_offline(&error) => {
                        stranded.extend(batched.holds(cpu).then_some(cpu));
                    }
                    Err(error) => return Err(error).context("a batch could not be flushed"),
                }
            }
        }
        self.stranded.are(stranded);
        if none && reading.is_whole() {
            self.quiet = Some((Instant::now(), reading));
        }
        Ok(none)
    }

    /// How many samples of a signal were seen so far and will never be told of.
    #[must_use]
    pub fn untold(&self, signal: Signal) -> u64 {
        // Where that is not known there may be any number.
        self.counting.untold(signal).unwrap_or(u64::MAX)
    }

    /// Fates of all samples so far, by signal.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn accounting(&mut self) -> Result<BTreeMap<String, Account>> {
        let reading = match self.quiet.take() {
            Some((then, reading)) if then.elapsed() <= SERVES => reading,
            _ => self.counting.read()?,
        };
        let skipped = skipped(counted(&self.ebpf, &self.attached));
        let skipped = self.skips.known(skipped);
        Ok(self.with_heard(accounts(&reading, &skipped, Phase::Attached)))
    }

    /// The accounts of the programs, with what was told to userspace.
    fn with_heard(&self, mut accounts: BTreeMap<String, Account>) -> BTreeMap<String, Account> {
        if let Some(listening) = &self.listening
            && let Some(account) = accounts.get_mut(Signal::Conntrack.name())
        {
            *account = account.plus(&listening.account());
        }
        accounts
    }

    /// Takes the programs out of their hooks, so that nothing new is seen. What they counted and
    /// submitted, and what the kernel counted for them, stays readable through what is returned.
    pub fn detach(mut self) -> Detached {
        let programs = counted(&self.ebpf, &self.attached);
        let programs = programs.map(|counted| counted?.kept()).collect();
        // Beginnings go before their ends, and what uses sockets before what forgets them.
        for attached in self.attached.drain(..).rev() {
            super::hooks::unload(&mut self.ebpf, &attached.program);
        }
        if let Some(listening) = &mut self.listening {
            listening.stop();
        }
        Detached::new(self, programs)
    }
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
