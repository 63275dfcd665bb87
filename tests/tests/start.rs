//! What netdiag takes before it sees anything, and what it keeps while there is nothing to see.

use std::{fs, process, time::Duration};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    facts::Facts,
    machine::{self, Series},
    namespace::Namespace,
    netdiag::Netdiag,
    requirement::alone,
    usage,
};

/// CPU time from its start until it is ready, at most, by that of reading /proc/kallsyms once, which it does itself:
/// both are the kernel's for the most part, and are slow where it is. Where instructions are counted, a tenth more
/// than was counted; elsewhere with room for whatever else the machine does.
fn most() -> f64 {
    match machine::series() {
        _ if !machine::counts() => 18.0,
        series if series < Series(6, 0) => 20.9,
        series if series < Series(6, 12) => 14.2,
        series if series < Series(7, 0) => 6.6,
        _ => 9.0,
    }
}

/// Resident memory with nothing to see, in bytes. What lets programs remember and tell is the kernel's.
const RESIDENT: u64 = 15_000_000;

fn cpu_of(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let before = usage::cpu_time(process::id())?;
    what()?;
    Ok(usage::cpu_time(process::id())?.saturating_sub(before))
}

#[test]
fn a_start_is_a_small_multiple_of_reading_the_symbols() -> Result<()> {
    let _alone = alone();
    let own = Namespace::new("start")?;
    // Readings for as long as a start takes, or about: both have then their share of what else there is to do.
    let (rounds, readings) = if machine::counts() { (1, 2) } else { (3, 12) };
    let mut facts = Facts::new();
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let netdiag = Netdiag::live(&["--netns", own.name()])?;
        let start = usage::cpu_time(netdiag.pid())?;
        netdiag.stop()?;
        let read = || fs::read("/proc/kallsyms").context("/proc/kallsyms").map(drop);
        let reading = cpu_of(|| (0..readings).try_for_each(|_| read()))? / readings;
        facts.note(format!("{start:?} until ready, {reading:?} for the symbols"));
        ratios.push(start.as_secs_f64() / reading.as_secs_f64());
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let (ratio, most) = (ratios[ratios.len() / 2], most());
    facts.holds(format!("{ratio:.1} times the symbols, at most {most}"), ratio <= most);
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
