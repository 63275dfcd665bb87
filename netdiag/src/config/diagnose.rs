//! What `diagnose` watches, and what decides its findings.

use super::{Watch, check_filters, targets};
use crate::{
    cli,
    diagnosis::Thresholds,
    exit::Error,
    finding::{Limits, Severity},
    flow::Grouping,
    snapshot::build::Sort,
};

/// Flows of an interval that rules see one by one: what is more stands in `other`.
const TOP: usize = 2_000;

/// What decides the findings, and what they decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnose {
    /// By the id of their finding, those that were given.
    pub thresholds: Thresholds,
    /// A finding that bad decides the exit status.
    pub fail_on: Option<Severity>,
}

pub(super) fn diagnose(flags: &cli::Diagnose) -> Diagnose {
    let mut thresholds = Thresholds::new();
    for given in &flags.threshold {
        let limits: &mut Limits = thresholds.entry(given.id).or_default();
        limits.give(given.name, given.value);
    }
    Diagnose { thresholds, fail_on: flags.fail_on }
}

pub(super) fn watch(flags: &cli::Diagnose) -> Result<Watch, Error> {
    if flags.duration < flags.interval {
        return Err(Error::usage(
            "--duration is shorter than one --interval, so nothing would be seen; shorten --interval",
        ));
    }
    check_filters(&flags.filters)?;
    Ok(Watch {
        interval: flags.interval,
        duration: Some(flags.duration),
        output: flags.output,
        top: Some(TOP),
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
