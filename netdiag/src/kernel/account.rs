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
    /// CPUs on which not as many samples ended as began there, by signal.
    pending: [Vec<u32>; Signal::COUNT],
    /// All CPUs.
    cpus: u32,
}

/// What waits in batches.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batched {
    /// CPUs that hold samples.
    cpus: Vec<u32>,
    /// Sends that returned among these.
    pub(super) sends: u64,
}

/// Runs of a signal's programs that the kernel skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Where a sample begins, or is all there is.
    pub(super) begins: u64,
    /// Where a sample that began elsewhere ends.
    pub(super) ends: u64,
    /// Of both, those while the signal's samples were left out to keep the cost down.
    pub(super) begins_shed: u64,
    pub(super) ends_shed: u64,
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

    /// What waits in batches, by a reading just before. They are tens of kilobytes on each CPU, all of which the kernel
    /// copies, so they are not looked at where nothing is on its way by any counter.
    pub(super) fn batched(&self, reading: &Counts) -> Result<Batched> {
        let mut batched = Batched::default();
        if reading.have_none_batched() {
            return Ok(batched);
        }
        let cpus = self.batches.get(&0, 0).context("reading the programs' batches")?;
        for (cpu, Raw(batches)) in cpus.iter().enumerate() {
            batched.sends += batches.sends();
            if !batches.are_empty() {
                batched.cpus.push(cpu as u32);
            }
        }
        Ok(batched)
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

    /// Samples seen of some signals, by signal, and how many of these found no room in the ring of samples. Messages of
    /// `dns` go by others as well, and where a processor has none all of those count as lost: that says nothing of it.
    pub(super) fn seen_and_lost(&self, of: &[Signal]) -> Result<([u64; Signal::COUNT], u64)> {
        let mut seen = [0; Signal::COUNT];
        let mut lost = 0;
        for &signal in of {
            let cpus =
                self.counters.get(&(signal as u32), 0).context("reading a signal's counters")?;
            for own in cpus.iter().flat_map(|Raw(lanes)| &lanes.lanes).map(|lane| &lane.own) {
                seen[signal as usize] += own.seen;
                lost += if signal == Signal::Dns { 0 } else { own.ring_full };
            }
        }
        Ok((seen, lost))
    }

    fn read_once(&self) -> Result<Counts> {
        let mut reading = Counts::default();
        for (signal, sums) in reading.lanes.iter_mut().enumerate() {
            let cpus = self.counters.get(&(signal as u32), 0);
            let cpus = cpus.context("reading the programs' counters")?;
            for (cpu, Raw(lanes)) in cpus.iter().enumerate() {
                let mut here = Counters::default();
                for (lane, Lane { own, sockets }) in lanes.lanes.iter().enumerate() {
                    add(&mut sums[lane % LANES], own);
                    add(&mut here, own);
                    add(&mut reading.sockets, sockets);
                }
                if here.begun != here.ended {
                    reading.pending[signal].push(cpu as u32);
                }
            }
            reading.cpus = cpus.len() as u32;
        }
        Ok(reading)
    }
}

impl Counts {
    /// CPUs on which the program that flushes a signal has something to hand over, and how often it is to be run on
    /// each for all of it.
    pub(super) fn unflushed(&self, signal: Signal, batched: &Batched) -> (Vec<u32>, usize) {
        if Batches::SIGNALS.contains(&signal) {
            return (batched.cpus.clone(), 1);
        }
        if signal != Signal::Conntrack {
            // What waits in a table began where that is, and a run on a CPU that sleeps wakes it.
            return (self.pending[signal as usize].clone(), FLUSHES);
        }
        // An entry may begin on one CPU and come to its end on another, whose table has it.
        let cpus = if self.sum(signal).pending() == 0 { 0 } else { self.cpus };
        ((0..cpus).collect(), FLUSHES)
    }

    /// Whether no batch holds anything, for sure: each sample in one is pending. CPUs are read one after the other, and
    /// what ends meanwhile may seem to make up for that, but then the accounts do not balance.
    fn have_none_batched(&self) -> bool {
        let is_none = |&signal: &Signal| self.sum(signal).pending() == 0;
        Batches::SIGNALS.iter().all(is_none) && self.is_whole()
    }

    /// Sum over all lanes of a signal.
    fn sum(&self, signal: Signal) -> Counters {
        let more = if signal == Signal::Socket { self.sockets } else { Counters::default() };
        self.lanes[signal as usize].iter().fold(more, |sum, lane| sum.plus(lane))
    }

    /// Whether the accounts of all signals balance.
    pub(super) fn is_whole(&self) -> bool {
        Signal::ALL.iter().all(|&signal| self.sum(signal).is_whole())
    }
}

impl Batched {
    /// Whether samples wait on a CPU. Of tables that is not told.
    pub(super) fn holds(&self, cpu: u32) -> bool {
        self.cpus.contains(&cpu)
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

    /// What was read of a signal, whose lane has these counters, on two CPUs.
    fn counts(signal: Signal, lane: Counters, pending: &[u32]) -> Counts {
        let mut counts = Counts { cpus: 2, ..Counts::default() };
        counts.lanes[signal as usize][1] = lane;
        counts.pending[signal as usize] = pending.to_vec();
        counts
    }

    #[test]
    fn programs_are_run_where_something_waits() {
        let begun = Counters { seen: 5, begun: 5, ended: 3, submitted: 3, ..Counters::default() };
        let batched = Batched { cpus: vec![0], sends: 2 };
        for (signal, expected) in [
            (Signal::Send, (vec![0], 1)),
            (Signal::Drop, (vec![1], FLUSHES)),
            // It may be in the table of any.
            (Signal::Conntrack, (vec![0, 1], FLUSHES)),
        ] {
            let counts = counts(signal, begun, &[1]);
            assert_eq!(counts.unflushed(signal, &batched), expected, "{signal:?}");
        }
        let nothing = counts(Signal::Conntrack, Counters::default(), &[]);
        for signal in [Signal::Send, Signal::Drop, Signal::Conntrack] {
            assert!(nothing.unflushed(signal, &Batched::default()).0.is_empty(), "{signal:?}");
        }
    }

    #[test]
    fn batches_are_empty_where_nothing_is_pending() {
        let ended = Counters { seen: 5, begun: 5, ended: 5, submitted: 5, ..Counters::default() };
        for (signal, lane, expected) in [
            (Signal::Send, ended, true),
            (Signal::Send, Counters { seen: 6, begun: 6, ..ended }, false),
            // One ended while another was read as begun, or not yet.
            (Signal::Rtt, Counters { ended: 6, submitted: 6, ..ended }, false),
            (Signal::Turn, Counters { submitted: 6, ..ended }, false),
            // No batch's.
            (Signal::Drop, Counters { seen: 6, begun: 6, ..ended }, true),
        ] {
            let counts = counts(signal, lane, &[]);
            assert_eq!(counts.have_none_batched(), expected, "{signal:?} {lane:?}");
        }
    }

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
