//! What `record` writes, read by other people's readers: the reference implementation in Java, and
//! those in Python and JavaScript.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use netdiag::snapshot::Snapshot;
use netdiag_tests::{
    conntrack::{Rules, connect, entry, said, table, track},
    dropping::CASES,
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::Netdiag,
    network::Pair,
    outcome::{group, in_namespaces, metric},
    reader::{self, ByTag, Read},
    require,
    requirement::{Feature, alone},
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use rustix::process::Signal;
use serde_json::Value;

/// All counts are multiples of 100, where every library takes the same sample for the 99th
/// percentile: one rounds the rank, the others take the next higher.
const ROUND: Exchange = Exchange { sends: 100, bytes: 200, echo: true };

/// What one run wrote.
struct Written {
    log: PathBuf,
    /// Lines of the sidecar: the snapshot, and flow ids by tag.
    intervals: Vec<(Snapshot, BTreeMap<String, String>)>,
}

/// The pairs of files in a directory, oldest first, cut to whole lines.
fn written(directory: &Path) -> Result<Vec<Written>> {
    let mut logs: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "hlog"))
        .collect();
    logs.sort();
    logs.into_iter()
        .map(|log| {
            let sidecar = fs::read_to_string(log.with_extension("jsonl"))?;
            let whole = sidecar.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let intervals = whole.map(interval).collect::<Result<_>>()?;
            Ok(Written { log, intervals })
        })
        .collect()
}

fn interval(line: &str) -> Result<(Snapshot, BTreeMap<String, String>)> {
    let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let tags = serde_json::from_value(value["tags"].clone()).context("tags")?;
    Ok((serde_json::from_value(value)?, tags))
}

/// Four connections that send in rounds, so that there is something in every interval.
fn traffic(namespace: &Namespace, rounds: usize) -> Result<()> {
    let connections = (0..4)
        .map(|_| Connection::open(namespace, namespace, Family::V4))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..rounds {
        exchange(connections.iter().map(|connection| (connection, ROUND)))?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// That intervals are the whole run, each from the end of the one before, and begin no more often than
/// every second. A reporter that is late makes one of several.
fn seamless(
    facts: &mut Facts,
    intervals: &[(Snapshot, BTreeMap<String, String>)],
    total: &Snapshot,
) -> Result<()> {
    let time = |text: &str| -> Result<Timestamp> { Ok(text.parse()?) };
    let mut last = &total.start;
    for (snapshot, _) in intervals {
        facts.equal("start of an interval", &snapshot.start, last);
        facts.holds(
            format_args!("{} is after {}", snapshot.end, snapshot.start),
            time(&snapshot.end)? > time(&snapshot.start)?,
        );
        last = &snapshot.end;
    }
    facts.equal("end of the last interval", last, &total.end);
    let seconds = time(&total.end)?.duration_since(time(&total.start)?).as_secs().unsigned_abs();
    let number = intervals.len() as u64;
    facts.holds(
        format_args!("{number} intervals in {seconds} s"),
        (1..=seconds + 1).contains(&number),
    );
    Ok(())
}

fn flow_counts(by_tag: &ByTag) -> u64 {
    let of_flows = by_tag.iter().filter(|(tag, _)| tag.ends_with(".send"));
    of_flows.map(|(_, read)| read.count).sum()
}

#[test]
fn every_reader_agrees_with_the_total() -> Result<()> {
    require!(Feature::Readers);
    let _alone = alone();
    let namespace = Namespace::new("record")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("dump").display().to_string();
    let arguments = ["-o", "json", "-i", "1s", "--out", &out, "--netns", namespace.name()];
    // However long it takes, no round is cut off.
    let netdiag = Netdiag::start(&[&["record"], &arguments[..]].concat())?;
    traffic(&namespace, 20)?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let written = written(Path::new(&out))?;
    let mut facts = Facts::new();
    facts.equal("exit status", outcome.code(), Some(0));
    facts.at_rest(total);
    facts.lossless(total);
    facts.equal("pairs of files", written.len(), 1);
    let written = written.first().context("no files")?;
    seamless(&mut facts, &written.intervals, total)?;

    let intervals = written.intervals.len() as u64;
    let mut expected = ByTag::new();
    for (_, tags) in &written.intervals {
        for (tag, id) in tags {
            let mut flows = total.flows.iter().chain([&total.other]);
            let flow = flows.find(|flow| flow.id == *id);
            let flow = flow.with_context(|| format!("no flow {id} in the total"))?;
            let send = metric(flow, "send");
            let numbers = Read {
                intervals: 0,
                count: send.count,
                max: send.max_ns.unwrap_or_default(),
                p99: send.p99_ns.unwrap_or_default(),
            };
            if numbers.count > 0 {
                expected.insert(format!("{tag}.send"), numbers);
            }
        }
    }
    facts.equal("flows that sent", expected.len(), 8);
    for reader in reader::all()? {
        let by_tag = reader.read(&written.log)?;
        let language = reader.language;
        for (tag, wanted) in &expected {
            let found = by_tag.get(tag).map(|read| Read { intervals: 0, ..*read });
            facts.equal(format_args!("{language}: {tag}"), found, Some(*wanted));
        }
        let all = by_tag.get("").copied().context("no untagged lines")?;
        facts.note(format_args!("{language}: {by_tag:#?}"));
        facts.equal(format_args!("{language}: untagged intervals"), all.intervals, intervals);
        facts.equal(format_args!("{language}: flows sum up"), flow_counts(&by_tag), all.count);
        let seen = total.accounting["send"].submitted;
        facts.equal(format_args!("{language}: all that was decoded"), all.count, seen);
    }
    facts.finish();
    Ok(())
}

/// Flows beyond `--top` are in `other`, and the sum is the same.
#[test]
fn flows_and_other_sum_up() -> Result<()> {
    require!(Feature::Readers);
    let _alone = alone();
    let namespace = Namespace::new("record")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().display().to_string();
    let netdiag = Netdiag::start(&[
        "record",
        "-o",
        "json",
        "-i",
        "1s",
        "-d",
        "5s",
        "--top",
        "3",
        "--out",
        &out,
        "--netns",
        namespace.name(),
    ])?;
    traffic(&namespace, 10)?;
    let outcome = netdiag.wait()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.at_rest(total);
    let written = written(directory.path())?;
    let written = written.first().context("no files")?;
    for (snapshot, tags) in &written.intervals {
        facts.consistent(snapshot);
        let flows = tags.values().filter(|id| *id != "other").count();
        facts.holds(format_args!("{flows} flows of {tags:?} are at most 3"), flows <= 3);
    }
    for reader in reader::all()? {
        let by_tag = reader.read(&written.log)?;
        let language = reader.language;
        facts.note(format_args!("{language}: {by_tag:#?}"));
        let other = by_tag.get("other.send").map_or(0, |read| read.count);
        let all = by_tag.get("").context("no untagged lines")?.count;
        facts.holds(format_args!("{language}: other has {other}"), other > 0);
        facts.equal(format_args!("{language}: flows and other"), flow_counts(&by_tag), all);
        let seen = total.accounting["send"].submitted;
        facts.equal(format_args!("{language}: all that was decoded"), all, seen);
    }
    facts.finish();
    Ok(())
}

#[test]
fn a_kill_leaves_complete_intervals_readable() -> Result<()> {
    require!(Feature::Readers);
    let _alone = alone();
    let namespace = Namespace::new("record")?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().display().to_string();
    let arguments = ["record", "-i", "100ms", "--out", &out, "--netns", namespace.name()];
    let mut complete = BTreeMap::new();
    let mut facts = Facts::new();
    for round in 0..4 {
        let netdiag = Netdiag::start(&arguments)?;
        traffic(&namespace, 5)?;
        let intervals = || -> Result<usize> {
            let last = written(directory.path())?.pop().context("no files")?;
            ensure!(!complete.contains_key(&last.log), "no new files yet");
            Ok(last.intervals.len())
        };
        let several = machine::wait_until(|| intervals().is_ok_and(|intervals| intervals > 3));
        facts.holds("several intervals", several);
        thread::sleep(Duration::from_millis(17 * round));
        netdiag.signal(Signal::KILL)?;
        let _ = netdiag.wait();
        let last = written(directory.path())?.pop().context("no files")?;
        ensure!(!complete.contains_key(&last.log), "no new files in round {round}");
        if round == 0 {
            tear(&last.log)?;
        }
        complete.insert(last.log, last.intervals.len());
    }
    let mut last = arguments.to_vec();
    last.extend(["-d", "1s"]);
    let outcome = Netdiag::start(&last)?.stop_text()?;
    facts.note(format_args!("the last start: {outcome:?}"));
    for (log, intervals) in &complete {
        for reader in reader::all()? {
            let what = format!("{} on {}", reader.language, log.display());
            match reader.read(log) {
                Ok(by_tag) => {
                    let read = by_tag.get("").map_or(0, |read| read.intervals);
                    facts.equal(format_args!("{what}: intervals"), read, *intervals as u64);
                }
                Err(error) => facts.holds(format_args!("{what}: {error:#}"), false),
            }
        }
    }
    facts.finish();
    Ok(())
}

/// All that rules need stands in the lines beside the log: packets by the reason for which they were
/// dropped, and entries of connection tracking.
#[test]
fn the_lines_beside_have_drops_and_conntrack() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const NUMBER: usize = 6;
    let _alone = alone();
    let tracked = Pair::new()?;
    track(&tracked, Rules::Plain)?;
    // What the kernel tells by itself it tells by a module, which this loads.
    table::list(&tracked.left)?;
    let directory = tempfile::tempdir()?;
    let out = directory.path().display().to_string();
    let netdiag = Netdiag::start(&["record", "-o", "json", "-i", "1s", "--out", &out])?;
    let connections = connect(&tracked, Rules::Plain, NUMBER)?;
    let case = CASES.iter().find(|case| case.name == "nftables in INPUT").context("a case")?;
    let (_pair, dropped) = case.provoke()?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    let written = written(directory.path())?;
    facts.equal("pairs of files", written.len(), 1);
    let intervals = &written.first().context("no files")?.intervals;
    seamless(&mut facts, intervals, total)?;
    let mut reasons = BTreeMap::new();
    for (snapshot, _) in intervals {
        facts.consistent(snapshot);
        let ours = [dropped.netns];
        let flows = in_namespaces(snapshot, &ours);
        for flow in flows.filter(|flow| flow.local.port == Some(dropped.local.port())) {
            for (reason, packets) in group(flow, "drops") {
                *reasons.entry(reason).or_default() += packets;
            }
        }
    }
    let expected = BTreeMap::from([(case.reason(machine::series()), dropped.packets)]);
    facts.equal("packets dropped, by reason", reasons, expected);
    for connection in &connections {
        let entry = entry(connection, Rules::Plain)?;
        let told = intervals.iter().filter_map(|(snapshot, _)| snapshot.conntrack.as_ref());
        let rows: Vec<_> = told.flat_map(|told| said::of(told, &entry)).collect();
        let confirmed: u64 = rows.iter().filter_map(|row| said::count(row, "confirmed")).sum();
        facts.equal(format_args!("times that {entry:?} began in {rows:?}"), confirmed, 1);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// What a kill in the middle of a write leaves: half of another line.
fn tear(log: &Path) -> Result<()> {
    let text = fs::read_to_string(log)?;
    let line = text.lines().rfind(|line| line.starts_with("Tag=")).context("no tagged line")?;
    OpenOptions::new().append(true).open(log)?.write_all(&line.as_bytes()[..line.len() / 2])?;
    Ok(())
}
