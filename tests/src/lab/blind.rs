//! What netdiag makes of faults when it cannot see everything: one run beside another, each without a signal.
//!
//! What depends on that signal must be withheld and say so; the rest must stand as it does with all signals on.

use anyhow::{Context as _, Result};
use netdiag::{
    coverage::{SignalStatus, Status},
    diagnosis::Report,
    finding,
};
use netdiag_common::signal::Signal;

use super::judge::{Found, Wanted, findings};
use crate::netdiag::Netdiag;

/// A netdiag that does without a signal.
pub(super) struct Blind {
    signal: Signal,
    netdiag: Netdiag,
}

/// What one said.
#[derive(Clone, Debug)]
pub(super) struct Said {
    signal: Signal,
    /// Whether it can be done without at all: `socket` carries the others.
    is_off: bool,
    found: Vec<Found>,
    withheld: Vec<String>,
}

impl Blind {
    /// Begins to watch what these arguments choose, without `signal`.
    pub(super) fn start(signal: Signal, chosen: &[&str]) -> Result<Self> {
        let others = Signal::ALL.iter().filter(|other| **other != signal);
        let others: Vec<_> = others.map(|other| other.name()).collect();
        let others = others.join(",");
        let arguments = [&["diagnose", "-d", "10h", "-o", "json", "--signals", &others], chosen];
        Ok(Self { signal, netdiag: Netdiag::start(&arguments.concat())? })
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<Said> {
        let (status, out, err) = self.netdiag.stop_text()?;
        let said = || format!("without {}: {status}: {}", self.signal.name(), err.join("\n"));
        let last = out.last().with_context(said)?;
        let report: Report = serde_json::from_str(last).with_context(said)?;
        let is_off = |status: &SignalStatus| {
            status.signal == self.signal.name() && status.status == Status::Off
        };
        Ok(Said {
            signal: self.signal,
            is_off: report.signals.iter().any(is_off),
            found: findings(&serde_json::from_str(last)?).with_context(said)?,
            withheld: report.withheld.into_iter().map(|withheld| withheld.id).collect(),
        })
    }
}

impl Said {
    /// The same with these findings only.
    pub(super) fn of(&self, found: Vec<Found>) -> Self {
        Self { found, ..self.clone() }
    }

    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    /// What is wrong with it, where `wanted` must be found, and `full` was found with all signals on.
    pub(super) fn problems(&self, wanted: &[Wanted], full: &[Found]) -> Vec<String> {
        let without = format!("without {}", self.signal.name());
        let mut problems = Vec::new();
        let is_there = |id: &str| full.iter().any(|found| found.counts && found.id == *id);
        for (id, _) in wanted.iter().filter(|(id, _)| self.is_off && is_there(id)) {
            let needs = finding::definition(id).is_some_and(|it| it.needs.contains(&self.signal));
            let is_found = self.found.iter().any(|found| found.counts && found.id == *id);
            let is_withheld = self.withheld.contains(id);
            if needs && is_found {
                problems.push(format!("{without}: {id} is found, which cannot be seen"));
            }
            if needs && !is_withheld {
                problems.push(format!("{without}: {id} is not said to be withheld"));
            }
            if !needs && !is_found && !is_withheld {
                problems.push(format!("{without}: {id} is not found, and does not say why"));
            }
        }
        let is_wanted = |id: &str| wanted.iter().any(|(wanted, _)| wanted == id);
        let explained = |found: &Found| found.caused_by.iter().any(|cause| is_wanted(cause));
        let stands = |found: &Found| {
            full.iter().any(|one| one.counts && one.id == found.id && !explained(one))
        };
        for found in self.found.iter().filter(|found| found.counts) {
            if !is_wanted(&found.id) && !explained(found) && !stands(found) {
                problems.push(format!("{without}: {} is found: {}", found.id, found.title));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: &str, caused_by: &[&str]) -> Found {
        Found {
            id: id.to_owned(),
            counts: true,
            kind: "peer".to_owned(),
            name: "10.77.1.2".to_owned(),
            caused_by: caused_by.iter().map(|&cause| cause.to_owned()).collect(),
            title: String::new(),
        }
    }

    fn problems(found: Vec<Found>, withheld: &[&str]) -> usize {
        let withheld = withheld.iter().map(|&id| id.to_owned()).collect();
        let said = Said { signal: Signal::Retransmit, is_off: true, found, withheld };
        let full = [
            self::found("packet-loss", &[]),
            self::found("slow-peer-application", &["packet-loss"]),
            self::found("connection-churn", &[]),
        ];
        said.problems(&[("packet-loss".to_owned(), vec![])], &full).len()
    }

    #[test]
    fn what_depends_on_it_is_withheld_and_nothing_else_changes() {
        assert_eq!(problems(vec![], &["packet-loss"]), 0);
        assert_eq!(problems(vec![found("connection-churn", &[])], &["packet-loss"]), 0);
        assert_eq!(problems(vec![], &[]), 1);
        assert_eq!(problems(vec![found("packet-loss", &[])], &["packet-loss"]), 1);
        // The symptom has lost its cause, and stands as one.
        let symptom = found("slow-peer-application", &[]);
        assert_eq!(problems(vec![symptom], &["packet-loss"]), 1);
    }
}
