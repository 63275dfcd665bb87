//! Findings: what is wrong and why, concluded from a window of snapshots. Each is one file in `finding/`
//! and one line here: a pure rule with its thresholds, wording and tests.

use netdiag_common::signal::Signal;

use crate::{snapshot::Role, watched::Watched};

mod advice;
mod held;
mod node;
mod scope;
mod stalled;
mod told;

pub mod backend_outlier;
pub mod bufferbloat;
pub mod close_wait_leak;
pub mod connection_churn;
pub mod connection_refused;
pub mod connection_reset;
pub mod conntrack_full;
pub mod conntrack_insert_failed;
pub mod conntrack_pressure;
pub mod cpu_starved;
pub mod dns_failing;
pub mod dns_slow;
pub mod dns_unanswered;
pub mod ephemeral_ports_exhausted;
pub mod fin_wait_buildup;
pub mod firewall_drop;
pub mod half_open_peer;
pub mod heavy_netfilter;
pub mod high_rtt;
pub mod interface_errors;
pub mod interface_saturated;
pub mod listen_overflow;
pub mod local_not_reading;
pub mod mtu_mismatch;
pub mod packet_loss;
pub mod peer_not_reading;
pub mod peer_unreachable;
pub mod periodic_latency;
pub mod pmtu_black_hole;
pub mod qdisc_drop;
pub mod reordering;
pub mod send_buffer_limited;
pub mod slow_local_application;
pub mod slow_peer_application;
pub mod softnet_drop;
pub mod syn_backlog_overflow;
pub mod tcp_memory_pressure;
pub mod time_wait_buildup;
pub mod window_limited;

pub use crate::snapshot::node::Part;
pub use scope::{Scope, ScopeKind};
pub use told::{Evidence, Finding, Severity, Unit};

#[cfg(test)]
mod tests;

/// The longest that a peer keeps an acknowledgement back (`TCP_DELACK_MAX`, include/net/tcp.h).
const DELAYED_ACK_NS: u64 = 200_000_000;

/// A number above or below which something is worth a finding.
#[derive(Debug, PartialEq)]
pub struct Threshold {
    /// As in `--threshold ID.NAME=VALUE`.
    pub name: &'static str,
    /// What it is unless it is given.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// What is compared with it, one line.
    pub help: &'static str,
    /// Where the value comes from.
    pub source: &'static str,
}

/// The thresholds of one finding as they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    given: Vec<(&'static str, f64)>,
    causes: Vec<(&'static str, Self)>,
}

impl Limits {
    /// These, and the defaults for the others.
    #[must_use]
    pub const fn new(given: Vec<(&'static str, f64)>) -> Self {
        Self { given, causes: Vec::new() }
    }

    /// The same, and those of the findings that may explain it, by their ids.
    #[must_use]
    pub fn beside(self, causes: Vec<(&'static str, Self)>) -> Self {
        Self { causes, ..self }
    }

    /// Those of a finding that may explain it.
    #[must_use]
    pub fn of_cause(&self, id: &str) -> Self {
        let cause = self.causes.iter().find(|(cause, _)| *cause == id);
        cause.map_or_else(Self::default, |(_, limits)| limits.clone())
    }

    /// Sets one; the last that is given counts.
    pub fn give(&mut self, name: &'static str, value: f64) {
        self.given.push((name, value));
    }

    /// The value of a threshold.
    #[must_use]
    pub fn of(&self, threshold: &Threshold) -> f64 {
        let given = self.given.iter().rev().find(|(name, _)| *name == threshold.name);
        given.map_or(threshold.value, |(_, value)| *value)
    }
}

/// What the rest of netdiag knows of a finding.
#[derive(Debug)]
pub struct Definition {
    /// Its id, as in outputs.
    pub id: &'static str,
    /// What it says, one line.
    pub help: &'static str,
    /// What `--threshold` can set.
    pub thresholds: &'static [&'static Threshold],
    /// Signals without which nothing can be concluded: where one is off the finding is withheld, and so it is where
    /// samples of one were left out to keep the cost down and none was told of, or there are several, which are held
    /// against each other.
    pub needs: &'static [Signal],
    /// Signals each of which shows it in a part of the cases: where some are off it is told of the rest, and
    /// what was not looked at is said.
    pub parts: &'static [Signal],
    /// Parts of what the node says of itself that decide about it: where one could not be read, that is said.
    pub node: &'static [Part],
    /// Signals of which every sample counts: where some were lost or left out the finding is withheld.
    pub exact: &'static [Signal],
    /// Counts that decide about it and whose packets `events` tells one by one.
    pub packets: &'static [Packets],
    /// Findings that explain this one where both concern the same.
    pub causes: &'static [&'static str],
    /// What is found in a window. It returns nothing where samples are too few.
    pub rule: fn(&Watched, &Limits) -> Vec<Finding>,
}

/// Counts of packets.
#[derive(Clone, Copy, Debug)]
pub struct Packets {
    /// One as snapshots name it (`retransmits.rto`), or with a dot at its end all of a group.
    pub counts: &'static str,
    /// One of the group that does not count.
    pub but: Option<&'static str>,
    /// Whether they count at that end of a conversation; none where it is not known which end it is.
    pub at: fn(Option<Role>) -> bool,
}

impl Packets {
    /// That one, or all of that group.
    const fn of(counts: &'static str) -> Self {
        Self { counts, but: None, at: |_| true }
    }

    fn are(&self, name: &str, role: Option<Role>) -> bool {
        let Self { counts, but, at } = *self;
        (counts == name || counts.ends_with('.') && name.starts_with(counts))
            && but != Some(name)
            && at(role)
    }
}

/// All of them, causes before what they cause.
pub const DEFINITIONS: &[&Definition] = &[
    &cpu_starved::DEFINITION,
    &softnet_drop::DEFINITION,
    &interface_errors::DEFINITION,
    &interface_saturated::DEFINITION,
    &qdisc_drop::DEFINITION,
    &mtu_mismatch::DEFINITION,
    &heavy_netfilter::DEFINITION,
    &tcp_memory_pressure::DEFINITION,
    &connection_churn::DEFINITION,
    &time_wait_buildup::DEFINITION,
    &conntrack_full::DEFINITION,
    &conntrack_pressure::DEFINITION,
    &conntrack_insert_failed::DEFINITION,
    &ephemeral_ports_exhausted::DEFINITION,
    &firewall_drop::DEFINITION,
    &close_wait_leak::DEFINITION,
    &fin_wait_buildup::DEFINITION,
    &pmtu_black_hole::DEFINITION,
    &half_open_peer::DEFINITION,
    &bufferbloat::DEFINITION,
    &reordering::DEFINITION,
    &packet_loss::DEFINITION,
    &high_rtt::DEFINITION,
    &local_not_reading::DEFINITION,
    &peer_not_reading::DEFINITION,
    &periodic_latency::DEFINITION,
    &backend_outlier::DEFINITION,
    &slow_local_application::DEFINITION,
    &listen_overflow::DEFINITION,
    &syn_backlog_overflow::DEFINITION,
    &connection_refused::DEFINITION,
    &connection_reset::DEFINITION,
    &dns_failing::DEFINITION,
    &peer_unreachable::DEFINITION,
    &dns_unanswered::DEFINITION,
    &dns_slow::DEFINITION,
    &send_buffer_limited::DEFINITION,
    &slow_peer_application::DEFINITION,
    &window_limited::DEFINITION,
];

/// The finding of that id.
#[must_use]
pub fn definition(id: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.id == id).copied()
}

/// Ids of the findings that a count of that name decides about at that end of a conversation, causes first. That one of
/// its packets is there does not say that there is such a finding: that takes the rule, and a window.
pub fn counted_by(name: &str, at: Option<Role>) -> impl Iterator<Item = &'static str> {
    let counts = move |packets: &Packets| packets.are(name, at);
    let counting = DEFINITIONS.iter().filter(move |it| it.packets.iter().any(counts));
    counting.map(|definition| definition.id)
}

/// Where a definition is concluded from less than it could be, what was not looked at and why.
#[must_use]
pub fn not_looked_at(definition: &Definition, watched: &Watched) -> Option<String> {
    let unread = definition.node.iter().filter_map(|part| watched.unread(*part));
    let unread = unread.map(|one| match one.namespaces {
        None => format!("not looked for where it takes the {}: {}", one.part.words(), one.reason),
        Some(1) => format!("not looked for in a network namespace: {}", one.reason),
        Some(n) => format!("not looked for in {n} network namespaces: {}", one.reason),
    });
    let signals = [signals_off(definition, watched), signals_shed(definition, watched)];
    let all: Vec<String> = signals.into_iter().flatten().chain(unread).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What the signals would tell that are off.
fn signals_off(definition: &Definition, watched: &Watched) -> Option<String> {
    let off = definition.parts.iter().filter(|signal| !watched.sees(signal.name()));
    let off: Vec<String> = off.map(|signal| format!("`{}`", signal.name())).collect();
    let (off, are) = match &off[..] {
        [] => return None,
        [one] => (one.clone(), "the signal is off"),
        [first @ .., last] => (format!("{} and {last}", first.join(", ")), "these signals are off"),
    };
    Some(format!("not looked for in what {off} would tell, as {are}; `netdiag doctor` says why"))
}

/// What to do about samples that were left out.
const TO_SHED_LESS: &str = "raise --max-cpu where it is given, or narrow it by filters";

/// How many samples of a signal were left out; none where none was.
fn shed(signal: Signal, watched: &Watched) -> Option<String> {
    let name = signal.name();
    let shed = Some(watched.left_out(name)).filter(|shed| *shed > 0)?;
    Some(format!("{shed} samples of `{name}` were left out to keep the cost down"))
}

/// That the signals which decide told less than they saw.
fn signals_shed(definition: &Definition, watched: &Watched) -> Option<String> {
    let signals = definition.needs.iter().chain(definition.parts);
    let shed: Vec<_> = signals.filter_map(|signal| shed(*signal, watched)).collect();
    (!shed.is_empty())
        .then(|| format!("concluded from the rest: {}; {TO_SHED_LESS}", shed.join(", ")))
}

/// Why nothing is concluded of what a definition is about; none where something can be.
#[must_use]
pub fn withheld(definition: &Definition, watched: &Watched) -> Option<String> {
    let off = definition.needs.iter().find(|signal| !watched.sees(signal.name()));
    if let Some(signal) = off {
        return Some(format!(
            "needs the signal `{0}`, which is off; `netdiag doctor` says why",
            signal.name()
        ));
    }
    let lost = |signal: &&Signal| watched.lost.get(signal.name()).is_some_and(|lost| *lost > 0);
    if let Some(signal) = definition.exact.iter().find(lost) {
        let (name, lost) = (signal.name(), watched.lost[signal.name()]);
        let no_room = watched.no_room.get(name).copied().unwrap_or(0);
        let room = "for want of room to remember them";
        let (of_these, raise) = match no_room {
            0 => (String::new(), "--ring-size"),
            all if all >= lost => (format!(", {room}"), "--max-flows"),
            n => (format!(", {n} {room}"), "--ring-size and --max-flows"),
        };
        return Some(format!(
            "{lost} samples of `{name}` were lost or missed{of_these}, which could make it untrue; raise {raise} or \
             narrow it by filters"
        ));
    }
    // What one of several does not tell would be charged to another.
    let are_several = definition.needs.len() > 1;
    let is_silent = |signal: &Signal| watched.told.get(signal.name()).is_none_or(|told| *told == 0);
    let needs = definition.needs.iter().filter(|&signal| are_several || is_silent(signal));
    let reason = definition.exact.iter().chain(needs).find_map(|signal| shed(*signal, watched))?;
    Some(format!("{reason}, without which nothing can be said; {TO_SHED_LESS}"))
}
