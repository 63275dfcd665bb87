//! How much of what happened netdiag sees: which source each signal has, and what became of each
//! sample. Told by the kernel side, carried by every snapshot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Fates of the samples of one signal since the start; `seen = filtered +
/// submitted + ring_full + map_full + read_failed + rate_limited + shed + unmatched + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// Samples that a hook saw.
    pub seen: u64,
    /// Rejected by a filter.
    pub filtered: u64,
    /// Handed to the ring buffer.
    pub submitted: u64,
    /// Lost for want of room in the ring buffer.
    pub ring_full: u64,
    /// Lost for want of room in a map, or in the kernel for another kretprobe under way.
    pub map_full: u64,
    /// Lost because kernel memory could not be read.
    pub read_failed: u64,
    /// Left out by a rate limit.
    pub rate_limited: u64,
    /// Left out to keep the cost down.
    pub shed: u64,
    /// An end without a beginning, a beginning that another one overwrote, or one whose end had not
    /// come when the run ended.
    pub unmatched: u64,
    /// Begun and not yet ended, or batched and not yet flushed; 0 at the end of a run.
    pub pending: u64,
    /// Samples whose beginning, end or both the kernel skipped; outside `seen`. An upper bound where
    /// filters are set or samples were under way at the attach. Also what never left a batch, and 1 for
    /// each overrun of ctnetlink, however many messages that cost, or message of it that made no sense.
    pub missed: u64,
}

impl Account {
    /// Samples that are gone for good although they belonged in the answer.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.ring_full + self.map_full + self.read_failed + self.missed
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, more: &Self) -> Self {
        Self {
            seen: self.seen + more.seen,
            filtered: self.filtered + more.filtered,
            submitted: self.submitted + more.submitted,
            ring_full: self.ring_full + more.ring_full,
            map_full: self.map_full + more.map_full,
            read_failed: self.read_failed + more.read_failed,
            rate_limited: self.rate_limited + more.rate_limited,
            shed: self.shed + more.shed,
            unmatched: self.unmatched + more.unmatched,
            pending: self.pending + more.pending,
            missed: self.missed + more.missed,
        }
    }

    /// Whether every seen sample is accounted for.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.seen
            == self.filtered
                + self.submitted
                + self.ring_full
                + self.map_full
                + self.read_failed
                + self.rate_limited
                + self.shed
                + self.unmatched
                + self.pending
    }
}

/// What userspace got out of the rings, in samples: at rest the sum of `submitted` = `received` =
/// `decoded + malformed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stream {
    /// Samples read from the rings.
    pub received: u64,
    /// Samples turned into events.
    pub decoded: u64,
    /// Samples in records that were refused.
    pub malformed: u64,
}

/// How much of a signal this kernel gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything.
    Full,
    /// Something is missing, see `missing`.
    Degraded,
    /// Nothing.
    Off,
}

/// A source that was tried and did not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// Its name.
    pub source: String,
    /// Why, in one line.
    pub reason: String,
}

/// How one signal is observed on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignalStatus {
    /// The signal.
    pub signal: String,
    /// How much of it there is.
    pub status: Status,
    /// The source in use, null when off.
    pub source: Option<String>,
    /// Sources before it in preference that did not work.
    pub refused: Vec<Refusal>,
    /// What cannot be seen, one line each.
    pub missing: Vec<String>,
    /// Once per what the dearest of its programs runs, the cheapest first: loss, connection, call, segment,
    /// packet, system call, each of which takes longer then. Told by `doctor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_per: Option<String>,
    /// Counts that cannot be seen: null in every flow.
    #[serde(skip)]
    pub unseen_counts: Vec<&'static str>,
    /// Whether samples of it were left out to keep the cost down in the time that is told of: what counted none of the
    /// others is unknown then.
    #[serde(skip)]
    pub shed: bool,
}

impl SignalStatus {
    /// A part of it cannot be seen.
    pub fn lacks(&mut self, what: String) {
        if self.status == Status::Full {
            self.status = Status::Degraded;
        }
        self.missing.push(what);
    }
}
