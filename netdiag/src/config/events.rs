//! What `events` watches: which signals its kinds take, and nothing else.

use std::{path::Path, time::Duration};

use netdiag_common::signal::Signal;

use super::{CaptureTo, Kernel, Tell, Watch, check_filters, targets};
use crate::{
    cli,
    event::Kind,
    exit::Error,
    flow::Grouping,
    signal,
    snapshot::{build::Sort, told::kinds},
};

pub(super) fn tell(flags: &cli::Events) -> Result<Tell, Error> {
    let wanted = |kind: &&'static Kind| flags.kind.is_empty() || flags.kind.contains(kind);
    let kinds: Vec<_> = kinds().filter(wanted).collect();
    let pcap = pcap(flags, &kinds)?;
    Ok(Tell { kinds, limit: flags.limit.into(), stack: flags.stack, pcap })
}

fn pcap(flags: &cli::Events, wanted: &[&'static Kind]) -> Result<Option<CaptureTo>, Error> {
    let Some(path) = &flags.pcap else { return Ok(None) };
    if !wanted.iter().any(|kind| kind.has_packet) {
        let of_packets: Vec<_> =
            kinds().filter(|kind| kind.has_packet).map(|kind| kind.name).collect();
        return Err(Error::usage(format!(
            "--pcap: no event that is wanted is of a packet, so nothing would be written; add one of {} to --kind",
            of_packets.join(", ")
        )));
    }
    if path != Path::new("-") {
        return Ok(Some(CaptureTo::File(path.clone())));
    }
    if flags.output.is_some() || flags.stack {
        return Err(Error::usage(
            "--pcap -: standard output has no lines then, which --output and --stack are about; leave them out, or \
             name a file",
        ));
    }
    Ok(Some(CaptureTo::Stdout))
}

/// Leaves out the signals that tell of no event that is wanted, which would cost something.
pub(super) fn narrow(kernel: &mut Kernel, tell: &Tell) -> Result<(), Error> {
    kernel.signals.retain(|&signal| {
        let told = signal::DEFINITIONS[signal as usize].kinds;
        signal == Signal::Socket || told.iter().any(|kind| tell.kinds.contains(kind))
    });
    match kernel.sources.iter().find(|choice| !kernel.signals.contains(&choice.signal)) {
        None => Ok(()),
        Some(choice) => Err(Error::usage(format!(
            "--source forces `{}`, which tells of no event that is wanted; leave it out, or add one \
             of its kinds to --kind",
            choice.signal.name()
        ))),
    }
}

/// Nothing is put out by the interval; listeners are asked and idle flows forgotten by it.
pub(super) fn watch(flags: &cli::Events) -> Result<Watch, Error> {
    check_filters(&flags.filters)?;
    Ok(Watch {
        interval: Duration::from_secs(1),
        duration: flags.duration,
        output: flags.output.unwrap_or_default(),
        top: None,
        by: Grouping::default(),
        sort: Sort::default(),
        all: false,
        idle: flags.flows.idle,
        max_flows: flags.flows.max_flows as usize,
        max_cpu: flags.flows.max_cpu,
        strict: flags.flows.strict,
        targets: targets(&flags.filters),
        wait: flags.filters.wait,
        metrics: None,
    })
}
