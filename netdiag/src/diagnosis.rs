//! From snapshots to ranked findings: windows, what is withheld, causes before symptoms. Pure.
//!
//! A run is cut into windows, so that what was wrong for a minute of a day is not thinned out by the rest.
//! What the rules find in several windows about the same is one finding.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    finding::{self, Definition, Finding, Limits, Scope, ScopeKind, Severity},
    snapshot::{Account, Flow, Own, SignalStatus, Snapshot},
    watched::{Watched, seconds},
};

mod links;
mod merged;
mod order;
#[cfg(test)]
mod tests;
mod unseen;
mod worst;

use links::Links;
use merged::{Later, keep, merge};
use unseen::Unseen;

/// Seconds of a window: enough for rates, short enough for what comes and goes.
pub const WINDOW_S: f64 = 60.0;
/// A shorter rest behind a whole window is concluded from together with that one: rates of a moment are no rates.
const REST_S: f64 = 5.0;
/// Findings of one id that are told one by one; where there are more, the worst are.
const MOST_OF_ONE: usize = 20;
/// The same while the run goes on: of processes that come and go there is no end.
const MOST_KEPT: usize = 256;

/// Value of `schema`.
pub const SCHEMA: &str = "netdiag.diagnose/1";

/// A finding of which nothing can be said, or only from a part of the signals that show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Withheld {
    /// Its id.
    pub id: String,
    /// Why, or what was not looked at, and what to do about that.
    pub reason: String,
}

/// Thresholds by the id of their finding.
pub type Thresholds = BTreeMap<&'static str, Limits>;

/// All that `diagnose` says: `netdiag.diagnose/1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `netdiag.diagnose/1`.
    pub schema: String,
    /// Name of the node.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// When watching began, RFC 3339 UTC.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// Intervals that were looked at.
    pub intervals: u64,
    /// How each signal was observed.
    pub signals: Vec<SignalStatus>,
    /// What netdiag itself took; null where it was concluded from recordings.
    pub own: Option<Own>,
    /// Fates of samples by signal.
    pub accounting: BTreeMap<String, Account>,
    /// True when nothing was lost or missed.
    pub complete: bool,
    /// Whether it was concluded from recordings: processes that are named may be gone.
    pub recorded: bool,
    /// Whether filters narrowed the flows (never the node counters).
    pub filtered: bool,
    /// The findings: the first is the one to act on, symptoms come after their cause.
    pub findings: Vec<Finding>,
    /// Findings that were left out since there were many of one id, by id; one that comes and goes in a
    /// long run may be counted each time.
    pub left_out: BTreeMap<String, u64>,
    /// What could not be concluded, or from a part of the signals only.
    pub withheld: Vec<Withheld>,
    /// What could not be seen at all, a line each.
    pub not_observable: Vec<String>,
    /// The flows that took the most time, with whose time it was.
    pub worst: Vec<Flow>,
}

impl Report {
    /// Seconds from its start to its end.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(&self.start, &self.end).unwrap_or(0.0)
    }

    /// Of the worst finding, none without any.
    #[must_use]
    pub fn worst_severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// What the last snapshot said of its circumstances.
#[derive(Debug)]
struct Last {
    host: String,
    kernel: String,
    end: String,
    signals: Vec<SignalStatus>,
    accounting: BTreeMap<String, Account>,
    filtered: bool,
}

impl Last {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            host: snapshot.host.clone(),
            kernel: snapshot.kernel.clone(),
            end: snapshot.end.clone(),
            signals: snapshot.signals.clone(),
            accounting: snapshot.accounting.clone(),
            filtered: snapshot.filtered,
        }
    }
}

/// Whether a finding of a window was asked for; none where that depends on whether any flow that was is there.
type IsWanted = dyn Fn(&Finding, &Watched) -> Option<bool> + Send;

/// Which findings were asked for.
struct Wanted(Box<IsWanted>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Box::new(|_, _| Some(true)))
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wanted")
    }
}

/// Follows a run.
#[derive(Debug, Default)]
pub struct Diagnosis {
    thresholds: Thresholds,
    wanted: Wanted,
    /// It follows recordings. Which flows were wanted in them is not recorded.
    recorded: bool,
    window: Watched,
    /// Whether a whole window came right before this one.
    goes_on: bool,
    /// That one with what came since, as long as that is too short by itself.
    longer: Option<Box<Watched>>,
    findings: Vec<Finding>,
    left_out: BTreeMap<String, u64>,
    withheld: BTreeMap<&'static str, String>,
    worst: worst::Worst,
    /// Which run of a recording it is: ids of flows begin anew in each.
    run: u32,
    unseen: Unseen,
    links: Links,
    /// Fates of samples in the runs before this one.
    accounting: BTreeMap<String, Account>,
    /// Namespaces of flows.
    namespaces: BTreeSet<u32>,
    last: Option<Last>,
    start: String,
    intervals: u64,
    complete: bool,
}

impl Diagnosis {
    /// Of a run that begins now.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, complete: true, ..Self::default() }
    }

    /// Of recordings. Of filtered ones no finding is told of a namespace that no flow is in or passes.
    #[must_use]
    pub fn of_recordings(thresholds: Thresholds) -> Self {
        Self { recorded: true, ..Self::new(thresholds) }
    }

    /// The same, of which nothing is told but what is wanted: the rest does not even count among the findings of
    /// its id, of which there may be too many. Where `is_wanted` says none, it is wanted if it is of no namespace, or
    /// of one that a flow is in or passes.
    #[must_use]
    pub fn wanting(
        self,
        is_wanted: impl Fn(&Finding, &Watched) -> Option<bool> + Send + 'static,
    ) -> Self {
        Self { wanted: Wanted(Box::new(is_wanted)), ..self }
    }

    /// An interval has passed.
    pub fn take(&mut self, snapshot: &Snapshot) {
        if self.intervals == 0 {
            self.start.clone_from(&snapshot.start);
        }
        // Another run began, whose flows have the same ids, nothing was recorded for a while, or the clock was set.
        if self.last.as_ref().is_some_and(|last| last.end != snapshot.start) {
            self.close();
            (self.goes_on, self.longer) = (false, None);
            self.run += 1;
            self.window.forget();
            self.unseen.gap();
        }
        if let Some(last) = self.last.as_ref().filter(|last| has_restarted(last, snapshot)) {
            for (signal, account) in &last.accounting {
                let sum = self.accounting.entry(signal.clone()).or_default();
                *sum = sum.plus(account);
            }
            self.window.lose_anew();
        }
        self.namespaces.extend(snapshot.flows.iter().filter_map(|flow| flow.netns));
        self.intervals += 1;
        self.complete &= snapshot.complete;
        self.window.take(snapshot);
        self.lengthen(snapshot);
        self.links.take(snapshot);
        self.unseen.take(snapshot, &self.window);
        self.last = Some(Last::of(snapshot));
        if self.window.seconds >= WINDOW_S {
            self.close();
        }
    }

    /// A window is over.
    fn close(&mut self) {
        let next = self.window.next();
        let full = std::mem::replace(&mut self.window, next);
        self.worst.take(&full, self.run);
        match self.longer.take() {
            // Nothing came behind it: it has been concluded from.
            Some(_) if full.seconds == 0.0 => {}
            Some(mut longer) => {
                longer.series = Arc::clone(&full.series);
                let found = self.conclude(&longer, true);
                merge(&mut self.findings, found, Later::Same);
            }
            None => {
                let found = self.conclude(&full, true);
                merge(&mut self.findings, found, Later::Next);
            }
        }
        if full.seconds >= WINDOW_S {
            self.goes_on = true;
            let mut full = full;
            // It gets the series as it is then.
            full.series = Arc::default();
            self.longer = Some(Box::new(full));
        }
        let mut findings = std::mem::take(&mut self.findings);
        let mut left_out = std::mem::take(&mut self.left_out);
        keep(&mut findings, MOST_KEPT, |one| self.is_told(one), &mut left_out);
        (self.findings, self.left_out) = (findings, left_out);
    }

    /// A whole window goes on, until what comes behind it is long enough by itself.
    fn lengthen(&mut self, snapshot: &Snapshot) {
        if self.window.seconds >= REST_S {
            self.longer = None;
        } else if let Some(longer) = &mut self.longer {
            longer.take(snapshot);
        }
    }

    /// Whether a flow is in its namespace or passes it, as far as that matters: where filters ask for nobody whom it
    /// names, and in filtered recordings, which do not say what was asked for. The first flow may come later.
    fn is_told(&self, finding: &Finding) -> bool {
        let Finding { scope, beside_flows, .. } = finding;
        let is_filtered = self.last.as_ref().is_some_and(|last| last.filtered);
        let has_flows = |netns| {
            let mut namespaces = self.namespaces.iter();
            self.namespaces.contains(&netns) || namespaces.any(|of| self.links.is_way(scope, *of))
        };
        !(*beside_flows || self.recorded && is_filtered) || scope.netns.is_none_or(has_flows)
    }

    /// Those that are told, in the order in which to act on them.
    fn ranked(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        findings.retain(|finding| self.is_told(finding));
        order::rank(findings, &self.links)
    }

    /// The findings as they stand, ranked.
    #[must_use]
    pub fn findings(&mut self) -> Vec<Finding> {
        let mut findings = self.findings.clone();
        let found = self.of_window();
        merge(&mut findings, found, Later::Next);
        self.ranked(findings)
    }

    /// What the window that is under way says by itself, in its order: as bad as it is now. Nothing in its first
    /// seconds.
    pub fn present(&mut self) -> Vec<Finding> {
        let found = self.of_window();
        self.ranked(found)
    }

    /// Of how many findings nothing can be said now: signals that they need are off, or samples were lost or left out. It
    /// is of the window that is under way; in its first seconds, of that one and the one before.
    #[must_use]
    pub fn withheld(&self) -> usize {
        let watched = self.longer.as_deref().unwrap_or(&self.window);
        if watched.intervals.is_empty() {
            return 0;
        }
        let is_withheld = |it: &&&Definition| finding::withheld(it, watched).is_some();
        finding::DEFINITIONS.iter().filter(is_withheld).count()
    }

    /// A window that is not over may still change its mind.
    fn of_window(&mut self) -> Vec<Finding> {
        let window = std::mem::take(&mut self.window);
        let found = self.conclude(&window, false);
        self.window = window;
        found
    }

    fn conclude(&mut self, watched: &Watched, is_over: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        let is_rest = self.goes_on && watched.seconds < REST_S;
        if watched.intervals.is_empty() || is_rest {
            return found;
        }
        let host = self.last.as_ref().map_or("", |last| &last.host);
        for definition in finding::DEFINITIONS {
            if let Some(reason) = finding::withheld(definition, watched) {
                if is_over {
                    self.withheld.insert(definition.id, reason);
                }
                continue;
            }
            if let Some(reason) = finding::not_looked_at(definition, watched).filter(|_| is_over) {
                self.withheld.insert(definition.id, reason);
            }
            let limits = self.limits(definition);
            let of_one = (definition.rule)(watched, &limits).into_iter();
            found.extend(of_one.map(|finding| identified(finding, definition, host)));
        }
        // What says more of the same stands before it in the list.
        let is_said = |one: &Finding, told: &[Finding]| {
            let more = |other: &Finding| one.unless.contains(&other.id.as_str());
            told.iter().any(|other| more(other) && other.scope == one.scope)
        };
        let mut told: Vec<Finding> = Vec::new();
        for one in found {
            if !is_said(&one, &told) {
                told.push(one);
            }
        }
        told.retain_mut(|finding| {
            let is_wanted = (self.wanted.0)(finding, watched);
            finding.beside_flows = is_wanted.is_none();
            is_wanted != Some(false)
        });
        told
    }

    /// Thresholds of a finding, and of those that may explain it, as they were given.
    fn limits(&self, definition: &Definition) -> Limits {
        let given = |id: &str| self.thresholds.get(id).cloned();
        let causes = definition.causes.iter().filter_map(|&id| Some((id, given(id)?)));
        given(definition.id).unwrap_or_default().beside(causes.collect())
    }

    /// The run is over: all that there is to say. None where there was no interval.
    #[must_use]
    pub fn report(mut self) -> Option<Report> {
        self.close();
        let findings = std::mem::take(&mut self.findings);
        let mut findings = self.ranked(findings);
        let mut left_out = self.left_out;
        keep(&mut findings, MOST_OF_ONE, |_| true, &mut left_out);
        let last = self.last?;
        let withheld = self.withheld.into_iter();
        let mut not_observable =
            self.unseen.lines(&last.signals, &self.window.series, &self.thresholds);
        if self.recorded && last.filtered {
            not_observable.push(
                "recorded with filters: findings of namespaces that no flow is in or passes are not told"
                    .to_owned(),
            );
        }
        Some(Report {
            schema: SCHEMA.to_owned(),
            host: last.host,
            kernel: last.kernel,
            start: self.start,
            end: last.end,
            intervals: self.intervals,
            not_observable,
            signals: last.signals,
            own: None,
            accounting: together(self.accounting, last.accounting),
            recorded: self.recorded,
            complete: self.complete,
            filtered: last.filtered,
            findings,
            left_out,
            withheld: withheld.map(|(id, reason)| Withheld { id: id.to_owned(), reason }).collect(),
            worst: self.worst.flows(),
        })
    }
}

/// Whether the accounts begin anew: they are told since the start of a run.
fn has_restarted(last: &Last, snapshot: &Snapshot) -> bool {
    let fell = |(signal, account): (&String, &Account)| {
        snapshot.accounting.get(signal).is_none_or(|now| now.seen < account.seen)
    };
    last.end != snapshot.start && last.accounting.iter().any(fell)
}

/// The accounts of several runs.
fn together(
    mut accounts: BTreeMap<String, Account>,
    last: BTreeMap<String, Account>,
) -> BTreeMap<String, Account> {
    for (signal, account) in last {
        let sum = accounts.entry(signal).or_default();
        *sum = sum.plus(&account);
    }
    accounts
}

/// What the definition and the run know of a finding, which its rule does not say.
fn identified(finding: Finding, definition: &Definition, host: &str) -> Finding {
    let scope = match finding.scope.kind {
        ScopeKind::Node => Scope { name: host.to_owned(), ..finding.scope },
        _ => finding.scope,
    };
    Finding { id: definition.id.to_owned(), scope, ..finding }
}
