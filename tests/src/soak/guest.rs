//! Other netdiags on the same node, of every command: they come, stay for a while and go, one way or another.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::left::Before;
use crate::{facts::Facts, netdiag::Netdiag, random::Random, source};

/// What they are asked to do, but for where they record to.
const COMMANDS: [(&str, &[&str]); 5] = [
    ("live", &["live", "-o", "json", "-i", "500ms", "--top", "20"]),
    ("record", &["record", "-o", "json", "-i", "500ms", "--top", "20", "--max-disk", "8MiB"]),
    ("events", &["events", "-o", "json"]),
    ("diagnose", &["diagnose", "-o", "json", "-d", "1h"]),
    ("doctor", &[]),
];

/// How they are told to go; some do not hear it.
const SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::INT, Signal::KILL];

/// How often each came, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Guests {
    pub(super) visits: BTreeMap<&'static str, u64>,
    pub(super) killed: u64,
    pub(super) facts: Facts,
}

impl Guests {
    /// Both together.
    pub(super) fn with(mut self, more: Self) -> Self {
        for (name, visits) in more.visits {
            *self.visits.entry(name).or_default() += visits;
        }
        self.killed += more.killed;
        self.facts.adopt("others", more.facts);
        self
    }
}

/// Lets one follow another until it is over; each stays for so long at most.
///
/// # Errors
/// When one cannot be had, or does not end.
pub(super) fn come_and_go(
    mut random: Random,
    longest: Duration,
    out: &Path,
    before: &Before,
    over: &AtomicBool,
) -> Result<Guests> {
    let mut guests = Guests::default();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(random.up_to(longest));
        let (name, arguments) = COMMANDS[random.index(COMMANDS.len())];
        let (stay, signal) = (random.up_to(longest), SIGNALS[random.index(SIGNALS.len())]);
        *guests.visits.entry(name).or_default() += 1;
        if arguments.is_empty() {
            source::doctor(&[])?;
            continue;
        }
        guests.killed += u64::from(signal == Signal::KILL);
        let (shown, mut arguments) = (out.display().to_string(), arguments.to_vec());
        if name == "record" {
            arguments.extend(["--out", shown.as_str()]);
        }
        let netdiag = Netdiag::start(&arguments)?;
        before.note()?;
        thread::sleep(stay);
        let mut found = Facts::new();
        visit(netdiag, name, signal, &mut found)?;
        guests.facts.adopt(format_args!("{name} beside it, {signal:?}"), found);
    }
    Ok(guests)
}

/// Lets one go, and judges what it says then.
fn visit(netdiag: Netdiag, name: &str, signal: Signal, found: &mut Facts) -> Result<()> {
    netdiag.signal(signal)?;
    if signal == Signal::KILL {
        netdiag.wait_text()?;
        return Ok(());
    }
    if ["live", "record"].contains(&name) {
        let outcome = netdiag.wait()?;
        found.equal(format_args!("status; {:?}", outcome.stderr), outcome.code(), Some(0));
        outcome.snapshots.iter().for_each(|snapshot| found.consistent(snapshot));
        found.at_rest(outcome.total()?);
        return Ok(());
    }
    let (status, out, said) = netdiag.wait_text()?;
    ensure!(!out.is_empty(), "{name} prints nothing; {said:?}");
    found.equal(format_args!("status; {said:?}"), status.code(), Some(0));
    Ok(())
}
