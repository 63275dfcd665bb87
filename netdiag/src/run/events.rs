//! `netdiag events`: from what was asked for to a run of the loop that tells of single events.

use anyhow::Result;
use tokio::task::spawn_blocking;

use super::{
    capture::Capture,
    diagnostics::Diagnostics,
    intake::Intake,
    listening::Listening,
    observer::Observer,
    sieve::Sieve,
    stop::Stop,
    teller::Teller,
    voice::say,
    watch::{about, attach, flow_table, node_name, options, places, targets},
    writer::Writing,
};
use crate::{
    config::{self, Tell, Watch},
    exit::Status,
    kernel::{
        plan::{Options, permitted},
        symbols,
    },
    node,
    snapshot::{build::Listing, redact::Redactor, told::LISTEN_OVERFLOW},
};

/// Drops, and events of connection tracking, that a CPU tells of one by one in a tenth of a second, more
/// than `--limit` lets pass by default. What comes beyond is told together, so that a flood costs no more
/// than it does without `events`.
const ALONE: u32 = 128;

/// Runs the command.
pub(super) async fn run(kernel: &config::Kernel, watch: &Watch, tell: &Tell) -> Result<Status> {
    // Before anything is looked up, waited for or made, of which nothing would come.
    permitted()?;
    let mut stop = Stop::new()?;
    let Some(filters) = targets(watch, &kernel.host_root, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let Some(places) = places(&kernel.host_root, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let node_name = node_name(kernel, None);
    let Some(capture) = capture(tell, &node_name, &mut stop).await? else {
        return Ok(Status::Ran);
    };
    let options = Options {
        alone: ALONE,
        stacks: tell.stack,
        ..options(kernel, places.hierarchy(), Some((watch, filters)))
    };
    let mut tracer = attach(&options).inspect_err(|_| capture.iter().for_each(Capture::discard))?;
    if tell.stack && !symbols::are_told() {
        say(
            "--stack: /proc/kallsyms shows no addresses, so that stacks and places have no names; \
             run it with CAP_SYSLOG and kernel.kptr_restrict below 2",
        );
    }
    let host_root = kernel.host_root.clone();
    let translates = kernel.signals.contains(&Intake::TRANSLATING);
    let seeding = spawn_blocking(move || node::seed(&host_root, translates));
    let listening = tell.kinds.contains(&&LISTEN_OVERFLOW);
    let listening = listening.then(|| Listening::start(&kernel.host_root));
    let redactor = kernel.redact.then(Redactor::default);
    let about = about(node_name, &tracer, &filters, &kernel.host_root, redactor);
    let (writing, lines) = Writing::start(about, tracer.signals().to_vec(), watch.output, capture);
    let stacks = if tell.stack { Some(tracer.stacks()?) } else { None };
    let diagnostics = Diagnostics::new(&mut tracer, kernel.log_level)?;
    let owners = &watch.targets.owners;
    let teller = Teller::new(tell, &filters, owners.clone(), stacks, lines);
    let table = flow_table(watch, &filters);
    let sieve = Sieve::new(&filters, owners, &kernel.host_root);
    let intake = Intake::new(table, places, sieve, Some(teller));
    let observer = Observer::new(tracer, intake, diagnostics, None, watch, Listing::default());
    let complete = observer.tell(watch, &filters, seeding, writing, listening, &mut stop).await?;
    Ok(if watch.strict && !complete { Status::Incomplete } else { Status::Ran })
}

/// Opens what packets are written to, which may take a file server's time; none when stopped before.
async fn capture(tell: &Tell, node: &str, stop: &mut Stop) -> Result<Option<Option<Capture>>> {
    let Some(to) = tell.pcap.clone() else { return Ok(Some(None)) };
    let node = node.to_owned();
    let opened = stop.unless_asked(move || Capture::open(&to, &node)).await?;
    Ok(opened.transpose()?.map(Some))
}
