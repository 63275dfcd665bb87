//! Programs in the kernel, from attach to detach: what run.rs holds on to.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{ProgramFd, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use aya_log::EbpfLogger;
use netdiag_common::{flow::FlowKey, signal::Signal};
use zerocopy::IntoBytes as _;

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
    skips::{Counted, Skips, skipped},
    stacks::Stacks,
    stranded::Stranded,
};
use crate::{
    coverage::{Account, SignalStatus, Status},
    labels::Labels,
    signal::{DEFINITIONS, Role},
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
        let mut begun = Array::<_, u32>::try_from(take(".bss")?).context("map .bss")?;
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
        begun.set(0, 1, 0).context("the programs cannot be told to begin")?;
        object::release();
        Ok(Self {
            ebpf,
            attached: outcome.attached,
            counting,
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

    /// Follows modules that were loaded or removed; to be called about once a second. Returns what
    /// there is to say of it, and of what is listened to.
    pub fn follow(&mut self) -> Vec<String> {
        let Self { ebpf, attached, signals, modular, listening, .. } = self;
        if let Some(packets) = &mut self.packets
            && let Ok(without_room) = self.counting.without_room(Signal::Dns)
        {
            packets.follow(&without_room);
        }
        let followed = modular.iter_mut().filter_map(|it| it.follow(ebpf, attached, signals));
        let counts = self.skips.problem().into_iter().chain(self.stranded.problem());
        followed.chain(listening.iter_mut().flat_map(Ctnetlink::problems)).chain(counts).collect()
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
        let skipped = skipped(self.counted());
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

    /// The attached programs, for the kernel's counts of them.
    fn counted(&self) -> impl Iterator<Item = Result<Counted<&ProgramFd>>> {
        let asked = self.attached.iter().filter(|attached| attached.role != Role::Aside);
        asked.filter_map(move |&Attached { signal, program: ref name, role, .. }| {
            let fd = self.ebpf.program(name)?.fd().map_err(anyhow::Error::from);
            Some(fd.map(|fd| Counted { signal, is_end: role == Role::End, fd }))
        })
    }

    /// Takes the programs out of their hooks, so that nothing new is seen. What they counted and
    /// submitted, and what the kernel counted for them, stays readable through what is returned.
    pub fn detach(mut self) -> Detached {
        let programs = self.counted().map(|counted| counted?.kept()).collect();
        // Beginnings go before their ends, and what uses sockets before what forgets them.
        for attached in self.attached.drain(..).rev() {
            super::hooks::unload(&mut self.ebpf, &attached.program);
        }
        if let Some(listening) = &mut self.listening {
            listening.stop();
        }
        Detached { tracer: self, programs }
    }
}

/// A tracer whose programs are gone from their hooks.
pub struct Detached {
    tracer: Tracer,
    programs: Result<Vec<Counted<ProgramFd>>>,
}

impl Detached {
    /// See [`Tracer::take`].
    pub fn take(&mut self, into: &mut Taken) -> bool {
        self.tracer.take(into)
    }

    /// See [`Tracer::untold`].
    pub fn untold(&self, signal: Signal) -> u64 {
        self.tracer.untold(signal)
    }

    /// See [`Tracer::flush`].
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn flush(&mut self) -> Result<bool> {
        self.tracer.flush()
    }

    /// See [`Tracer::accounting`]; nothing is pending any more.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn accounting(&mut self) -> Result<BTreeMap<String, Account>> {
        let Self { tracer, programs } = self;
        let reading = tracer.counting.read()?;
        let phase = Phase::Detached { batched: tracer.counting.batched(&reading)?.sends };
        let skipped = match programs {
            Ok(programs) => skipped(programs.iter().map(|counted| Ok(counted.borrowed()))),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        let mut accounts = accounts(&reading, &tracer.skips.known(skipped), phase);
        if tracer.skips.are_unread() {
            // Nothing tells how many, and whoever asks whether all was seen is not to be told so.
            let is_on = |signal: Signal| tracer.signals[signal as usize].status != Status::Off;
            for (name, account) in &mut accounts {
                if DEFINITIONS.iter().any(|it| it.signal.name() == *name && is_on(it.signal)) {
                    account.missed = account.missed.max(1);
                }
            }
        }
        Ok(tracer.with_heard(accounts))
    }

    /// What there is to be said of the counts, once.
    pub fn problem(&mut self) -> Option<String> {
        self.tracer.skips.problem()
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
