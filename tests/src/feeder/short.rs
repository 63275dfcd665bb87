//! Flows that come and go together, in rounds: far more of them than are there at a time.

use anyhow::{Context as _, Result};

use super::{Feeder, What};
use crate::usage::{self, Memory};

/// Those that come and go together.
pub const AT_ONCE: u64 = 1_000;
/// Send calls of each.
pub const EACH: u64 = 8;
/// The most that memory may be at the end of what it was after a tenth of them.
pub const GROWTH: f64 = 1.3;

/// What was fed.
#[derive(Clone, Debug, Default)]
pub struct Short {
    /// Flows that came and went: whole rounds.
    pub flows: u64,
    /// Send calls that found room.
    pub sends: u64,
    /// Samples that did not.
    pub lost: u64,
    /// Memory of who reads it after each round.
    pub memory: Vec<Memory>,
}

impl Feeder {
    /// Feeds so many flows, or as few more as make the last round whole, to the netdiag with that process id.
    ///
    /// # Errors
    /// The kernel refuses or does not run a program, or netdiag is gone.
    pub fn come_and_go(&self, flows: u64, pid: u32) -> Result<Short> {
        let mut short = Short::default();
        while short.flows < flows {
            for (what, each) in [(What::Opened, 1), (What::Sends, EACH), (What::Closed, 1)] {
                let samples = each * AT_ONCE;
                let found_room = self.feed(what, short.flows + 1, AT_ONCE)?.slowly(samples)?;
                short.lost += samples - found_room;
                short.sends += if what == What::Sends { found_room } else { 0 };
            }
            short.flows += AT_ONCE;
            short.memory.push(usage::memory(pid)?);
        }
        Ok(short)
    }
}

impl Short {
    /// The most memory ever by the end, of what it was after a tenth of the rounds.
    ///
    /// # Errors
    /// There were no flows.
    pub fn growth(&self, end: Memory) -> Result<f64> {
        let tenth = self.memory.len().div_ceil(10).checked_sub(1);
        let early = tenth.and_then(|at| self.memory.get(at)).context("there were no flows")?;
        Ok(end.peak_bytes as f64 / early.peak_bytes as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_since_a_tenth() {
        let memory = |peak_bytes| Memory { resident_bytes: 0, peak_bytes };
        let of =
            |rounds: u64| Short { memory: (1..=rounds).map(memory).collect(), ..Short::default() };
        assert_eq!(of(100).growth(memory(30)).expect("rounds"), 3.0);
        assert_eq!(of(5).growth(memory(2)).expect("a round"), 2.0);
        assert!(of(0).growth(memory(2)).is_err());
    }
}
