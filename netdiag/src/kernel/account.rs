//! The programs' counters, read and summed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{MapData, PerCpuArray},
};
use netdiag_common::{
    counters::{Counters, Lane, PerCpu},
    signal::Signal,
};

use crate::coverage::Account;

/// [`PerCpu`] as aya reads it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw(PerCpu);

// SAFETY: repr(C), made of integers alone, and valid for any bytes.
unsafe impl Pod for Raw {}

/// Reader of the counters map.
pub(super) struct Counting {
    map: PerCpuArray<MapData, Raw>,
}

/// What one reading found.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// Sum over lanes and CPUs by signal.
    pub(super) signals: [Counters; Signal::COUNT],
    /// CPUs whose batches hold samples.
    pub(super) unflushed: Vec<u32>,
}

impl Counting {
    pub(super) fn new(map: aya::maps::Map) -> Result<Self> {
        Ok(Self { map: PerCpuArray::try_from(map).context("map PER_CPU")? })
    }

    /// Reads all CPUs. The kernel copies one CPU after the other: with traffic under way the sums
    /// are near one another, at rest they are exact.
    pub(super) fn read(&self) -> Result<Reading> {
        let cpus = self.map.get(&0, 0).context("reading the programs' counters")?;
        let mut reading = Reading::default();
        for (cpu, Raw(per_cpu)) in cpus.iter().enumerate() {
            for (signal, lanes) in per_cpu.signals.iter().enumerate() {
                for Lane { own, sockets } in &lanes.lanes {
                    add(&mut reading.signals[signal], own);
                    add(&mut reading.signals[Signal::Socket as usize], sockets);
                }
            }
            if per_cpu.sends.len != 0 {
                reading.unflushed.push(cpu as u32);
            }
        }
        Ok(reading)
    }
}

fn add(total: &mut Counters, more: &Counters) {
    *total = total.plus(more);
}

/// The accounts of all signals, by name. `missed` holds the runs that the kernel skipped.
pub(super) fn accounts(
    reading: &Reading,
    missed: &[u64; Signal::COUNT],
) -> BTreeMap<String, Account> {
    Signal::ALL
        .iter()
        .map(|&signal| {
            let counters = &reading.signals[signal as usize];
            let account = Account {
                seen: counters.seen,
                filtered: counters.filtered,
                submitted: counters.submitted,
                ring_full: counters.ring_full,
                map_full: counters.map_full,
                read_failed: counters.read_failed,
                rate_limited: counters.rate_limited,
                shed: counters.shed,
                unmatched: counters.unmatched,
                pending: counters.pending(),
                missed: missed[signal as usize],
            };
            (signal.name().to_owned(), account)
        })
        .collect()
}
