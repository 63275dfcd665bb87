//! Programs that are gone from their hooks: the last of what they told, and their counts.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use aya::programs::ProgramFd;
use netdiag_common::signal::Signal;

use super::{
    Taken, Tracer,
    skips::{Counted, skipped},
};
use crate::{
    coverage::{Account, Status},
    kernel::account::{Phase, accounts},
    signal::DEFINITIONS,
};

/// A tracer whose programs are gone from their hooks.
pub struct Detached {
    tracer: Tracer,
    programs: Result<Vec<Counted<ProgramFd>>>,
}

impl Detached {
    /// `programs` are those that were taken out.
    pub(super) fn new(tracer: Tracer, programs: Result<Vec<Counted<ProgramFd>>>) -> Self {
        Self { tracer, programs }
    }

    /// See [`Tracer::take`].
    pub fn take(&mut self, into: &mut Taken) -> bool {
        self.tracer.take(into)
    }

    /// See [`Tracer::untold`].
    pub fn untold(&self, signal: Signal) -> u64 {
        self.tracer.untold(signal)
    }

    /// See [`Tracer::flush`].
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn flush(&mut self) -> Result<bool> {
        self.tracer.flush()
    }

    /// See [`Tracer::accounting`]; nothing is pending any more.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn accounting(&mut self) -> Result<BTreeMap<String, Account>> {
        let Self { tracer, programs } = self;
        let reading = tracer.counting.read()?;
        let phase = Phase::Detached { batched: tracer.counting.batched(&reading)?.sends };
        let skipped = match programs {
            Ok(programs) => skipped(programs.iter().map(|counted| Ok(counted.borrowed()))),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        let mut accounts = accounts(&reading, &tracer.skips.known(skipped), phase);
        if tracer.skips.are_unread() {
            // Nothing tells how many, and whoever asks whether all was seen is not to be told so.
            let is_on = |signal: Signal| tracer.signals[signal as usize].status != Status::Off;
            for (name, account) in &mut accounts {
                if DEFINITIONS.iter().any(|it| it.signal.name() == *name && is_on(it.signal)) {
                    account.missed = account.missed.max(1);
                }
            }
        }
        Ok(tracer.with_heard(accounts))
    }

    /// What there is to say since the programs were last followed, once: what came up as they went would be said by
    /// nobody else.
    pub fn problems(&mut self) -> Vec<String> {
        self.tracer.problems()
    }
}
