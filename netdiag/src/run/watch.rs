//! `netdiag live` and `netdiag record`: attach, take in, put out, every interval.

use std::{collections::BTreeMap, env, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use netdiag_common::globals::Filters;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use super::{
    diagnostics::Diagnostics,
    intake::Intake,
    node::Readings,
    output::Outputs,
    reporter::{About, Reporter},
    say,
};
use crate::{
    config::{self, Watch, host::Host},
    exit::Status,
    flow::table::{self, FlowTable},
    kernel::{
        attach::Wishes,
        tracer::{Detached, Options, Tracer},
    },
    node,
    snapshot::{Account, build::Listing},
};

/// How long the last samples may take to arrive after the programs were detached.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two looks at what `--wait` waits for.
const WAIT: Duration = Duration::from_millis(200);

/// How to attach, as the flags have it.
pub(super) fn options(kernel: &config::Kernel, watch: Option<(&Watch, Filters)>) -> Options {
    let wishes = Wishes {
        signals: kernel.signals.clone(),
        forced: kernel
            .sources
            .iter()
            .map(|choice| (choice.signal, choice.source.to_owned()))
            .collect(),
    };
    let (max_flows, interval) = watch
        .as_ref()
        .map_or((1, Duration::from_secs(1)), |(watch, _)| (watch.max_flows, watch.interval));
    Options {
        wishes,
        filters: watch.map(|(_, filters)| filters).unwrap_or_default(),
        btf: kernel.btf.clone(),
        ring_bytes: kernel.ring_bytes,
        max_flows: u32::try_from(max_flows).unwrap_or(u32::MAX),
        // Twice an interval, so that each interval has a report of every socket that sends.
        report_every_ns: u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX),
        wake_on_event: false,
        log_level: u8::try_from(kernel.log_level).unwrap_or(u8::MAX),
    }
}

/// Runs the command.
pub(super) async fn run(
    kernel: &config::Kernel,
    watch: &Watch,
    dump: Option<&config::Dump>,
) -> Result<Status> {
    let mut stop = Stop::new()?;
    let told = dump.and_then(|dump| dump.node.as_deref());
    let cluster = env::var("NODE_NAME").ok();
    let node_name = Host::new(&kernel.host_root).node_name(told, cluster.as_deref());
    let Some(filters) = targets(watch, &kernel.host_root, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let outputs = Outputs::open(watch.output, dump, &node_name)?;
    let mut tracer = Tracer::attach(&options(kernel, Some((watch, filters))))?;
    let (intake, readings) = prepare(kernel, watch, &filters, &mut tracer).await?;
    let about = About {
        node: node_name,
        kernel: tracer.facts().release.clone(),
        signals: tracer.signals().to_vec(),
        filtered: !filters.is_empty(),
    };
    let listing = Listing { sort: watch.sort, top: watch.top, all: watch.all };
    let reporter = Reporter::new(about, listing, intake, outputs, readings);
    let diagnostics = Diagnostics::new(&mut tracer, kernel.log_level)?;
    observe(watch, tracer, diagnostics, reporter, &mut stop).await
}

/// ^C or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The filters, as soon as everything exists that they name; `None` when stopped before.
async fn targets(watch: &Watch, host_root: &Path, stop: &mut Stop) -> Result<Option<Filters>> {
    let host = Host::new(host_root);
    let mut told = false;
    loop {
        match config::filters(&watch.targets, &host) {
            Ok(filters) => return Ok(Some(filters)),
            Err(error) if watch.wait => {
                if !told {
                    say(&format!("waiting: {error}"));
                    told = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = sleep(WAIT) => {}
            () = stop.asked() => return Ok(None),
        }
    }
}

/// Seeds the table with what was there before, and says that everything is seen from now on.
async fn prepare(
    kernel: &config::Kernel,
    watch: &Watch,
    filters: &Filters,
    tracer: &mut Tracer,
) -> Result<(Intake, Readings)> {
    let table = FlowTable::new(table::Config {
        max_flows: watch.max_flows,
        idle_ns: u64::try_from(watch.idle.as_nanos()).unwrap_or(u64::MAX),
        list_idle: watch.all,
    });
    let mut intake = Intake::new(table, kernel.host_root.join("proc"));
    let host_root = kernel.host_root.clone();
    let seeding = move || (node::seed(&host_root), Readings::begin(&host_root));
    let (seeds, readings) = tokio::task::spawn_blocking(seeding)
        .await
        .context("the thread that reads the node's sockets ended")?;
    for problem in &seeds.problems {
        say(problem);
    }
    if filters.pid.len > 0 {
        let owners = seeds.sockets.iter().filter_map(|s| s.pid.map(|pid| (s.key, pid)));
        tracer.seed_owners(owners)?;
    }
    let sockets = seeds.sockets.iter();
    let wanted = sockets.filter(|s| filters.accept(&s.key, s.pid.unwrap_or(0)));
    intake.seed(wanted, monotonic_ns());
    drop(seeds);
    node::own::release_freed();
    say("ready");
    Ok((intake, readings))
}

/// Takes in and puts out until it is time to end; then detaches, and puts out the rest and the sum.
async fn observe(
    watch: &Watch,
    mut tracer: Tracer,
    mut diagnostics: Diagnostics,
    mut reporter: Reporter,
    stop: &mut Stop,
) -> Result<Status> {
    let began = Instant::now();
    let deadline = watch.duration.map(|duration| began + duration);
    let mut next = began + watch.interval;
    loop {
        let until = deadline.map_or(next, |deadline| deadline.min(next));
        tokio::select! {
            biased;
            () = stop.asked() => break,
            () = sleep_until(until) => {
                if deadline == Some(until) {
                    break;
                }
                tracer.flush()?;
                diagnostics.say();
                reporter.intake.drain(monotonic_ns(), |taken| tracer.take(taken));
                let accounting = tracer.accounting()?;
                let interval = reporter.intake.table.interval(monotonic_ns());
                reporter.interval(interval, accounting).await?;
                // After a stall the intervals that were missed are one long one.
                next += watch.interval;
                if next <= Instant::now() {
                    next = Instant::now() + watch.interval;
                }
            }
            wanted = tracer.wanted() => {
                wanted?;
                reporter.intake.drain(monotonic_ns(), |taken| tracer.take(taken));
            }
        }
    }
    let mut detached = tracer.detach()?;
    let accounting = settle(&mut detached, &mut reporter.intake).await?;
    diagnostics.say();
    let interval = reporter.intake.table.last_interval(monotonic_ns());
    reporter.interval(interval, accounting.clone()).await?;
    let total = reporter.total(accounting).await?;
    Ok(if watch.strict && !total.complete { Status::Incomplete } else { Status::Ran })
}

/// Waits until every sample that was submitted has arrived: programs that were running when they
/// were detached need a moment to end.
async fn settle(detached: &mut Detached, intake: &mut Intake) -> Result<BTreeMap<String, Account>> {
    let mut until = Instant::now() + SETTLE;
    loop {
        let flushed = detached.flush()?;
        let received = intake.stream.received;
        intake.drain(monotonic_ns(), |taken| detached.take(taken));
        if received != intake.stream.received {
            until = Instant::now() + SETTLE; // as long as something arrives
        }
        let accounting = detached.accounting()?;
        let submitted: u64 = accounting.values().map(|account| account.submitted).sum();
        let arrived = flushed && submitted == intake.stream.received;
        if Instant::now() >= until || (arrived && accounting.values().all(Account::balances)) {
            return Ok(accounting);
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the programs' clock.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
