//! `record`: the histograms of every interval in files that the HdrHistogram readers understand.
//!
//! A pair of files per run and rotation: `netdiag-NODE-TIME.hlog`, an HdrHistogram interval log of
//! version 1.3, and the same name with `.jsonl`, one snapshot per interval ([`Sidecar`]). See [`Name`] for
//! several pairs of a second.
//!
//! An interval is *complete* when its line in the sidecar is. The order of writing is: all lines
//! of the log in one write, closed by a comment `#[Complete: N]`; then the line of the sidecar in
//! one write; each is on disk before the next begins. So a tear leaves at most one interval too
//! many, and [`recover`] cuts both files back to the intervals that both hold.
//!
//! A disk that is full or fails, and a directory that is gone, end no run: nothing is written until it goes again. What
//! is missing then is said, and noted in the log.

use std::{collections::BTreeMap, io, path::Path};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{config, exit, format, snapshot::Snapshot};

pub mod block;
mod directory;
mod interval;
mod left;
mod name;
mod pair;
pub mod recover;

use block::Encoder;
use directory::Directory;
pub(crate) use directory::{Room, create_new};
pub(crate) use left::remove_left;
pub use name::Name;
use pair::Pair;

/// A line of the `.jsonl` file: the snapshot of an interval, and which tags of the log are whose.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Sidecar<'a> {
    /// The interval.
    #[serde(flatten)]
    pub snapshot: &'a Snapshot,
    /// Flow id by tag: the log's `f12.send` belongs to the flow that `f12` names here.
    pub tags: BTreeMap<String, String>,
}

/// Takes a histogram: id of its flow (`None` for the node's), name of its metric.
pub type Take<'a> = dyn FnMut(Option<&str>, &str, &Histogram<u64>) -> io::Result<()> + 'a;

/// Where the histograms of an interval come from.
pub trait Histograms {
    /// Hands over every histogram of the interval, once: first the node's, metric by metric, then
    /// those of each flow by its id, `other` for the flows not listed.
    ///
    /// # Errors
    /// The first error of `take`, at once.
    fn each(&self, take: &mut Take<'_>) -> io::Result<()>;
}

/// Nothing is written at present.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pause {
    since: String,
    intervals: u64,
    /// There is no room; else something failed.
    full: bool,
}

/// Intervals that are in no file since something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Failures {
    intervals: u64,
    first: String,
}

impl Failures {
    fn count(&mut self, error: &io::Error) {
        if self.intervals == 0 {
            self.first = error.to_string();
        }
        self.intervals += 1;
    }
}

/// Writes the intervals of a run.
///
/// [`Recorder::write`] waits for the disk, so it belongs on a thread of its own.
#[derive(Debug)]
pub struct Recorder {
    directory: Directory,
    room: Room,
    settings: config::Dump,
    pair: Option<Pair>,
    pause: Option<Pause>,
    failures: Failures,
    /// The directory may be another one by now.
    look_again: bool,
    /// It is, and that was not said.
    moved: bool,
    encoder: Encoder,
}

impl Recorder {
    /// Opens the directory, makes it (mode 0700) where it is missing, cuts what an earlier run
    /// left torn, and returns what there is to be said about that, a line each.
    ///
    /// # Errors
    /// [`exit::Status::Usage`] when the directory cannot be used.
    pub fn open(settings: &config::Dump, node: &str) -> Result<(Self, Vec<String>), exit::Error> {
        Self::with_room(settings, node, Room::default())
    }

    fn with_room(
        settings: &config::Dump,
        node: &str,
        room: Room,
    ) -> Result<(Self, Vec<String>), exit::Error> {
        let directory = Directory::open(&settings.out, node).map_err(|error| {
            exit::Error::usage(format!(
                "--out {}: {error}; nothing was started, choose a directory that this user may \
                 write to",
                settings.out.display()
            ))
        })?;
        let said = recover::all(&directory);
        let settings = settings.clone();
        let recorder = Self {
            directory,
            room,
            settings,
            pair: None,
            pause: None,
            failures: Failures::default(),
            look_again: false,
            moved: false,
            encoder: Encoder::default(),
        };
        Ok((recorder, said))
    }

    /// Writes an interval, or leaves it out while that cannot be done, and returns what there is
    /// to be said: once when it stops writing, once when it goes on, and once when it goes on elsewhere.
    pub fn write(&mut self, snapshot: &Snapshot, histograms: &impl Histograms) -> Option<String> {
        let mut written = self.try_write(snapshot, histograms);
        if written.as_ref().is_err_and(|error| !is_full(error)) {
            // The directory may have been replaced, and a disk that failed once may do now.
            self.begin_again();
            written = self.try_write(snapshot, histograms);
        }
        match written {
            Ok(()) => {
                let moved = self.moved();
                self.resumed(snapshot).or(moved)
            }
            Err(error) => {
                let full = is_full(&error);
                if !full {
                    self.begin_again();
                    self.failures.count(&error);
                }
                self.paused(snapshot, &error, full)
            }
        }
    }

    /// Ends the files, and returns what there is to be said of intervals that are missing at their end.
    ///
    /// # Errors
    /// Input and output, now or earlier; a full disk is none.
    pub fn close(mut self) -> anyhow::Result<Option<String>> {
        let ended = self.end_pair();
        let out = self.settings.out.display();
        let said = self.pause.map(|Pause { since, intervals, .. }| {
            let intervals = format::count(intervals);
            format!(
                "{out}: {intervals} intervals from {since} to the end are missing from the files"
            )
        });
        let Failures { intervals, first } = self.failures;
        if intervals > 0 {
            let missing = said.map(|said| format!("; {said}")).unwrap_or_default();
            anyhow::bail!(
                "{out}: {} intervals are in no file, the first for this: {first}; see the kernel's log and \
                 `df {out}`{missing}",
                format::count(intervals)
            );
        }
        ended.with_context(|| {
            format!(
                "{out}: the files hold every interval but could not be ended; the next `netdiag record` \
                 there does that"
            )
        })?;
        Ok(said)
    }

    /// The log that is being written, for messages.
    #[must_use]
    pub fn current(&self) -> Option<&Path> {
        self.pair.as_ref().map(Pair::path)
    }

    fn try_write(&mut self, snapshot: &Snapshot, histograms: &impl Histograms) -> io::Result<()> {
        let start = timestamp(&snapshot.start)?;
        let end = timestamp(&snapshot.end)?;
        if !self.directory.is_current() {
            // Those that were written there are whole.
            drop(self.end_pair());
            (self.look_again, self.moved) = (true, true);
        }
        if self.look_again {
            self.directory = Directory::open(&self.settings.out, self.directory.node())?;
            self.look_again = false;
        }
        if let Some(reason) = self.room.lacking(&self.directory)? {
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        if self.pair.as_ref().is_some_and(|pair| self.must_rotate(pair, start)) {
            self.end_pair()?;
        }
        let pair = match self.pair.take() {
            Some(pair) => pair,
            None => Pair::create(&self.directory, start)?,
        };
        let pair = self.pair.insert(pair);
        let gap = self.pause.as_ref().map(|pause| (pause.since.as_str(), pause.intervals));
        let number = pair.intervals() + 1;
        let span = block::Span { file: pair.start(), start, end };
        let block = self.encoder.encode(snapshot, histograms, span, number, gap)?;
        self.directory.make_room(self.settings.max_disk, block.len(), pair.name())?;
        pair.append(&block)
    }

    /// Whether an interval that begins at `start` belongs into a new pair. It also does when the
    /// clock was set back: starts in a log are relative to its first one, and never negative.
    fn must_rotate(&self, pair: &Pair, start: Timestamp) -> bool {
        let age = start.duration_since(pair.start());
        pair.bytes() + pair.last_interval_bytes() > self.settings.rotate_size
            || age.is_negative()
            || age.unsigned_abs() >= self.settings.rotate_every
            || pair.is_unlinked()
    }

    fn end_pair(&mut self) -> io::Result<()> {
        let Some(pair) = self.pair.take() else { return Ok(()) };
        if pair.intervals() == 0 {
            pair.remove(&self.directory);
            return Ok(());
        }
        match pair.end() {
            Err(error) if is_full(&error) => Ok(()),
            ended => ended,
        }
    }

    /// What has failed may be half done, so nothing is written behind it.
    fn begin_again(&mut self) {
        self.look_again = true;
        if let Some(pair) = self.pair.take().filter(|pair| pair.intervals() == 0) {
            pair.remove(&self.directory);
        }
    }

    fn paused(&mut self, snapshot: &Snapshot, error: &io::Error, full: bool) -> Option<String> {
        let first = self.pause.is_none();
        let since = || snapshot.start.clone();
        let pause = self.pause.get_or_insert_with(|| Pause { since: since(), intervals: 0, full });
        pause.intervals += 1;
        let until = if full { "there is room again" } else { "that can be done again" };
        first.then(|| {
            format!(
                "{}: {error}; tracing goes on, nothing is written until {until}",
                self.settings.out.display()
            )
        })
    }

    fn moved(&mut self) -> Option<String> {
        std::mem::take(&mut self.moved).then(|| {
            format!(
                "{}: it is another directory by now; what was recorded before is not in it, and recording goes on \
                 in a new pair",
                self.settings.out.display()
            )
        })
    }

    fn resumed(&mut self, snapshot: &Snapshot) -> Option<String> {
        let Pause { since, intervals, full } = self.pause.take()?;
        Some(format!(
            "{}: {}; {} intervals from {since} to {} are missing from the files",
            self.settings.out.display(),
            if full { "there is room again" } else { "it can be written to again" },
            format::count(intervals),
            snapshot.start
        ))
    }
}

fn timestamp(text: &str) -> io::Result<Timestamp> {
    text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether the error means that there is no room: of the disk, of the quota, or of a file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests;
