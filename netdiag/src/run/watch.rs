//! `netdiag live`, `record` and `diagnose`: from what was asked for to a run of the loop.

use std::{
    env,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use netdiag_common::globals::Filters;
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    diagnose::diagnosis,
    diagnostics::Diagnostics,
    feed::{Feed, Outlets},
    intake::Intake,
    node::Readings,
    observer::{Asking, Observer},
    otlp::{self, Pushing},
    output::{Ended, Outputs, Wanted, ends_with_container},
    reporter::{About, Reporter, Worker},
    scrape::Scrape,
    screen,
    sieve::Sieve,
    stop::Stop,
    terminal::Waiting,
    voice::say,
};
use crate::{
    cli::Output,
    config::{self, Owners, Watch, host::Host},
    diagnosis::Thresholds,
    exit::Status,
    flow::table::{self, FlowTable},
    kernel::{
        attach::Wishes,
        plan::{Options, permitted},
        tracer::Tracer,
    },
    node::{
        self,
        pace::Pace,
        places::{Hierarchy, Places},
    },
    snapshot::{build::Listing, redact::Redactor},
};

/// Between two looks at what `--wait` waits for.
const WAIT: Duration = Duration::from_millis(200);

/// How to attach, as the flags have it.
pub(super) fn options(
    kernel: &config::Kernel,
    hierarchy: Option<&Hierarchy>,
    watch: Option<(&Watch, Filters)>,
) -> Options {
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
        host_root: kernel.host_root.clone(),
        hierarchy: hierarchy.cloned(),
        ring_bytes: kernel.ring_bytes,
        max_flows: u32::try_from(max_flows).unwrap_or(u32::MAX),
        // Twice an interval, so that each interval has a report of every socket that sends.
        report_every_ns: u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX),
        log_level: u8::try_from(kernel.log_level).unwrap_or(u8::MAX),
        alone: 0,
        stacks: false,
    }
}

/// The flow table of a run.
pub(super) fn flow_table(watch: &Watch, filters: &Filters) -> FlowTable {
    FlowTable::new(table::Config {
        max_flows: watch.max_flows,
        idle_ns: u64::try_from(watch.idle.as_nanos()).unwrap_or(u64::MAX),
        list_idle: watch.all,
        known_only: filters.by_owner(),
        known_netns_only: filters.netns.len > 0,
    })
}

/// What every output of a run says of its circumstances.
pub(super) fn about(
    node: String,
    tracer: &Tracer,
    filters: &Filters,
    host_root: &Path,
    redactor: Option<Redactor>,
) -> About {
    About {
        node,
        kernel: tracer.facts().release.clone(),
        labels: tracer.labels().clone(),
        filtered: !filters.is_empty(),
        host_root: host_root.to_owned(),
        redactor,
        names: Pace::default(),
    }
}

/// Name of the node, where a flag does not tell.
pub(super) fn node_name(kernel: &config::Kernel, flag: Option<&str>) -> String {
    let cluster = env::var("NODE_NAME").ok();
    Host::new(&kernel.host_root).node_name(flag, cluster.as_deref())
}

/// Runs the command.
pub(super) async fn run(
    kernel: &config::Kernel,
    watch: &Watch,
    mut wanted: Wanted,
) -> Result<Status> {
    // Before anything is looked up, waited for or made, of which nothing would come.
    permitted()?;
    let mut stop = Stop::new()?;
    let redactor = kernel.redact.then(Redactor::default);
    if let Wanted::Screen(screen) = &mut wanted {
        screen.redactor.clone_from(&redactor);
        stop.hear_screen(screen.quit.clone())?;
    }
    let (flag, fail_on) = match &wanted {
        Wanted::Show | Wanted::Screen(_) => (None, None),
        Wanted::Record(dump) => (dump.node.as_deref(), None),
        Wanted::Diagnose(diagnose) => (None, diagnose.fail_on),
    };
    let node_name = node_name(kernel, flag);
    let Some(filters) = targets(watch, &kernel.host_root, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let kept_in = match &wanted {
        Wanted::Record(dump) => Some(dump.out.clone()),
        Wanted::Show | Wanted::Screen(_) | Wanted::Diagnose(_) => None,
    };
    let is_screen = matches!(wanted, Wanted::Screen(_));
    // What is concluded from: now, or later from the files.
    let telling = !matches!(wanted, Wanted::Show);
    let owners = &watch.targets.owners;
    let scrape = watch.metrics.as_ref().and_then(|metrics| metrics.listen);
    let scrape = scrape.map(Scrape::listen).transpose()?;
    let Some(outputs) = open(watch.output, wanted, &node_name, filters, owners, &mut stop).await?
    else {
        return Ok(Status::Ran);
    };
    if let Some(line) = kept_in.and_then(|out| ends_with_container(&out, &kernel.host_root)) {
        say(&line);
    }
    let Some(places) = places(&kernel.host_root, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let options = options(kernel, places.hierarchy(), Some((watch, filters)));
    let mut tracer = attach(&options)?;
    let host_root = kernel.host_root.clone();
    let translates = kernel.signals.contains(&Intake::TRANSLATING);
    let seeding = spawn_blocking(move || node::seed(&host_root, translates));
    let about = about(node_name, &tracer, &filters, &kernel.host_root, redactor);
    let Watch { by, sort, top, all, .. } = *watch;
    let listing = Listing { by, sort, top, all, telling, apart: false };
    let listing = if is_screen { screen::listing(all) } else { listing };
    let (feed, pushing) = feed(watch, scrape, &about.node, filters)?.unzip();
    // Who sums up all flows is to get each.
    let frozen = if feed.is_some() { Listing { top: None, ..listing } } else { listing };
    let host_root = kernel.host_root.clone();
    let worker = Worker::start(outputs.progress().clone(), move || Reporter {
        about,
        listing,
        outputs,
        readings: Readings::begin(&host_root),
        feed,
    });
    let diagnostics = Diagnostics::new(&mut tracer, kernel.log_level)?;
    let table = flow_table(watch, &filters);
    let sieve = Sieve::new(&filters, &watch.targets.owners, &kernel.host_root);
    let intake = Intake::new(table, places, sieve, None);
    let asking = Asking::new(&kernel.host_root);
    let observer = Observer::new(tracer, intake, diagnostics, Some(asking), watch, frozen);
    let ended = observer.run(watch, &filters, seeding, worker, &mut stop).await?;
    if let Some(pushing) = pushing.flatten() {
        pushing.last(&mut stop).await;
    }
    Ok(match ended {
        Ended { worst, .. } if fail_on.is_some_and(|least| worst >= Some(least)) => Status::Finding,
        Ended { complete: false, .. } if watch.strict => Status::Incomplete,
        _ => Status::Ran,
    })
}

/// What metrics tell, where they go anywhere, and whom they are sent to.
fn feed(
    watch: &Watch,
    scrape: Option<Scrape>,
    node: &str,
    filters: Filters,
) -> Result<Option<(Feed, Option<Pushing>)>> {
    let Some(metrics) = &watch.metrics else { return Ok(None) };
    let sent = metrics.otlp.as_ref().map(|collector| otlp::start(collector, node)).transpose()?;
    let (collector, pushing) = sent.unzip();
    let outlets = Outlets { scrapers: scrape.map(Scrape::serve).transpose()?, collector };
    let diagnosis = diagnosis(&Thresholds::new(), filters, watch.targets.owners.clone());
    let feed = Feed::new(outlets, metrics.groups, SystemTime::now(), diagnosis);
    Ok(Some((feed, pushing)))
}

/// Attaches the programs, which may take seconds while the kernel verifies them.
pub(super) fn attach(options: &Options) -> Result<Tracer> {
    let _waiting = Waiting::begin(|time| {
        format!("loading programs into the kernel, {} s so far", time.as_secs())
    });
    Tracer::attach(options)
}

/// Looks at all cgroups of the node, of which there may be many; `None` when stopped before.
pub(super) async fn places(host_root: &Path, stop: &mut Stop) -> Result<Option<Places>> {
    let host_root = host_root.to_owned();
    stop.unless_asked(move || Places::begin(&host_root).watching()).await
}

/// Opens the outputs, which may take a file server's time; `None` when stopped before.
async fn open(
    form: Output,
    wanted: Wanted,
    node: &str,
    filters: Filters,
    owners: &Owners,
    stop: &mut Stop,
) -> Result<Option<Outputs>> {
    let (node, owners) = (node.to_owned(), owners.clone());
    let opened =
        stop.unless_asked(move || Outputs::open(form, &wanted, &node, &filters, owners)).await?;
    opened.transpose()
}

/// The filters, as soon as everything exists that they name; `None` when stopped before.
pub(super) async fn targets(
    watch: &Watch,
    host_root: &Path,
    stop: &mut Stop,
) -> Result<Option<Filters>> {
    let mut host = Host::new(host_root);
    let mut told = false;
    loop {
        let wanted = watch.targets.clone();
        let looking = stop.unless_asked(move || (config::filters(&wanted, &host), host));
        let Some((found, known)) = looking.await? else { return Ok(None) };
        host = known;
        match found {
            Ok(filters) => {
                config::unknowable(&watch.targets, &host).iter().for_each(|line| say(line));
                return Ok(Some(filters));
            }
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
