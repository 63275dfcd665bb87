//! The node's clock is set by an hour under netdiag, both ways: intervals, files and reports stay as long as they were,
//! and it is said.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    clock::Shifted,
    facts::Facts,
    hlog,
    namespace::Namespace,
    netdiag::{Netdiag, run},
    outcome::{Outcome, count, flow_of},
    recording, require,
    requirement::{Feature, alone},
    tool,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use serde_json::Value;

/// Seconds that the clock is set by.
const HOUR: i64 = 3_600;
/// Half of it tells a clock that was set from a machine that is slow.
const MUCH: f64 = HOUR as f64 / 2.0;
/// Seconds by which a jump may be off: whoever sets the clock reads it before, and may have to wait in between.
const OFF: f64 = 10.0;

const SOME: Exchange = Exchange { sends: 50, bytes: 10, echo: true };

/// How netdiag says it.
fn said(by: i64) -> &'static str {
    if by > 0 { "the node's clock was set forward by" } else { "the node's clock was set back by" }
}

fn time(text: &str) -> Result<Timestamp> {
    text.parse().with_context(|| text.to_owned())
}

/// Seconds from one time to another.
fn between(from: &str, to: &str) -> Result<f64> {
    Ok(time(to)?.duration_since(time(from)?).as_secs_f64())
}

fn length(snapshot: &Snapshot) -> Result<f64> {
    between(&snapshot.start, &snapshot.end)
}

/// That times jump once, by an hour, and that nothing is longer or shorter for that.
fn times(facts: &mut Facts, outcome: &Outcome, by: i64) -> Result<()> {
    let total = outcome.total()?;
    let (mut sum, mut jumps) = (0.0, Vec::new());
    for (at, snapshot) in outcome.snapshots.iter().enumerate() {
        let took = length(snapshot)?;
        facts.holds(format_args!("interval {at} took {took} s"), took > 0.0 && took < MUCH);
        sum += took;
        if let Some(next) = outcome.snapshots.get(at + 1) {
            jumps.push(between(&snapshot.end, &next.start)?);
        }
    }
    let (set, steady): (Vec<_>, Vec<_>) = jumps.into_iter().partition(|jump| jump.abs() > 0.5);
    facts.holds(format_args!("elsewhere they follow: {steady:?}"), {
        steady.iter().all(|jump| *jump == 0.0)
    });
    facts.holds(format_args!("one jump by {by} s: {set:?}"), {
        matches!(set[..], [jump] if (jump - by as f64).abs() < OFF)
    });
    let whole = length(total)?;
    facts.holds(
        format_args!("the run took {whole} s, its intervals {sum} s"),
        (whole - sum).abs() < 1.0,
    );
    let last = outcome.snapshots.last().context("no interval")?;
    facts.equal("the total ends with the last interval", &total.end, &last.end);
    Ok(())
}

/// That pairs are named by when they begin, hold what was told, and are read back whole.
fn files(facts: &mut Facts, outcome: &Outcome, out: &Path) -> Result<()> {
    let all = recording::all(out)?;
    facts.equal("pairs", all.len(), 2);
    facts.equal("intervals in files", recording::intervals(&all), outcome.snapshots.len());
    for one in &all {
        let text = fs::read_to_string(one.log.with_extension("jsonl"))?;
        let first: Value = serde_json::from_str(text.lines().next().context("no interval")?)?;
        let start = time(first["start"].as_str().context("start")?)?;
        let name = one.log.file_stem().context("name")?.to_string_lossy().into_owned();
        let named = start.strftime("%Y%m%dT%H%M%SZ").to_string();
        facts.holds(format_args!("{name} begins at {start}"), name.contains(&named));
        let sends = hlog::read(&one.log)?.get("").map_or(0, Histogram::len);
        facts.holds(format_args!("{name}: {sends} sends"), sends > 0);
    }
    let shown = out.display().to_string();
    let report = run(&["report", &shown, "-o", "json"])?;
    let text = tool::finish("netdiag report", &report);
    facts.holds(format_args!("what was recorded is read: {text:?}"), text.is_ok());
    Ok(())
}

fn recorded(by: i64) -> Result<()> {
    let namespace = Namespace::new("clock")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("dumps");
    let shown = out.display().to_string();
    let arguments = ["record", "-o", "json", "-i", "1s", "-d", "10h", "--out", &shown];
    let mut netdiag = Netdiag::start(&[&arguments[..], &["--netns", namespace.name()]].concat())?;
    let connection = Connection::open(&namespace, &namespace, Family::V4)?;
    exchange([(&connection, SOME)])?;
    netdiag.wait_lines(2)?;
    let shifted = Shifted::by(by)?;
    exchange([(&connection, SOME)])?;
    netdiag.wait_lines(3)?;
    let end = connection.client_end()?;
    let outcome = netdiag.stop()?;
    drop(shifted);
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(outcome.stderr.join("\n"));
    facts.equal("exit status", outcome.code(), Some(0));
    let lines = outcome.stderr.iter().filter(|line| line.contains(said(by))).count();
    facts.equal("lines that say it", lines, 1);
    outcome.snapshots.iter().for_each(|snapshot| facts.consistent(snapshot));
    facts.at_rest(total);
    times(&mut facts, &outcome, by)?;
    files(&mut facts, &outcome, &out)?;
    let missed = total.accounting["send"].missed;
    let made = 2 * SOME.sends as u64;
    let sends = count(flow_of(total, &end)?, "sends").context("sends")?;
    facts.holds(format_args!("{sends} sends of {made}, {missed} missed"), {
        sends <= made && sends + missed >= made
    });
    facts.finish();
    Ok(())
}

#[test]
fn a_clock_that_is_set_forward_and_a_recording() -> Result<()> {
    require!(Feature::OwnClock);
    let _alone = alone();
    recorded(HOUR)
}

#[test]
fn a_clock_that_is_set_back_and_a_recording() -> Result<()> {
    require!(Feature::OwnClock);
    let _alone = alone();
    recorded(-HOUR)
}

/// `diagnose` is asked for what it has found as soon as the clock was set.
#[test]
fn a_diagnosis_is_as_long_as_it_was() -> Result<()> {
    require!(Feature::OwnClock);
    let _alone = alone();
    for by in [HOUR, -HOUR] {
        let mut netdiag = Netdiag::start(&["diagnose", "-o", "json", "-i", "1s", "-d", "10h"])?;
        let shifted = Shifted::by(by)?;
        netdiag.wait_said(said(by))?;
        let (status, out, err) = netdiag.stop_text()?;
        drop(shifted);
        let mut facts = Facts::new();
        facts.note(err.join("\n"));
        facts.equal("exit status", status.code(), Some(0));
        let last = out.last().context("it prints nothing")?;
        let report: Value = serde_json::from_str(last).with_context(|| last.clone())?;
        let [start, end] = ["start", "end"].map(|name| report[name].as_str().unwrap_or_default());
        let took = between(start, end)?;
        facts.holds(format_args!("from {start} to {end}: {took} s"), took > 0.0 && took < MUCH);
        facts.finish();
    }
    Ok(())
}

/// The tests that run after these have the right time.
#[test]
fn a_clock_is_set_back_with_its_value() -> Result<()> {
    require!(Feature::OwnClock);
    let _alone = alone();
    let before = Timestamp::now();
    let shifted = Shifted::by(HOUR)?;
    let during = Timestamp::now().duration_since(before).as_secs_f64();
    drop(shifted);
    let after = Timestamp::now().duration_since(before).as_secs_f64();
    let is_near = |found: f64, wanted: f64| (found - wanted).abs() < OFF;
    assert!(is_near(during, HOUR as f64) && is_near(after, 0.0), "{during} s, then {after} s");
    Ok(())
}
