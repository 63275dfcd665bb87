//! What is decided before the first program is attached, and what the kernel gives at all.

use std::{
    io,
    path::{Path, PathBuf},
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Result, bail};
use aya::{Ebpf, EbpfLoader};
use netdiag_common::{
    field::Field,
    globals::{EVENTS_SHARE, Filters, SOCKETS_SHARE, Settings, SlotPlace},
    signal::Signal,
};

use super::{
    attach::{self, Outcome, Plan, Verdict, Wishes},
    btf::Btf,
    cgroups, drops,
    facts::{Facts, Lockdown},
    hooks::Kernel,
    memlock,
    object::{self, Frozen, PAGE, Sizes},
    stacks,
    symbols::Symbols,
};
use crate::{
    clock,
    coverage::{SignalStatus, Status},
    exit,
    node::places::Hierarchy,
    signal::DEFINITIONS,
};

/// Sends under way at once that find their seats taken, or on kernels where there are no seats, all of them.
const CALLS: u32 = 16_384;

/// Cgroups that the programs know under a filter. What is done in others, userspace decides.
const CGROUPS: u32 = 16_384;

/// How to observe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Signals and forced sources.
    pub wishes: Wishes,
    /// Filters, checked in the kernel.
    pub filters: Filters,
    /// Types of a kernel that publishes none.
    pub btf: Option<PathBuf>,
    /// Where the node's file system is.
    pub host_root: PathBuf,
    /// The hierarchy whose cgroups are told by their ids.
    pub hierarchy: Option<Hierarchy>,
    /// Bytes of the ring of samples, a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Sockets to remember.
    pub max_flows: u32,
    /// Shortest time between two reports of a socket's counters.
    pub report_every_ns: u64,
    /// Which of the programs' own diagnostics are wanted: 0 none, 1 errors to 5 everything.
    pub log_level: u8,
    /// Drops of one CPU that may travel alone in a tenth of a second; see
    /// [`Settings::alone`].
    pub alone: u32,
    /// Whether events tell the kernel's stack.
    pub stacks: bool,
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
    /// Whether programs would have to be attached later, when a module is loaded.
    pub attaches_late: bool,
    /// Whether rings would have to be opened later, when a processor is switched on.
    pub opens_rings: bool,
    /// Set when nothing could be observed.
    pub refusal: Option<exit::Error>,
}

/// Attaches everything, lets go again, and says how it went; without privilege or BTF, what is known all
/// the same.
///
/// # Errors
/// A file of types that cannot be read, and what nobody expects of the kernel.
pub fn examine(options: &Options) -> Result<Report> {
    let attached = read_kernel(options.btf.as_deref()).and_then(|(kernel, loader)| {
        plan(&kernel, loader, options).map(|(_ebpf, outcome)| (kernel, outcome))
    });
    let (kernel, outcome) = match attached {
        Ok(attached) => attached,
        Err(error) => {
            let whole = format!("{error:#}");
            let refusal = error.downcast::<exit::Error>()?;
            if refusal.status() != exit::Status::CannotObserve {
                return Err(refusal.into());
            }
            return Ok(Report {
                facts: Facts::read(),
                btf: Btf::is_published(),
                signals: DEFINITIONS
                    .iter()
                    .map(|it| attach::off(it, Vec::new(), it.help))
                    .collect(),
                attaches_late: false,
                opens_rings: false,
                refusal: Some(exit::Error::cannot_observe(whole)),
            });
        }
    };
    let attaches_late = !outcome.modular.is_empty();
    let opens_rings = outcome.copies_packets();
    let costs: Vec<_> = Signal::ALL.iter().map(|&signal| outcome.cost(signal)).collect();
    let mut signals = outcome.statuses;
    for (status, cost) in signals.iter_mut().zip(costs) {
        status.runs_per = cost.map(|cost| cost.name().to_owned());
    }
    Ok(Report {
        attaches_late,
        opens_rings,
        btf: kernel.aya_btf.is_some(),
        refusal: refusal(&signals, &options.wishes),
        signals,
        facts: kernel.facts,
    })
}

/// Whether programs may read memory by its address, first what is to be tried first: where lockdown cannot be
/// asked, the kernel refuses those that do.
const fn reads_memory(lockdown: Option<Lockdown>) -> &'static [bool] {
    match lockdown {
        Some(Lockdown::Confidentiality) => &[false],
        Some(_) => &[true],
        None => &[true, false],
    }
}

/// Tries to remember sockets in socket storage, else in the hash.
pub(super) fn plan(
    kernel: &Kernel,
    loader: EbpfLoader<'static>,
    options: &Options,
) -> Result<(Ebpf, Outcome)> {
    let (locations, _missing) = kernel.btf.locations();
    for &field in IDENTITY {
        if let Err(error) = kernel.btf.locate(field) {
            return Err(exit::Error::cannot_observe(format!(
                "{error}, so flows cannot be told apart; give the kernel's own types by --btf FILE"
            ))
            .into());
        }
    }
    let reads = reads_memory(kernel.facts.lockdown);
    let ways = [SlotPlace::Storage, SlotPlace::Hash];
    let ways = ways.into_iter().flat_map(|place| reads.iter().map(move |&reads| (place, reads)));
    let frozen = |(place, reads_memory)| Frozen {
        settings: settings(kernel, options, place, reads_memory),
        filters: &options.filters,
        filtering: u32::from(!options.filters.is_empty()),
        locations: &locations,
        sizes: sizes(options),
        log_level: options.log_level,
    };
    let ways: Vec<_> = ways.map(|way| (way, frozen(way))).collect();
    let last = (SlotPlace::Hash, reads.last() == Some(&true));
    let mut loader = loader;
    for ((place, reads_memory), frozen) in &ways {
        let (place, reads_memory) = (*place, *reads_memory);
        let plan = Plan { kernel, locations: &locations, place, options };
        if plan.needs_hash() {
            continue;
        }
        let mut ebpf =
            object::load(&mut loader, frozen).map_err(|error| match &kernel.memlock {
                Ok(()) => error,
                Err(limit) => error.context(limit.clone()),
            })?;
        match plan.attach(&mut ebpf) {
            Verdict::NeedsHash => {}
            // Where typed programs have no helper to reach socket storage by (5.10), they can use the hash.
            Verdict::Done(outcome) if (place, reads_memory) != last && lacks_sockets(&outcome) => {}
            Verdict::Done(mut outcome) => {
                outcome.relieve(&mut ebpf, frozen.settings.tells_readers != 0);
                drops::amend(kernel, &mut outcome.statuses);
                let hierarchy = options.hierarchy.as_ref();
                cgroups::amend(kernel, hierarchy, reads_memory, &mut outcome.statuses);
                if options.filters.by_owner() {
                    leave_out_the_ownerless(&mut outcome.statuses);
                }
                return Ok((ebpf, outcome));
            }
        }
    }
    bail!("no place to remember sockets in works on this kernel; please report this")
}

/// Under a filter by owner what is nobody's is not seen.
fn leave_out_the_ownerless(statuses: &mut [SignalStatus]) {
    let queries = DEFINITIONS[Signal::Dns as usize].counts.iter().map(|count| count.name);
    let entries = ["destroyed", "early_drop"].into_iter();
    leave_out(
        &mut statuses[Signal::Conntrack as usize],
        "the ends of entries, which no process is known for (filters by owner)",
        entries,
    );
    leave_out(
        &mut statuses[Signal::Dns as usize],
        "queries, which no process is known for (filters by owner)",
        queries,
    );
}

fn leave_out(status: &mut SignalStatus, missing: &str, counts: impl Iterator<Item = &'static str>) {
    if status.status == Status::Off {
        return;
    }
    status.status = Status::Degraded;
    status.missing.push(missing.to_owned());
    for unseen in counts {
        if !status.unseen_counts.contains(&unseen) {
            status.unseen_counts.push(unseen);
        }
    }
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

/// Whether programs can be loaded at all.
///
/// # Errors
/// [`exit::Status::CannotObserve`] without privilege.
pub fn permitted() -> Result<()> {
    match Facts::read().privileges.refusal() {
        Some(missing) => Err(exit::Error::cannot_observe(missing).into()),
        None => Ok(()),
    }
}

/// Reads what there is to know of the kernel, and makes who loads the object.
pub(super) fn read_kernel(btf_file: Option<&Path>) -> Result<(Kernel, EbpfLoader<'static>)> {
    let facts = Facts::read();
    if let Some(missing) = facts.privileges.refusal() {
        return Err(exit::Error::cannot_observe(missing).into());
    }
    let memlock = memlock::raise().map_err(|error| error.to_string());
    // Each takes tens of milliseconds, and none waits for another.
    let (symbols, loader, types) = thread::scope(|scope| {
        let read_symbols = || Symbols::load(&Kernel::functions());
        // Where there are no more threads to be had, one after the other.
        let symbols = thread::Builder::new().spawn_scoped(scope, read_symbols);
        let loader = thread::Builder::new().spawn_scoped(scope, object::loader);
        let types = types(btf_file);
        let symbols = symbols.map_or_else(|_| Ok(read_symbols()), ScopedJoinHandle::join);
        let loader = loader.map_or_else(|_| Ok(object::loader()), ScopedJoinHandle::join);
        (symbols, loader, types)
    });
    let (btf, aya_btf) = types?;
    let symbols = symbols
        .unwrap_or_else(|_| Err(io::Error::other("the thread that reads it ended")))
        .map_err(|error| error.to_string());
    // It panics where it finds no memory.
    let loader = loader.unwrap_or_else(|_| object::loader());
    Ok((Kernel { facts, btf, aya_btf, symbols, memlock }, loader))
}

/// The types to read fields by, and those that aya needs of them for typed programs.
fn types(file: Option<&Path>) -> Result<(Btf, Option<aya::Btf>)> {
    let btf = Btf::load(file).map_err(|error| {
        let status =
            if error.is_usage() { exit::Status::Usage } else { exit::Status::CannotObserve };
        exit::Error::new(status, error.to_string())
    })?;
    let running = match file {
        None => Kernel::types_for_aya(&btf),
        Some(_) => Btf::load(None).ok().and_then(|running| Kernel::types_for_aya(&running)),
    };
    Ok((btf, running))
}

fn settings(kernel: &Kernel, options: &Options, place: SlotPlace, reads_memory: bool) -> Settings {
    let retransmit = kernel.btf.tracepoint("tcp_retransmit_skb");
    let reset = kernel.btf.tracepoint("tcp_send_reset");
    let mut settings = Settings {
        report_every_ns: options.report_every_ns,
        wake_above_bytes: u64::from(options.ring_bytes / 4),
        slot_place: place as u32,
        signals: options.wishes.signals.iter().fold(0, |bits, &signal| bits | signal.bit()),
        // Where the kernel has the one for typed programs it has the other.
        has_cookie: u32::from(place == SlotPlace::Storage),
        alone: options.alone,
        stacks: u32::from(options.stacks),
        tick_us: clock::tick_us(),
        reads_memory: u32::from(reads_memory),
        reset_has_reason: u32::from(reset.is_some_and(|args| args.len() > 2)),
        retransmit_has_error: u32::from(retransmit.is_some_and(|args| args.len() > 2)),
        ..Settings::default()
    };
    drops::configure(kernel, &mut settings);
    cgroups::configure(kernel, options.hierarchy.as_ref(), reads_memory, &mut settings);
    if options.filters.by_owner() || kernel.btf.tracepoint("sock_recv_length").is_none() {
        // Whose it is shall be known before anything is read; or nobody is to be relieved.
        settings.tells_readers = 0;
    }
    settings
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
        // A map has at least one place.
        stacks: if options.stacks { stacks::MOST } else { 1 },
        owners: if options.filters.by_owner() { options.max_flows.max(1) } else { 1 },
        cgroups: if options.filters.by_cgroup == 0 { 1 } else { CGROUPS },
    }
}

/// Whether no source of the signal `socket` works, without which nothing does.
fn lacks_sockets(outcome: &Outcome) -> bool {
    outcome.statuses[Signal::Socket as usize].status == Status::Off
}

/// Why a run would be pointless: no socket could be named, or nothing is seen of what was wanted.
pub(super) fn refusal(statuses: &[SignalStatus], wishes: &Wishes) -> Option<exit::Error> {
    let is_off = |signal: Signal| statuses[signal as usize].status == Status::Off;
    let mut others = wishes.signals.iter().filter(|&&s| s != Signal::Socket).peekable();
    let others_off = others.peek().is_some() && others.all(|&s| is_off(s));
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A program that reads a field that this kernel does not have reads something else.
    #[test]
    fn every_field_is_asked_for() {
        // The programs look whether these are there.
        let optional = [
            Field::SkListener,
            Field::SkErr,
            Field::SkLockOwned,
            Field::InetSport,
            Field::SkSocket,
            Field::TcpRttMin,
            Field::MinmaxValue,
            Field::TcpDataSegsOut,
            Field::TcpDataSegsIn,
            Field::TcpDelivered,
            Field::TcpDeliveredCe,
            Field::TcpDsackDups,
            Field::TcpReordSeen,
            Field::TcpRcvOooPack,
            Field::TcpTotalRto,
            Field::TcpChronoStat,
            Field::TcpChronoStart,
            Field::TcpChronoType,
            Field::TcpSndSsthresh,
            Field::TcpSndWnd,
            Field::TcpRcvWnd,
            Field::TcpPacketsOut,
            Field::TcpRcvNxt,
            Field::TcpCopiedSeq,
            Field::TcpWriteSeq,
            Field::TcpSndNxt,
            Field::SkRcvBuf,
            Field::SkSndBuf,
            Field::SkWmemQueued,
            Field::CtZone,
            Field::ZoneId,
            // These only where userspace found them.
            Field::TaskCgroups,
            Field::CgroupsSubsys,
            Field::SubsysCgroup,
            Field::CgroupNode,
            Field::NodeId,
        ];
        let sources = DEFINITIONS.iter().flat_map(|definition| definition.sources);
        let sources = sources.flat_map(|source| [Some(source), source.when_preempted]).flatten();
        let asked: HashSet<_> = sources
            .flat_map(|source| {
                let ways = source.extras.iter().flat_map(|extra| extra.alternatives);
                source.fields.iter().chain(ways.flat_map(|way| way.fields))
            })
            .chain(IDENTITY)
            .collect();
        let missing = |field: &&Field| !asked.contains(field) && !optional.contains(field);
        assert_eq!(Field::ALL.iter().filter(missing).collect::<Vec<_>>(), [&Field::SkNum; 0]);
    }
}
