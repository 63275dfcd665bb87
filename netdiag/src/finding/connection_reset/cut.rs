//! Connections to a server that were reset: how many of them failed for who asked, and how bad that is.

use super::{
    CRITICAL_SHARE, LEAST, LEAST_SECONDS, LONG_SECONDS, SHARE, UNCLEAR_SHARE,
    fate::{FAREWELL_BYTES, Fate},
};
use crate::{
    finding::{Finding, Limits, Scope, Severity, Threshold, Unit, advice::beside_others},
    watched::{Group, Seen, Watched},
};

/// Connections that were reset.
pub(super) struct Cut<'a> {
    pub(super) group: Group<'a>,
    pub(super) connections: usize,
    in_vain: Failed,
    open: Failed,
    unclear: Failed,
    hardly: Failed,
    /// Which of them are told of: those that decided, where any did.
    by: Fate,
    /// Whether it is known what was sent on them.
    is_told: bool,
    pub(super) severity: Severity,
}

/// Those of them that had one fate.
struct Failed {
    count: usize,
    /// Of all connections.
    share: f64,
    seconds: f64,
}

/// Whether anybody waited for an answer on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Nobody.
    Nobody,
    /// Nobody, or for the answer to very little.
    Hardly,
    /// That is not known.
    Unclear,
    /// Some did, or nobody tells their bytes.
    Somebody,
}

/// Seconds with resets, at least: of intervals longer than one, the first and the last may have had theirs
/// within one, where they meet. Never more than connections that were reset.
fn seconds(group: &Group<'_>, every: f64) -> f64 {
    let intervals = f64::from(group.seconds(|course| course.reset).count());
    if every < 1.5 {
        return intervals;
    }
    let spans = intervals * every - 2.0 * (every - 1.0);
    spans.min(group.flows.len() as f64).max(intervals.min(2.0)).floor()
}

impl<'a> Cut<'a> {
    pub(super) fn of(
        all: &Group<'a>,
        (watched, limits): (&Watched, &Limits),
        resets: impl Fn(&Seen) -> u64,
        fate: impl Fn(&Seen) -> Fate,
    ) -> Option<Self> {
        let is_cut = |flow: &Seen| {
            resets(flow) > 0 && flow.sums.at_least("connects_failed.ECONNREFUSED") == 0
        };
        let group = all.only(is_cut)?;
        let connections = all.flows.len();
        if (group.flows.len() as f64) < limits.of(&LEAST) {
            return None;
        }
        let failed = |so: Fate| {
            let group = group.only(|flow| fate(flow) == so);
            let count = group.as_ref().map_or(0, |group| group.flows.len());
            let seconds = group.map_or(0.0, |group| seconds(&group, watched.every()));
            Failed { count, share: count as f64 / connections as f64, seconds }
        };
        let [in_vain, open, unclear, hardly] =
            [Fate::InVain, Fate::Open, Fate::Unclear, Fate::Hardly].map(failed);
        let goes_on = |failed: &Failed, share: &Threshold, least: &Threshold| {
            failed.count as f64 >= limits.of(&LEAST)
                && failed.share >= limits.of(share)
                && failed.seconds >= limits.of(least)
        };
        // Who ends with resets what it has answered fails nobody by it.
        let (by, severity) = if goes_on(&in_vain, &SHARE, &LEAST_SECONDS) {
            let is_critical = in_vain.share >= limits.of(&CRITICAL_SHARE);
            (Fate::InVain, if is_critical { Severity::Critical } else { Severity::Warning })
        } else if goes_on(&open, &SHARE, &LONG_SECONDS) {
            (Fate::Open, Severity::Warning)
        } else if goes_on(&unclear, &UNCLEAR_SHARE, &LONG_SECONDS) {
            (Fate::Unclear, Severity::Warning)
        } else if in_vain.count == 0 && open.count == 0 && unclear.count > 0 {
            (Fate::Unclear, Severity::Info)
        } else {
            (Fate::InVain, Severity::Info)
        };
        // Of all connections fewer are known then than of those that were reset.
        let severity =
            if watched.others_connected() { severity.min(Severity::Warning) } else { severity };
        let is_told = group.sums.count("bytes_received").is_some();
        Some(Self { group, connections, in_vain, open, unclear, hardly, by, is_told, severity })
    }

    pub(super) const fn waited(&self) -> Waited {
        match self.by {
            _ if !self.is_told => Waited::Somebody,
            Fate::Unclear => Waited::Unclear,
            _ if self.in_vain.count > 0 || self.open.count > 0 => Waited::Somebody,
            _ if self.hardly.count > 0 => Waited::Hardly,
            _ => Waited::Nobody,
        }
    }

    /// What a title ends with.
    pub(super) const fn ending(&self) -> &'static str {
        match self.waited() {
            Waited::Nobody | Waited::Hardly => ", none with a request known to be open",
            Waited::Unclear => ", maybe with requests open",
            Waited::Somebody => "",
        }
    }

    pub(super) fn told(
        &self,
        watched: &Watched,
        limits: &Limits,
        scope: Scope,
        title: String,
    ) -> Finding {
        let count = self.group.flows.len() as f64;
        let finding = Finding::new(watched, self.severity, scope, title);
        let finding = if self.is_told {
            let finding = self.failed(finding, watched, limits);
            finding.with(watched, "connections reset", count, Unit::Count)
        } else {
            finding.beyond(watched, "connections reset", count, &LEAST, limits).not_seeing(
                "whether they had answers: nobody tells their bytes (the signal `socket`)",
            )
        };
        let connections = self.connections as f64;
        let finding = finding.with(watched, "connections", connections, Unit::Count);
        let finding = beside_others(finding, watched);
        let every = watched.every();
        match self.waited() {
            Waited::Nobody => finding.not_seeing("whether the answers were whole"),
            Waited::Hardly => finding.not_seeing(format!(
                "whether the answers were whole, and whether less than {FAREWELL_BYTES} bytes were one more request"
            )),
            Waited::Unclear => finding.no_surer_than(0.5).not_seeing(
                "whether requests were open: both ends had sent something in the last interval with any bytes, and \
                 which one was the last is not told; shorter intervals (-i) tell it of more of them",
            ),
            Waited::Somebody if self.severity == Severity::Info && every > 2.0 => {
                finding.not_seeing(format!(
                    "whether it goes on: intervals of {every:.0} s do not tell a burst from it; -i 1s does"
                ))
            }
            Waited::Somebody => finding,
        }
    }

    /// What decided.
    fn failed(&self, finding: Finding, watched: &Watched, limits: &Limits) -> Finding {
        let (failed, share, least, what) = match self.by {
            Fate::Open => (&self.open, &SHARE, &LONG_SECONDS, "reset with one more request open"),
            Fate::Unclear => (
                &self.unclear,
                &UNCLEAR_SHARE,
                &LONG_SECONDS,
                "reset with maybe one more request open",
            ),
            _ => {
                let is_critical = self.severity == Severity::Critical;
                let share = if is_critical { &CRITICAL_SHARE } else { &SHARE };
                (&self.in_vain, share, &LEAST_SECONDS, "reset with a request and no answer")
            }
        };
        finding
            .beyond(watched, &format!("{what}, of all"), failed.share, share, limits)
            .beyond(watched, what, failed.count as f64, &LEAST, limits)
            .beyond(watched, "seconds with these", failed.seconds, least, limits)
    }
}
