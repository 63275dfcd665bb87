//! What netdiag takes before it sees anything, and what it keeps while there is nothing to see.

use std::{fs, process, time::Duration};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    facts::Facts, namespace::Namespace, netdiag::Netdiag, requirement::alone, usage,
};

/// CPU time from its start until it is ready, by that of reading /proc/kallsyms once, which it does itself: both are
/// the kernel's for the most part, and are slow where it is.
const MOST: f64 = 18.0;

/// Resident memory with nothing to see, in bytes. What lets programs remember and tell is the kernel's.
const RESIDENT: u64 = 15 << 20;

fn cpu_of(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let before = usage::cpu_time(process::id())?;
    what()?;
    Ok(usage::cpu_time(process::id())?.saturating_sub(before))
}

fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

#[test]
fn a_start_is_a_small_multiple_of_reading_the_symbols() -> Result<()> {
    let _alone = alone();
    let own = Namespace::new("start")?;
    let (mut starts, mut readings) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let netdiag = Netdiag::live(&["--netns", own.name()])?;
        starts.push(usage::cpu_time(netdiag.pid())?);
        netdiag.stop()?;
        readings.push(cpu_of(|| Ok(fs::read("/proc/kallsyms").map(drop)?))?);
    }
    let (start, reading) = (median(starts)?, median(readings)?);
    let ratio = start.as_secs_f64() / reading.as_secs_f64();
    let mut facts = Facts::new();
    facts.note(format!("{start:?} until ready, {reading:?} for the symbols"));
    facts.holds(format!("{ratio:.1} times the symbols, at most {MOST}"), ratio <= MOST);
    facts.finish();
    Ok(())
}

#[test]
fn what_was_needed_once_is_given_back() -> Result<()> {
    let _alone = alone();
    let own = Namespace::new("start")?;
    let mut netdiag = Netdiag::live(&["--netns", own.name()])?;
    netdiag.wait_lines(3)?;
    let memory = usage::memory(netdiag.pid())?;
    netdiag.stop()?;
    let mut facts = Facts::new();
    facts.holds(format!("{memory:?}, at most {RESIDENT}"), memory.resident_bytes <= RESIDENT);
    facts.finish();
    Ok(())
}
