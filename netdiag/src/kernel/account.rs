//! The programs' counters, read and summed.

use std::collections::BTreeMap;

mod sends;

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray},
};
use netdiag_common::{
    batch::Batches,
    counters::{Counters, LANES, Lane, Lanes},
    signal::Signal,
    table::FLUSHES,
};

pub(super) use self::sends::Phase;
use crate::coverage::Account;

/// How often the counters are read for one reading: programs may be at work on each.
const READINGS: usize = 16;

/// Sums over all CPUs by lane, each with its twin.
type Sums = [Counters; LANES];

/// A value of the programs as aya reads it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: repr(C), made of integers alone, and valid for any bytes.
unsafe impl Pod for Raw<Lanes> {}
// SAFETY: the same.
unsafe impl Pod for Raw<Batches> {}

/// Reader of the counters, and of how much waits in batches.
pub(super) struct Counting {
    counters: PerCpuArray<MapData, Raw<Lanes>>,
    batches: PerCpuArray<MapData, Raw<Batches>>,
}

/// What one reading found.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Sums over CPUs by signal and lane.
    lanes: [Sums; Signal::COUNT],
    /// Sums of the sockets that the programs of any signal introduced.
    sockets: Counters,
    /// CPUs whose batches hold samples.
    batched: Vec<u32>,
    /// All CPUs.
    cpus: u32,
    /// Returned sends in those batches.
    pub(super) batched_sends: u64,
}

/// Runs of a signal's programs that the kernel skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Where a sample begins, or is all there is.
    pub(super) begins: u64,
    /// Where a sample that began elsewhere ends.
    pub(super) ends: u64,
}

impl Counting {
    pub(super) fn new(counters: Map, batches: Map) -> Result<Self> {
        Ok(Self {
            counters: PerCpuArray::try_from(counters).context("map COUNTERS")?,
            batches: PerCpuArray::try_from(batches).context("map BATCHES")?,
        })
    }

    /// Reads all CPUs. The kernel copies one CPU after the other, and programs may be between two
    /// counters: then it is read again, so that what is pending is what the programs say of it.
    pub(super) fn read(&self) -> Result<Counts> {
        let mut reading = self.read_once()?;
        for _ in 1..READINGS {
            if reading.is_whole() {
                break;
            }
            std::thread::yield_now();
            reading = self.read_once()?;
        }
        Ok(reading)
    }

    /// Samples of a signal that were seen and lost, for want of room, because of their number or unreadable.
    pub(super) fn untold(&self, signal: Signal) -> Result<u64> {
        let cpus = self.counters.get(&(signal as u32), 0).context("reading a signal's counters")?;
        let lanes = cpus.iter().flat_map(|Raw(lanes)| &lanes.lanes);
        let untold = |own: &Counters| own.ring_full + own.rate_limited + own.read_failed + own.shed;
        Ok(lanes.map(|lane| untold(&lane.own)).sum())
    }

    /// Records of a signal that found no room, by CPU.
    pub(super) fn without_room(&self, signal: Signal) -> Result<Vec<u64>> {
        let cpus = self.counters.get(&(signal as u32), 0).context("reading a signal's counters")?;
        let lost = |Raw(lanes): &Raw<Lanes>| -> u64 {
            lanes.lanes.iter().map(|lane| lane.own.ring_full).sum()
        };
        Ok(cpus.iter().map(lost).collect())
    }

    /// Samples seen by signal, and those of some signals that found no room in the ring.
    pub(super) fn seen_and_lost(&self, of: &[Signal]) -> Result<([u64; Signal::COUNT], u64)> {
        let mut seen = [0; Signal::COUNT];
        let mut lost = 0;
        for &signal in of {
            let cpus =
                self.counters.get(&(signal as u32), 0).context("reading a signal's counters")?;
            for own in cpus.iter().flat_map(|Raw(lanes)| &lanes.lanes).map(|lane| &lane.own) {
                seen[signal as usize] += own.seen;
                lost += own.ring_full;
            }
        }
        Ok((seen, lost))
    }

    fn read_once(&self) -> Result<Counts> {
        let mut reading = Counts::default();
        for (signal, sums) in reading.lanes.iter_mut().enumerate() {
            let cpus = self.counters.get(&(signal as u32), 0);
            for Raw(lanes) in cpus.context("reading the programs' counters")?.iter() {
                for (lane, Lane { own, sockets }) in lanes.lanes.iter().enumerate() {
                    add(&mut sums[lane % LANES], own);
                    add(&mut reading.sockets, sockets);
                }
            }
        }
        let cpus = self.batches.get(&0, 0).context("reading the programs' batches")?;
        for (cpu, Raw(batches)) in cpus.iter().enumerate() {
            reading.batched_sends += batches.sends();
            if !batches.are_empty() {
                reading.batched.push(cpu as u32);
            }
        }
        reading.cpus = cpus.len() as u32;
        Ok(reading)
    }
}

impl Counts {
    /// CPUs on which the program that flushes a signal has something to hand over, and how often it is to be run on
    /// each for all of it.
    pub(super) fn unflushed(&self, signal: Signal) -> (Vec<u32>, usize) {
        if Batches::SIGNALS.contains(&signal) {
            return (self.batched.clone(), 1);
        }
        // What waits in a table may have begun on another CPU, so each may hold some of it.
        let cpus = if self.sum(signal).pending() == 0 { 0 } else { self.cpus };
        ((0..cpus).collect(), FLUSHES)
    }

    /// Whether samples wait in the batches of a CPU. Of tables nobody knows which CPU's they are in.
    pub(super) fn holds(&self, cpu: u32) -> bool {
        self.batched.contains(&cpu)
    }

    /// Sum over all lanes of a signal.
    fn sum(&self, signal: Signal) -> Counters {
        let more = if signal == Signal::Socket { self.sockets } else { Counters::default() };
        self.lanes[signal as usize].iter().fold(more, |sum, lane| sum.plus(lane))
    }

    /// Whether the accounts of all signals balance.
    fn is_whole(&self) -> bool {
        Signal::ALL.iter().all(|&signal| self.sum(signal).is_whole())
    }
}

fn add(total: &mut Counters, more: &Counters) {
    *total = total.plus(more);
}

/// The accounts of all signals, by name. `skipped` must have been read after the counters.
pub(super) fn accounts(
    reading: &Counts,
    skipped: &[Skipped; Signal::COUNT],
    phase: Phase,
) -> BTreeMap<String, Account> {
    Signal::ALL
        .iter()
        .map(|&signal| {
            let skipped = skipped[signal as usize];
            let lanes = &reading.lanes[signal as usize];
            let account = match signal {
                Signal::Send => sends::account(lanes, skipped, phase),
                _ => {
                    let counters = reading.sum(signal);
                    let missed = skipped.begins.saturating_sub(counters.stood_in);
                    let mut account = Account { missed, ..account(&counters) };
                    if matches!(phase, Phase::Detached { .. }) {
                        // Counted on a CPU that went offline, and never to arrive.
                        account.missed += account.pending;
                        account.seen -= account.pending;
                        account.pending = 0;
                    }
                    account
                }
            };
            (signal.name().to_owned(), account)
        })
        .collect()
}

/// What the programs themselves counted. On a machine of many processors some program may be between
/// two counters at every reading: what is seen and has no other fate yet is pending, whatever was
/// counted of that; what has a fate was seen.
fn account(counters: &Counters) -> Account {
    let fates = counters.fates();
    Account {
        seen: counters.seen.max(fates),
        filtered: counters.filtered,
        submitted: counters.submitted,
        ring_full: counters.ring_full,
        map_full: counters.map_full,
        read_failed: counters.read_failed,
        rate_limited: counters.rate_limited,
        shed: counters.shed,
        unmatched: counters.unmatched,
        pending: counters.seen.saturating_sub(fates),
        missed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_read_balances() {
        let whole =
            Counters { seen: 9, submitted: 5, filtered: 1, begun: 3, ..Counters::default() };
        for (counters, seen, pending) in [
            (whole, 9, 3),
            // Counted as seen, and nothing more.
            (Counters { seen: 10, ..whole }, 10, 4),
            // Read after its beginnings on another CPU.
            (Counters { seen: 5, ended: 1, ..whole }, 6, 0),
        ] {
            let account = account(&counters);
            assert!(account.balances(), "{counters:?}: {account:?}");
            assert_eq!((account.seen, account.pending), (seen, pending), "{counters:?}");
        }
    }
}
