//! The command `diagnose`: what it prints, how it ends, and that recordings lead to the same conclusions.
//! Which faults lead to which findings is the lab's.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use netdiag::{
    diagnosis::{Report, SCHEMA},
    finding::ScopeKind,
};
use netdiag_tests::{
    attempt::{Spoilt, judge_on_time, until_whole},
    facts::Facts,
    hiccup::Hiccups,
    netdiag::{self as program, Netdiag},
    network::{Pair, RIGHT_V4},
    requirement::alone,
    traffic::{Connection, Family, read_bytes, send_once},
};
use rustix::process::Signal;

/// What a server takes here, below and above what the threshold is set to.
const SERVICE: Duration = Duration::from_millis(60);
const THRESHOLD: &str = "slow-peer-application.response=40ms";
const ID: &str = "slow-peer-application";

/// A client asks ten times, and its server thinks for a while each time.
fn ask(pair: &Pair) -> Result<u16> {
    let Connection { client, server, .. } = Connection::open(&pair.left, &pair.right, Family::V4)?;
    for _ in 0..10 {
        send_once(&client, b"question")?;
        read_bytes(&server, 8)?;
        thread::sleep(SERVICE);
        send_once(&server, b"answer")?;
        read_bytes(&client, 6)?;
    }
    Ok(client.peer_addr()?.port())
}

fn report(lines: &[String]) -> Result<Report> {
    let [line] = lines else { anyhow::bail!("{} lines", lines.len()) };
    serde_json::from_str(line).with_context(|| line.clone())
}

#[test]
fn a_slow_server_is_found_live_and_in_recordings() -> Result<()> {
    let _alone = alone();
    until_whole(a_slow_server)
}

fn a_slow_server() -> Result<Option<Spoilt>> {
    let hiccups = Hiccups::watch();
    let pair = Pair::new()?;
    let netns = pair.left.inode().to_string();
    let live = |more: &[&str]| {
        let mut all = vec!["diagnose", "--netns", &netns, "--threshold", THRESHOLD, "-d", "10h"];
        all.extend(more);
        Netdiag::start(&all)
    };
    let directory = tempfile::tempdir()?;
    let out = directory.path().to_str().context("UTF-8")?;
    let text = live(&["--fail-on", "warning"])?;
    let json = live(&["-o", "json", "--fail-on", "critical"])?;
    let blind = live(&["-o", "json", "--signals", "rtt,retransmit"])?;
    let record = Netdiag::start(&["record", "--out", out, "--netns", &netns])?;
    let port = ask(&pair)?;
    let (text_status, text, _) = text.stop_text()?;
    let (json_status, json, _) = json.stop_text()?;
    let (_, blind, _) = blind.stop_text()?;
    record.stop_text()?;
    let from = ["diagnose", "--from", out, "--threshold", THRESHOLD, "-o", "json"];
    let from = program::run(&from)?;
    let recorded = report(&[String::from_utf8(from.stdout)?.trim().to_owned()])?;

    // What a machine that does not keep up cannot excuse, and what it can.
    let (mut facts, mut timely) = (Facts::new(), Facts::new());
    timely.note(format_args!("{}\n{json:?}", text.join("\n")));
    timely.equal("status of --fail-on warning", text_status.code(), Some(10));
    timely.equal("status of --fail-on critical", json_status.code(), Some(0));
    facts.equal("status of --from", from.status.code(), Some(0));
    let found = text.iter().position(|line| line.starts_with("WARNING slow-peer-application"));
    timely.holds("the finding stands in the text", found.is_some());
    let is_next = |line: &String| line.starts_with("  next: ") && line.contains(" ss -tin");
    timely.holds("what to do next does", text.iter().any(is_next));
    let widest = text.iter().map(|line| netdiag::format::width(line)).max();
    facts.holds("80 columns are enough", widest.is_some_and(|columns| columns <= 80));
    for (what, report) in [("live", &report(&json)?), ("recorded", &recorded)] {
        facts.equal(format_args!("schema {what}"), report.schema.as_str(), SCHEMA);
        facts.holds(format_args!("{what}: nothing was lost"), report.complete);
        facts.holds(format_args!("{what}: flows are narrowed"), report.filtered);
        let backend = Some(format!("{RIGHT_V4}:{port}"));
        let first = report.findings.first();
        let (id, scope) = (first.map(|it| it.id.as_str()), first.map(|it| it.scope.clone()));
        timely.equal(format_args!("id {what}"), id, Some(ID));
        timely.equal(
            format_args!("scope {what}"),
            scope.as_ref().map(|it| it.name.clone()),
            backend,
        );
        let netns = scope.and_then(|scope| scope.netns);
        timely.equal(format_args!("namespace {what}"), netns, Some(pair.left.inode()));
        let worst = report.worst.first().and_then(|worst| worst.peer.port);
        timely.equal(format_args!("worst flow {what}"), worst, Some(port));
    }
    let blind = report(&blind)?;
    // What the node says of itself is true whatever its flows do.
    let findings = blind.findings.iter().filter(|finding| finding.scope.kind != ScopeKind::Node);
    let found: Vec<_> = findings.map(|finding| finding.id.as_str()).collect();
    timely.equal("findings without the signal", found, vec![]);
    let withheld = blind.withheld.iter().find(|withheld| withheld.id == ID);
    let says = withheld.is_some_and(|withheld| withheld.reason.contains("`turn`"));
    facts.holds(format_args!("withheld: {:?}", blind.withheld), says);
    facts.note(format_args!("{timely:?}"));
    facts.finish();
    Ok(judge_on_time(timely, hiccups))
}

#[test]
fn what_cannot_be_read_is_wrong_usage() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let empty = directory.path().to_str().context("UTF-8")?;
    let mut facts = Facts::new();
    for (from, says) in [("/nowhere", "No such file"), (empty, "there is no netdiag-NODE-TIME")] {
        let output = program::run(&["diagnose", "--from", from])?;
        let said = String::from_utf8(output.stderr)?;
        facts.equal(format_args!("status of {from}"), output.status.code(), Some(2));
        facts.holds(format_args!("{said}"), said.contains(says) && said.lines().count() == 1);
    }
    facts.finish();
    Ok(())
}

/// A file that is being written ends with half a line; the rest counts.
#[test]
fn a_torn_recording_is_read_as_far_as_it_goes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().to_str().context("UTF-8")?;
    let mut record = Netdiag::start(&["record", "--out", out, "-o", "json", "-i", "200ms"])?;
    record.wait_lines(3)?;
    record.signal(Signal::INT)?;
    record.wait_status()?;
    let sidecar = std::fs::read_dir(directory.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .context("no sidecar")?;
    let whole = std::fs::read(&sidecar)?;
    std::fs::write(&sidecar, &whole[..whole.len() - 10])?;
    let output = program::run(&["diagnose", "--from", out, "-o", "json"])?;
    let said = String::from_utf8(output.stderr)?;
    let report = report(&[String::from_utf8(output.stdout)?.trim().to_owned()])?;
    let lines = whole.iter().filter(|byte| **byte == b'\n').count() as u64;
    let mut facts = Facts::new();
    facts.equal("status", output.status.code(), Some(0));
    facts.equal("intervals", report.intervals, lines - 1);
    facts.holds(format_args!("it is said: {said}"), said.contains("1 lines are torn"));
    facts.finish();
    Ok(())
}
