//! What is known of a node from its recordings: when it was recorded, with what loss, and what is wrong there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{columns::rfc3339, told::NodeRow};
use crate::{
    diagnosis::{self, Diagnosis, Thresholds},
    finding::Finding,
    flow::Grouping,
    snapshot::{Account, Snapshot},
    watched::Watched,
};

/// Intervals closer than that are side by side: times are written to the nanosecond, clocks are set.
const SIDE_BY_SIDE_NS: i64 = 1_000_000;

/// Follows the recordings of a node in their order.
#[derive(Debug)]
pub(super) struct Node {
    kernel: String,
    diagnosis: Diagnosis,
    first: i64,
    /// The latest end of an interval.
    last: i64,
    recorded_ns: i64,
    gaps: u64,
    gap_ns: i64,
    overlap_ns: i64,
    intervals: u64,
    complete: bool,
    filtered: bool,
    grouped: bool,
    runs: u32,
    /// The run of which a pair is, and of which what ended then was.
    run_of_pair: HashMap<usize, u32>,
    run_ended: BTreeMap<i64, u32>,
    pair: Option<(usize, i64)>,
    /// How many samples were left out to keep the cost down, by run and signal, when it was told last.
    left_out: HashMap<(u32, String), u64>,
    /// The signals of which some were in the intervals that were added.
    shed: BTreeSet<String>,
}

impl Node {
    pub(super) fn new(
        snapshot: &Snapshot,
        start: i64,
        is_wanted: impl Fn(&Finding, &Watched) -> Option<bool> + Send + 'static,
    ) -> Self {
        Self {
            kernel: snapshot.kernel.clone(),
            diagnosis: Diagnosis::of_recordings(Thresholds::new()).wanting(is_wanted),
            first: start,
            last: start,
            recorded_ns: 0,
            gaps: 0,
            gap_ns: 0,
            overlap_ns: 0,
            intervals: 0,
            complete: true,
            filtered: false,
            grouped: false,
            runs: 0,
            run_of_pair: HashMap::new(),
            run_ended: BTreeMap::new(),
            pair: None,
            left_out: HashMap::new(),
            shed: BTreeSet::new(),
        }
    }

    /// Adds an interval; returns the number of its run, from 1.
    pub(super) fn take(
        &mut self,
        pair: usize,
        snapshot: &Snapshot,
        (start, end): (i64, i64),
    ) -> u32 {
        let run = self.run(pair, start);
        self.pair = Some((pair, end));
        let between = start.saturating_sub(self.last);
        if self.intervals > 0 && between > SIDE_BY_SIDE_NS {
            self.gaps += 1;
            self.gap_ns = self.gap_ns.saturating_add(between);
        }
        if self.intervals > 0 && between < -SIDE_BY_SIDE_NS {
            let both = self.last.min(end).saturating_sub(start.max(self.first)).max(0);
            self.overlap_ns = self.overlap_ns.saturating_add(both);
        }
        self.kernel.clone_from(&snapshot.kernel);
        self.first = self.first.min(start);
        self.last = self.last.max(end);
        self.recorded_ns = self.recorded_ns.saturating_add(end.saturating_sub(start).max(0));
        self.intervals += 1;
        self.complete &= snapshot.complete;
        self.filtered |= snapshot.filtered;
        self.grouped |= snapshot.by != Grouping::Flow;
        self.note_shed(run, snapshot);
        run
    }

    /// Accounts are those of the whole run: what was left out before its first interval here is not told apart.
    fn note_shed(&mut self, run: u32, snapshot: &Snapshot) {
        for (signal, account) in &snapshot.accounting {
            let before = self.left_out.insert((run, signal.clone()), account.shed);
            if before.is_some_and(|before| account.shed > before) {
                self.shed.insert(signal.clone());
            }
        }
        self.shed.extend(snapshot.own.shed.iter().cloned());
    }

    /// Adds an interval, with the flows alone that are asked for, to what is concluded from.
    pub(super) fn conclude(&mut self, snapshot: &Snapshot) {
        if snapshot.by == Grouping::Flow {
            self.diagnosis.take(snapshot);
        }
    }

    /// A pair of files goes on with the run whose last interval ended where its first one begins.
    fn run(&mut self, pair: usize, start: i64) -> u32 {
        if let Some(run) = self.run_of_pair.get(&pair) {
            return *run;
        }
        if let Some((before, end)) = self.pair.take() {
            let run = self.run_of_pair.get(&before).copied().unwrap_or_default();
            self.run_ended.insert(end, run);
        }
        let run = self.run_ended.remove(&start).unwrap_or_else(|| {
            self.runs += 1;
            self.runs
        });
        self.run_of_pair.insert(pair, run);
        run
    }

    /// Numbers of runs by pair of files.
    pub(super) fn runs(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.run_of_pair.iter().map(|(pair, run)| (*pair, *run))
    }

    /// All of it.
    pub(super) fn told(self, name: String) -> (NodeRow, Option<diagnosis::Report>) {
        let seconds = |ns: i64| ns as f64 / 1e9;
        let report = self.diagnosis.report();
        let lost = |report: &diagnosis::Report| report.accounting.values().map(Account::lost).sum();
        let row = NodeRow {
            name,
            kernel: self.kernel,
            start: rfc3339(self.first),
            end: rfc3339(self.last),
            runs: self.runs.into(),
            intervals: self.intervals,
            recorded_s: seconds(self.recorded_ns),
            gaps: self.gaps,
            gap_s: seconds(self.gap_ns),
            overlap_s: seconds(self.overlap_ns),
            complete: self.complete,
            lost: report.as_ref().map(lost),
            filtered: self.filtered,
            grouped: self.grouped,
            shed: self.shed.into_iter().collect(),
            withheld: report.iter().flat_map(|report| &report.withheld).cloned().collect(),
        };
        (row, report)
    }
}
