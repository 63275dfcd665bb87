//! A life of the netdiag that is watched: from its start until it is asked to end, or killed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netdiag::snapshot::{Account, Snapshot};
use rustix::process::Signal;
use serde_json::Value;

use super::trend::Reading;
use crate::{facts::Facts, netdiag::Netdiag, outcome::Outcome, recording, usage};

/// What may lie in its directory, and in a file: so much that files are removed to make room for others.
const DISK: [&str; 4] = ["--max-disk", "64MiB", "--rotate-size", "4MiB"];

/// What it remembers: so little that all of it is taken soon, and does not look like growth.
const ROOM: [&str; 6] = ["--ring-size", "1MiB", "--max-flows", "1000", "--top", "100"];

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By a signal that it hears.
    Asked(Signal),
    /// By one that it does not.
    Killed,
}

/// One that lives.
#[derive(Debug)]
pub(super) struct Life {
    netdiag: Netdiag,
    began: Instant,
    lived: Lived,
}

/// What is known of one that is over, and of one that lives so far.
#[derive(Debug, Default)]
pub(super) struct Lived {
    pub(super) time: Duration,
    /// Bytes that were resident.
    pub(super) resident: Vec<Reading>,
    pub(super) descriptors: Vec<usize>,
    /// Intervals that it told.
    pub(super) told: u64,
    /// Intervals in its files.
    pub(super) written: u64,
    /// Its disk was full at times.
    pub(super) was_full: bool,
    /// Fates of its samples, as it told them last.
    pub(super) accounting: BTreeMap<String, Account>,
    /// Intervals that it said were in no file.
    pub(super) missing: u64,
    course: Course,
}

impl Life {
    /// Begins one that records into a directory and serves metrics.
    ///
    /// # Errors
    /// When it ends or stays silent instead.
    pub(super) fn start(out: &Path, interval: &str) -> Result<Self> {
        let out = out.display().to_string();
        let arguments = ["record", "-o", "json", "-i", interval, "--listen", ":0", "--out", &out];
        let netdiag = Netdiag::start(&[&arguments[..], &DISK, &ROOM].concat())?;
        Ok(Self { netdiag, began: Instant::now(), lived: Lived::default() })
    }

    pub(super) const fn netdiag(&self) -> &Netdiag {
        &self.netdiag
    }

    /// Where it serves metrics.
    pub(super) fn metrics_at(&self) -> Result<SocketAddr> {
        self.netdiag.metrics_at()
    }

    /// Intervals that it told so far.
    pub(super) const fn told(&self) -> u64 {
        self.lived.told
    }

    /// Its files have so many intervals more.
    pub(super) const fn wrote(&mut self, intervals: u64) {
        self.lived.written += intervals;
    }

    /// Its disk is full.
    pub(super) const fn has_no_room(&mut self) {
        self.lived.was_full = true;
    }

    /// Judges what it has told since the last time, and looks at what it holds.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn look(&mut self, facts: &mut Facts) -> Result<()> {
        let lines = self.netdiag.take_printed();
        self.lived.judge(&Outcome::parse(None, &lines, &[])?.snapshots, facts);
        let pid = self.netdiag.pid();
        let held = usage::memory(pid).and_then(|memory| Ok((memory, usage::descriptors(pid)?)));
        let (memory, descriptors) = held.context("netdiag has ended by itself")?;
        self.lived.time = self.began.elapsed();
        self.lived.resident.push((self.lived.time.as_secs_f64(), memory.resident_bytes as f64));
        self.lived.descriptors.push(descriptors);
        Ok(())
    }

    /// Ends it, and judges the rest of what it tells.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn end(mut self, how: End, facts: &mut Facts) -> Result<Lived> {
        self.look(facts)?;
        let Self { netdiag, mut lived, .. } = self;
        match how {
            End::Asked(signal) => {
                netdiag.signal(signal)?;
                let outcome = netdiag.wait()?;
                lived.judge(&outcome.snapshots, facts);
                let (total, code, mut found) = (outcome.total()?, outcome.code(), Facts::new());
                lived.accounting.clone_from(&total.accounting);
                lived.missing = recording::missing(&outcome.stderr) as u64;
                found.at_rest(total);
                found.equal(format_args!("status; {:?}", outcome.stderr), code, Some(0));
                facts.adopt(format_args!("asked to end by {signal:?}"), found);
            }
            End::Killed => {
                netdiag.signal(Signal::KILL)?;
                let (_, mut lines, said) = netdiag.wait_text()?;
                // The last one may be torn.
                lines.pop_if(|last| serde_json::from_str::<Value>(last).is_err());
                lived.judge(&Outcome::parse(None, &lines, &[])?.snapshots, facts);
                lived.missing = recording::missing(&said) as u64;
            }
        }
        Ok(lived)
    }
}

impl Lived {
    fn judge(&mut self, intervals: &[Snapshot], facts: &mut Facts) {
        for snapshot in intervals {
            self.told += 1;
            self.course.judge(self.told, snapshot, facts);
            self.accounting.clone_from(&snapshot.accounting);
        }
    }

    /// That its files have what it told, but for what it said was missing. Of one that was killed they may have one
    /// more, and nobody knows of what it would have said at its end.
    pub(super) fn is_written(&self, was_asked: bool, facts: &mut Facts) {
        let Self { told, written, missing, was_full, .. } = *self;
        let what =
            format!("{told} intervals told, {written} written, {missing} said to be missing");
        if was_asked {
            facts.equal(what, written + missing, told);
        } else {
            facts.holds(&what, written + missing <= told + 1);
            facts.holds(&what, was_full || written + missing >= told);
        }
    }
}

/// What the interval before said, which the next one goes on from.
#[derive(Debug, Default)]
struct Course {
    end: Option<String>,
    accounting: BTreeMap<String, Account>,
    received: u64,
}

impl Course {
    fn judge(&mut self, nth: u64, snapshot: &Snapshot, facts: &mut Facts) {
        let mut found = Facts::new();
        found.consistent(snapshot);
        if let Some(end) = &self.end {
            found.equal("where it begins", &snapshot.start, end);
        }
        for (signal, before) in &self.accounting {
            let now = snapshot.accounting.get(signal).copied().unwrap_or_default();
            let rises = |of: fn(&Account) -> u64| of(&now) >= of(before);
            found.holds(
                format_args!("{signal}: what was {before:?} is no less: {now:?}"),
                rises(|it| it.submitted) && rises(|it| it.filtered) && rises(|it| it.ring_full),
            );
        }
        let received = snapshot.stream.received;
        found.holds(
            format_args!("{} samples were received, then {received}", self.received),
            received >= self.received,
        );
        facts.adopt(format_args!("interval {nth}, {}", snapshot.start), found);
        self.end = Some(snapshot.end.clone());
        self.accounting.clone_from(&snapshot.accounting);
        self.received = received;
    }
}
