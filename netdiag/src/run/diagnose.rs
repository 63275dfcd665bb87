//! `netdiag diagnose`: live, where findings are told as they form, or from recordings.

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag_common::{flow::mapped, globals::Filters};

use super::{output::STDOUT, recordings, terminal::Reading, voice::say};
use crate::{
    cli::Output,
    config::{Diagnose, Owners},
    diagnosis::{Diagnosis, Report, Thresholds},
    exit::{self, Status},
    finding::{Finding, Scope, ScopeKind, Severity},
    flow::Grouping,
    snapshot::{Snapshot, redact::Redactor},
    view::{self, table::COLUMNS},
    watched::{Seen, Watched},
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
            diagnosis: diagnosis(thresholds, filters, owners),
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

    /// The run is over: says it all. What is said of the samples is that of `total`, and so is how long it was: the
    /// clock may have been set meanwhile.
    pub(super) fn end(
        self,
        total: &Snapshot,
        out: &mut impl Write,
    ) -> io::Result<Option<Severity>> {
        let Some(report) = self.diagnosis.report() else { return Ok(None) };
        let report = Report {
            start: total.start.clone(),
            end: total.end.clone(),
            signals: total.signals.clone(),
            own: Some(total.own.clone()),
            accounting: total.accounting.clone(),
            complete: total.complete,
            ..report
        };
        put_out(&report, self.form, out)?;
        Ok(report.worst_severity())
    }
}

/// Concludes what was asked for.
pub(super) fn diagnosis(thresholds: &Thresholds, filters: Filters, owners: Owners) -> Diagnosis {
    let is_wanted =
        move |finding: &Finding, watched: &Watched| is_wanted(finding, watched, &filters, &owners);
    Diagnosis::new(thresholds.clone()).wanting(is_wanted)
}

/// The node's counters stay whole whatever the filters, but what is known to be another namespace's or process's
/// was not asked for. None where a scope does not say what filters ask for: a namespace does not say whose it is.
pub(super) fn is_wanted(
    finding: &Finding,
    watched: &Watched,
    filters: &Filters,
    owners: &Owners,
) -> Option<bool> {
    let scope = &finding.scope;
    let accepts_owner = owners.accepts_owner(&scope.owner);
    let accepts = scope.netns.is_none_or(|netns| filters.netns.accept(netns))
        && scope.owner.pid.is_none_or(|pid| filters.pid.accept(pid))
        && accepts_owner != Some(false)
        && (accepts_ends(scope, filters) || watched.flows.values().any(|flow| is_of(flow, scope)));
    if !accepts {
        return Some(false);
    }
    let Filters { pid, port, local_port, peer_port, peer, .. } = filters;
    let is_said = (pid.len == 0 || scope.owner.pid.is_some())
        && accepts_owner.is_some()
        && (peer.len == 0 || scope.peer.is_some())
        && (port.len + local_port.len + peer_port.len == 0 || scope.port.is_some());
    is_said.then_some(true)
}

/// Whether filters ask for the peer and the port that a scope names. Of the other end's port it says nothing, so
/// what asks for that does not.
fn accepts_ends(scope: &Scope, filters: &Filters) -> bool {
    let Filters { port, local_port, peer_port, peer, .. } = filters;
    let (named, other) = match scope.kind {
        ScopeKind::Backend => (peer_port, local_port),
        _ => (local_port, peer_port),
    };
    let accepts_port =
        |at: u16| port.accept(at.into()) && named.accept(at.into()) && other.len == 0;
    scope.peer.is_none_or(|ip| peer.accept(&mapped(ip))) && scope.port.is_none_or(accepts_port)
}

/// Whether a scope names the ends of a flow. Every flow was asked for.
fn is_of(flow: &Seen, scope: &Scope) -> bool {
    let ends = [&flow.peer, flow.server(), &flow.local];
    scope.netns.is_none_or(|netns| flow.netns == Some(netns))
        && scope.peer.is_none_or(|ip| ends[..2].iter().any(|end| end.ip == Some(ip)))
        && scope.port.is_none_or(|port| ends.iter().any(|end| end.port == Some(port)))
}

fn put_out(report: &Report, form: Output, out: &mut impl Write) -> io::Result<()> {
    match form {
        Output::Text => view::diagnose::text(report, COLUMNS, out),
        Output::Json => view::json::line(report, out),
    }
}

/// Concludes from what was recorded, node by node. A node of which nothing can be read makes the run a failed one.
pub(super) fn from(
    directory: &Path,
    form: Output,
    diagnose: &Diagnose,
    redactor: Option<&Redactor>,
) -> Result<Status> {
    let nodes = recordings::find(directory)?;
    let (mut worst, mut is_unread) = (None, false);
    for (nth, (node, files)) in nodes.iter().enumerate() {
        let mut diagnosis = Diagnosis::of_recordings(diagnose.thresholds.clone());
        let (mut unread, mut grouped) = (0, None);
        let reading = Reading::begin(&format!("reading what {node} recorded"), files.len());
        for file in files {
            reading.file();
            unread += recordings::read(file, |mut snapshot| {
                reading.interval();
                redactor.iter().for_each(|it| it.snapshot(&mut snapshot));
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
        let report = diagnosis.report();
        drop(reading);
        match (&report, unread) {
            (Some(_), 0) => {}
            (Some(_), n) => say(&format!(
                "{node}: {n} lines are torn or no snapshots, and were left out; the rest counts"
            )),
            (None, 0) => say(&format!(
                "{node}: no interval was recorded; record for longer than one --interval"
            )),
            (None, n) => {
                is_unread = true;
                say(&format!(
                    "{node}: all {n} lines are torn or no snapshots, so nothing is concluded; read them with the \
                     netdiag that recorded them"
                ));
            }
        }
        let Some(report) = report else { continue };
        let mut out = io::stdout().lock();
        if nth > 0 && form == Output::Text {
            writeln!(out).context(STDOUT)?;
        }
        put_out(&report, form, &mut out).context(STDOUT)?;
        worst = worst.max(report.worst_severity());
    }
    let failed = diagnose.fail_on.is_some_and(|least| worst >= Some(least));
    Ok(match (failed, is_unread) {
        (true, _) => Status::Finding,
        (false, true) => Status::Failed,
        (false, false) => Status::Ran,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::Owner,
        watched::kit::{self, NETNS},
    };

    /// Whether a finding of this scope is wanted beside a flow from 10.0.0.1:40000 to 10.0.0.2:443.
    fn is_told(scope: &Scope, change: impl Fn(&mut Filters)) -> bool {
        let watched = kit::watched(&[kit::flow("f1")]);
        let finding = Finding::new(&watched, Severity::Warning, scope.clone(), "");
        let mut filters = Filters::default();
        change(&mut filters);
        is_wanted(&finding, &watched, &filters, &Owners::default()) != Some(false)
    }

    fn only(number: &mut netdiag_common::globals::Numbers, value: u32) {
        (number.values[0], number.len) = (value, 1);
    }

    #[test]
    fn findings_that_name_another_peer_or_port_are_not_wanted() {
        let of =
            |ip: &str, port| Scope::backend(Some(NETNS), ip.parse().expect("an address"), port);
        let (watched, other) = (of("10.0.0.2", 443), of("10.0.0.3", 3306));
        let service = Scope::namespace(NETNS).at(8080);
        type Change = fn(&mut Filters);
        let none: Change = |_| {};
        let peer: Change = |filters| {
            filters.peer.network[0] = mapped_words("10.0.0.2");
            filters.peer.mask[0] = [u32::MAX; 4];
            filters.peer.len = 1;
        };
        let port: Change = |filters| only(&mut filters.port, 443);
        // The flow has it, its server does not.
        let local: Change = |filters| only(&mut filters.local_port, 40_000);
        let database: Change = |filters| only(&mut filters.peer_port, 3306);
        let listens: Change = |filters| only(&mut filters.local_port, 8080);
        for (change, expected) in [
            (none, [true, true, true]),
            (peer, [true, false, true]),
            (port, [true, false, false]),
            (local, [true, false, false]),
            (database, [true, true, false]),
            (listens, [true, false, true]),
        ] {
            let told = [&watched, &other, &service].map(|scope| is_told(scope, change));
            assert_eq!(told, expected);
        }
        assert!(is_told(&Scope::node(""), port) && is_told(&Scope::namespace(NETNS), peer));
    }

    /// What it says depends on whether a flow of those that were asked for is there.
    #[test]
    fn a_namespace_does_not_say_whose_it_is() {
        let watched = kit::watched(&[kit::flow("f1")]);
        let filter = |change: fn(&mut Filters)| {
            let mut filters = Filters::default();
            change(&mut filters);
            filters
        };
        let (any, nobody) = (Filters::default(), Owners::default());
        let shop = || vec!["shop".to_owned()];
        let pid = filter(|filters| only(&mut filters.pid, 812));
        let netns = filter(|filters| only(&mut filters.netns, NETNS));
        let comm = Owners { comms: shop(), ..Owners::default() };
        let pod = Owners { pods: shop(), ..Owners::default() };
        let of = |pid, name: &str| {
            let pod = Some(name.to_owned());
            Scope::process(Some(NETNS), &Owner { pid: Some(pid), pod, ..kit::owner(name) })
        };
        let around = [Scope::namespace(NETNS), Scope::interface(NETNS + 1, "eth0")];
        for (filters, owners, expected) in [
            (&any, &nobody, [Some(true); 4]),
            (&netns, &nobody, [Some(true), Some(false), Some(true), Some(true)]),
            (&pid, &nobody, [None, None, Some(true), Some(false)]),
            (&any, &comm, [None, None, Some(true), Some(false)]),
            (&any, &pod, [None, None, Some(true), Some(false)]),
            (&netns, &pod, [None, Some(false), Some(true), Some(false)]),
        ] {
            let [one, other] = around.clone();
            let wanted = [one, other, of(812, "shop"), of(9, "mail")].map(|scope| {
                let finding = Finding::new(&watched, Severity::Critical, scope, "");
                is_wanted(&finding, &watched, filters, owners)
            });
            assert_eq!(wanted, expected, "{filters:?} {owners:?}");
        }
    }

    #[test]
    fn recordings_of_which_nothing_can_be_read_fail_the_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("netdiag-node-1-20261121T041800Z.jsonl");
        let diagnose = Diagnose { thresholds: Thresholds::new(), fail_on: None };
        let status = |lines: &str| {
            std::fs::write(&file, lines).expect("a file");
            from(directory.path(), Output::Text, &diagnose, None).expect("it is read")
        };
        assert_eq!(status("{\"schema\":\"netdiag.snapshot/9\"}\n{\"sch"), Status::Failed);
        assert_eq!(status(""), Status::Ran, "it had no time to record");
    }

    fn mapped_words(ip: &str) -> [u32; 4] {
        let octets = mapped(ip.parse().expect("an address"));
        let (words, _none) = octets.as_chunks::<4>();
        std::array::from_fn(|at| u32::from_ne_bytes(words[at]))
    }
}
