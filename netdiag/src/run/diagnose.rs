//! `netdiag diagnose`: live, where findings are told as they form, or from recordings.

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag_common::globals::Filters;

use super::{output::STDOUT, recordings, voice::say};
use crate::{
    cli::Output,
    config::{Diagnose, Owners},
    diagnosis::{Diagnosis, Report, Thresholds},
    exit::{self, Status},
    finding::{Finding, Scope, Severity},
    flow::Grouping,
    snapshot::Snapshot,
    view::{self, table::COLUMNS},
};

/// What makes a line of its own: id, name and namespace of the scope, what of it, and how bad.
type Headline = (String, String, Option<u32>, String, Severity);

/// Concludes while the run goes on.
pub(super) struct Diagnosing {
    diagnosis: Diagnosis,
    form: Output,
    /// What was told as it formed; none where nobody looks on.
    told: Option<HashSet<Headline>>,
    looked: Instant,
}

/// Between two looks at what there is to be told: rules cost more than an interval's snapshot.
const LOOK: Duration = Duration::from_secs(1);

impl Diagnosing {
    pub(super) fn new(
        thresholds: &Thresholds,
        form: Output,
        filters: Filters,
        owners: Owners,
    ) -> Self {
        let looked_at = io::stderr().is_terminal();
        Self {
            diagnosis: Diagnosis::new(thresholds.clone())
                .wanting(move |finding| is_wanted(finding, &filters, &owners)),
            form,
            told: looked_at.then(HashSet::new),
            looked: Instant::now(),
        }
    }

    /// An interval has passed.
    pub(super) fn take(&mut self, snapshot: &Snapshot) {
        self.diagnosis.take(snapshot);
        let Some(told) = &mut self.told else { return };
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        for finding in self.diagnosis.findings() {
            let Finding { id, scope, part, severity, .. } = &finding;
            let key = (id.clone(), scope.name.clone(), scope.netns, part.clone(), *severity);
            if told.insert(key) {
                say(&view::diagnose::headline(&finding));
            }
        }
    }

    /// The run is over: says it all. What is said of the samples is that of `total`.
    pub(super) fn end(
        self,
        total: &Snapshot,
        out: &mut impl Write,
    ) -> io::Result<Option<Severity>> {
        let Some(report) = self.diagnosis.report() else { return Ok(None) };
        let report = Report {
            signals: total.signals.clone(),
            accounting: total.accounting.clone(),
            complete: total.complete,
            ..report
        };
        put_out(&report, self.form, out)?;
        Ok(report.worst_severity())
    }
}

/// The node's counters stay whole whatever the filters, but what is known to be another namespace's or process's
/// was not asked for.
fn is_wanted(finding: &Finding, filters: &Filters, owners: &Owners) -> bool {
    let Scope { netns, owner, .. } = &finding.scope;
    netns.is_none_or(|netns| filters.netns.accept(netns))
        && owner.pid.is_none_or(|pid| filters.pid.accept(pid))
        && owners.accepts_owner(owner) != Some(false)
}

fn put_out(report: &Report, form: Output, out: &mut impl Write) -> io::Result<()> {
    match form {
        Output::Text => view::diagnose::text(report, COLUMNS, out),
        Output::Json => view::json::line(report, out),
    }
}

/// Concludes from what was recorded, node by node.
pub(super) fn from(directory: &Path, form: Output, diagnose: &Diagnose) -> Result<Status> {
    let nodes = recordings::find(directory)?;
    let mut worst = None;
    for (nth, (node, files)) in nodes.iter().enumerate() {
        let mut diagnosis = Diagnosis::of_recordings(diagnose.thresholds.clone());
        let (mut unread, mut grouped) = (0, None);
        for file in files {
            unread += recordings::read(file, |snapshot| {
                grouped = grouped.or(Some(snapshot.by).filter(|by| *by != Grouping::Flow));
                diagnosis.take(&snapshot);
            })?;
            if let Some(by) = grouped {
                return Err(exit::Error::usage(format!(
                    "--from: {} was recorded --by {}, and findings are concluded from single flows; \
                     record without --by",
                    file.display(),
                    by.name()
                ))
                .into());
            }
        }
        if unread > 0 {
            say(&format!(
                "{node}: {unread} lines are torn or no snapshots, and were left out; the rest counts"
            ));
        }
        let Some(report) = diagnosis.report() else {
            say(&format!(
                "{node}: no interval was recorded; record for longer than one --interval"
            ));
            continue;
        };
        let mut out = io::stdout().lock();
        if nth > 0 && form == Output::Text {
            writeln!(out).context(STDOUT)?;
        }
        put_out(&report, form, &mut out).context(STDOUT)?;
        worst = worst.max(report.worst_severity());
    }
    let failed = diagnose.fail_on.is_some_and(|least| worst >= Some(least));
    Ok(if failed { Status::Finding } else { Status::Ran })
}
