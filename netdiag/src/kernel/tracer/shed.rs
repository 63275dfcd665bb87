//! What keeping the cost down takes of attached programs: what they saw, what they take, and leaving samples out.

use anyhow::{Context as _, Result};
use netdiag_common::{globals::Live, signal::Signal};

use super::{
    Tracer,
    skips::{counted, skipped},
};
use crate::kernel::{
    attach::Attached,
    cost::{Measured, Meter},
};

impl Tracer {
    /// How many samples of each signal were seen so far, and how many of these signals found no room in the ring.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn seen_and_lost(&self, of: &[Signal]) -> Result<([u64; Signal::COUNT], u64)> {
        self.counting.seen_and_lost(of)
    }

    /// Has the programs leave out and count the samples of a set of signals, see [`Live::shed`].
    ///
    /// # Errors
    /// They cannot be told.
    pub fn shed(&mut self, signals: u32) -> Result<()> {
        // What was skipped up to now is of those that were left out up to now.
        self.skips.known(skipped(counted(&self.ebpf, &self.attached)));
        let live = Live { shed: signals, ..self.begun };
        self.live
            .set(0, live.words(), 0)
            .context("the programs cannot be told what to leave out")?;
        self.skips.shed(signals);
        Ok(())
    }

    /// Whether samples fill more than half of their ring.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.samples.is_half_full()
    }

    /// Measures the programs that are attached by now, each once: those that several signals share, as one of the first
    /// of these.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn meter(&self) -> Result<Meter> {
        let mut programs = Vec::new();
        for (nth, Attached { signal, program: name, .. }) in self.attached.iter().enumerate() {
            let Some(program) = self.ebpf.program(name) else { continue };
            if self.attached[..nth].iter().any(|before| before.program == *name) {
                continue;
            }
            let fd = program.fd()?.try_clone().context("no descriptor to measure a program by")?;
            programs.push(Measured { signal: *signal, name: name.clone(), fd });
        }
        Ok(Meter { programs })
    }
}
