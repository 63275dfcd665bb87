//! Where snapshots go: the screen or a stream, and for `record` the files as well.
//!
//! All of it may stand still for as long as it likes: nothing here runs on the thread that reads
//! the rings.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use netdiag_common::globals::Filters;
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use super::{
    diagnose::Diagnosing,
    screen::{self, Showing},
    voice::say,
};
use crate::{
    cli::Output,
    config::{self, Owners},
    finding::Severity,
    flow::Interval,
    labels::Labels,
    node::{mounts, vantage},
    snapshot::{Snapshot, build::Lazily},
    view::{self, dump::Recorder, table::COLUMNS},
};

/// Bytes handed to standard output at a time: so it is seen whether a long line moves.
const PIECE: usize = 64 << 10;

/// How far the work at the outputs has come, for those who wait for it: a number that rises.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Something was done.
    pub(super) fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Steps so far.
    pub(super) fn steps(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is wanted of the snapshots of a run.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// To be shown.
    Show,
    /// To be shown on a full screen.
    Screen(screen::Wanted),
    /// To be kept.
    Record(config::Dump),
    /// To conclude from.
    Diagnose(config::Diagnose),
}

/// What becomes of them.
enum Purpose {
    Show,
    Screen(Box<Showing>),
    Record(Box<Recorder>),
    Diagnose(Box<Diagnosing>),
}

/// Everything that leaves the process.
pub(super) struct Outputs {
    form: Output,
    purpose: Purpose,
    progress: Progress,
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// Nothing was lost or missed.
    pub(super) complete: bool,
    /// The worst finding, where any was looked for and found.
    pub(super) worst: Option<Severity>,
}

impl Outputs {
    /// Opens the files, if there shall be any.
    pub(super) fn open(
        form: Output,
        wanted: &Wanted,
        node: &str,
        filters: &Filters,
        owners: Owners,
    ) -> Result<Self> {
        let progress = Progress::default();
        let purpose = match wanted {
            Wanted::Show => Purpose::Show,
            Wanted::Screen(screen) => {
                let showing = Showing::start(screen, node, *filters, owners, progress.clone())?;
                Purpose::Screen(Box::new(showing))
            }
            Wanted::Record(dump) => {
                let (recorder, said) = Recorder::open(dump, node)?;
                said.iter().for_each(|line| say(line));
                Purpose::Record(Box::new(recorder))
            }
            Wanted::Diagnose(diagnose) => {
                let diagnosing = Diagnosing::new(&diagnose.thresholds, form, *filters, owners);
                Purpose::Diagnose(Box::new(diagnosing))
            }
        };
        Ok(Self { form, purpose, progress })
    }

    /// How far it has come.
    pub(super) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Puts out one interval: into the files first, which are what a recording is for.
    pub(super) fn interval(
        &mut self,
        snapshot: Snapshot,
        interval: Interval,
        labels: &Labels,
    ) -> Result<()> {
        match &mut self.purpose {
            Purpose::Show => self.show(&snapshot),
            Purpose::Screen(showing) => showing.take(snapshot, interval.whole(), labels),
            Purpose::Record(recorder) => {
                if let Some(line) = recorder.write(&snapshot, &interval) {
                    say(&line);
                }
                self.progress.step();
                // On a terminal nobody wants a table beside the files.
                if self.form == Output::Json { self.show(&snapshot) } else { Ok(()) }
            }
            Purpose::Diagnose(diagnosing) => {
                diagnosing.take(&snapshot);
                self.progress.step();
                Ok(())
            }
        }
    }

    /// Puts out the whole run, and ends the files.
    pub(super) fn total(mut self, snapshot: &Snapshot) -> Result<Ended> {
        let complete = snapshot.complete;
        let closed = match std::mem::replace(&mut self.purpose, Purpose::Show) {
            Purpose::Diagnose(diagnosing) => {
                let worst = diagnosing.end(snapshot, &mut self.stdout()).context(STDOUT)?;
                return Ok(Ended { complete, worst });
            }
            Purpose::Record(recorder) => recorder.close(),
            Purpose::Screen(showing) => {
                // The screen is gone; what became of the samples is told below it.
                showing.end()?;
                view::table::accounting(snapshot, COLUMNS, &mut self.stdout()).context(STDOUT)?;
                return Ok(Ended { complete, worst: None });
            }
            Purpose::Show => Ok(None),
        };
        // What is missing from the files is said, even where nobody reads the rest.
        if let Ok(line) = &closed {
            line.iter().for_each(|line| say(line));
        }
        let shown = self.show(snapshot).and_then(|()| match self.form {
            Output::Text => {
                view::table::accounting(snapshot, COLUMNS, &mut self.stdout()).context(STDOUT)
            }
            Output::Json => Ok(()),
        });
        closed.and(shown).map(|()| Ended { complete, worst: None })
    }

    /// Whether a snapshot is written as it is made, and nothing else becomes of it.
    pub(super) const fn streams(&self) -> bool {
        matches!(self.purpose, Purpose::Show) && matches!(self.form, Output::Json)
    }

    /// Writes a snapshot as it is made.
    pub(super) fn stream(&self, snapshot: &Snapshot<Lazily<'_>>) -> Result<()> {
        view::json::stream(snapshot, &mut self.stdout()).context(STDOUT)
    }

    /// Whether the form is text.
    pub(super) fn is_for_people(&self) -> bool {
        self.form == Output::Text
    }

    fn show(&self, snapshot: &Snapshot) -> Result<()> {
        let out = &mut self.stdout();
        match self.form {
            Output::Text => view::table::table(snapshot, COLUMNS, out),
            Output::Json => view::json::line(snapshot, out),
        }
        .context(STDOUT)
    }

    fn stdout(&self) -> Pieces<'_, io::StdoutLock<'static>> {
        Pieces { to: io::stdout().lock(), progress: &self.progress }
    }
}

/// A warning where the files of a recording end with the container that writes them.
pub(super) fn ends_with_container(directory: &Path, host_root: &Path) -> Option<String> {
    if !vantage::in_container(host_root) {
        return None;
    }
    let mountinfo = fs::read("/proc/self/mountinfo").ok()?;
    let reason = mounts::short_lived(&mountinfo, &fs::canonicalize(directory).ok()?)?;
    Some(format!(
        "--out {}: the files are gone with this container, for {reason}; give a directory of the node: \
         a hostPath volume, or one below {}",
        directory.display(),
        vantage::USUAL
    ))
}

/// What is said of standard output when it cannot be written to.
pub(super) const STDOUT: &str =
    "nothing can be written to standard output any more, so the run ends";

/// What is said when the thread is gone that writes.
pub(super) const BROKE_DOWN: &str = "the thread that writes the output broke down, so the run ends without \
                                     what it had not written; report it with the lines above";

/// Whether somebody may still read standard output: a pipe whose reader is gone tells before anything is
/// written to it.
///
/// # Errors
/// Nobody does.
pub(super) fn check_reader() -> io::Result<()> {
    let stdout = io::stdout();
    let mut looked = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // When it cannot be told, writing tells.
    let _told = poll(&mut looked, Some(&at_once));
    let gone = looked[0].revents().contains(PollFlags::ERR);
    if gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

/// A writer that takes a piece at a time and tells of each.
pub(super) struct Pieces<'a, W> {
    pub(super) to: W,
    pub(super) progress: &'a Progress,
}

impl<W: Write> Write for Pieces<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(&bytes[..bytes.len().min(PIECE)])?;
        self.progress.step();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_written_whole_and_told_by_the_piece() {
        let (line, progress) = (vec![b'x'; 3 * PIECE + 1], Progress::default());
        let mut written = Vec::new();
        Pieces { to: &mut written, progress: &progress }.write_all(&line).expect("memory");
        assert_eq!(written, line);
        assert_eq!(progress.steps(), 4);
    }
}
