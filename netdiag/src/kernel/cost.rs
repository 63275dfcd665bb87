//! What the attached programs take, by the kernel's own statistics of them (`BPF_ENABLE_STATS`, 5.8).
//!
//! While they are on, each run of every program of the node reads the clock twice more, so they are on for short
//! windows only.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    programs::ProgramFd,
    sys::{Stats, enable_stats},
};
use netdiag_common::signal::Signal;

use super::missed::Runs;
use crate::clock::monotonic_ns;

/// A program whose runs are measured.
pub(super) struct Measured {
    pub(super) signal: Signal,
    pub(super) name: String,
    pub(super) fd: ProgramFd,
}

/// Measures programs; keeps them in the kernel as long as it is there, but not in their hooks.
pub struct Meter {
    pub(super) programs: Vec<Measured>,
}

/// A window that was begun. The statistics are off again when it is dropped.
pub struct Window {
    _statistics: OwnedFd,
    began_ns: u64,
    before: Vec<Runs>,
}

/// What a window found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How long it was, in nanoseconds.
    pub window_ns: u64,
    /// The programs that ran in it.
    pub programs: Vec<Program>,
}

/// What one program took in windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The signal that it is of.
    pub signal: Signal,
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds that those runs took, in whoever's context, without calling it.
    pub time_ns: u64,
}

impl Meter {
    /// Begins a window.
    ///
    /// # Errors
    /// The kernel has no such statistics, or gives them only to those with more privileges.
    pub fn begin(&self) -> io::Result<Window> {
        let statistics = enable_stats(Stats::RunTime).map_err(|error| error.io_error)?;
        let before = self.read()?;
        Ok(Window { _statistics: statistics, began_ns: monotonic_ns(), before })
    }

    /// Ends a window of this meter.
    ///
    /// # Errors
    /// The kernel does not let itself be asked.
    pub fn end(&self, window: Window) -> io::Result<Taken> {
        let window_ns = monotonic_ns().saturating_sub(window.began_ns);
        let after = self.read()?;
        let grown = |after: Option<u64>, before: Option<u64>| {
            after.unwrap_or(0).saturating_sub(before.unwrap_or(0))
        };
        let programs = self.programs.iter().zip(after).zip(window.before);
        let programs = programs.map(|((program, after), before)| Program {
            signal: program.signal,
            name: program.name.clone(),
            runs: grown(after.run_count, before.run_count),
            time_ns: grown(after.run_time_ns, before.run_time_ns),
        });
        Ok(Taken { window_ns, programs: programs.filter(|program| program.runs > 0).collect() })
    }

    fn read(&self) -> io::Result<Vec<Runs>> {
        self.programs.iter().map(|program| Runs::of(program.fd.as_fd())).collect()
    }
}
