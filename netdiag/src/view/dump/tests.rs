use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
    time::Duration,
};

use hdrhistogram::serialization::{
    Deserializer,
    interval_log::{IntervalLogIterator, LogEntry},
};
use netdiag_common::signal::Signal;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    flow::{Frozen, Interval, latency::Latency},
    signal::metric_id,
    view::sample,
};

mod full;
mod names;
mod torn;

const NODE: &str = "node-1";

fn settings(out: PathBuf) -> config::Dump {
    config::Dump {
        out,
        node: None,
        max_disk: 1 << 30,
        rotate_size: 1 << 28,
        rotate_every: Duration::from_secs(3_600),
    }
}

/// Leaves nothing to others, so that tests run on any disk.
const ALL_ROOM: Room = Room { bytes: 0, percent: 0 };

fn open(settings: &config::Dump) -> (Recorder, Vec<String>) {
    Recorder::with_room(settings, NODE, ALL_ROOM).expect("directory")
}

/// The `n`th second of a run: which flows sent, and how long it took, in nanoseconds.
fn interval(flows: &[(u64, &[u64])], other: &[u64]) -> Interval {
    let send = metric_id(Signal::Send, 0);
    let row = |id: u64, values: &[u64]| {
        let mut latency = Latency::default();
        values.iter().for_each(|&value| latency.record(value));
        Frozen { id, latencies: vec![(send, latency)], ..Frozen::default() }
    };
    Interval {
        flows: flows.iter().map(|(id, values)| row(*id, values)).collect(),
        other: row(0, other),
        ..Interval::default()
    }
}

fn snapshot(second: i64) -> Snapshot {
    let mut snapshot: Snapshot = sample::read("ipv4");
    let start: Timestamp = "2026-11-21T04:18:00Z".parse().expect("time");
    let at = |second| start.checked_add(Duration::from_secs(second)).expect("time").to_string();
    let second = u64::try_from(second).expect("positive");
    (snapshot.start, snapshot.end) = (at(second), at(second + 1));
    snapshot
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// A histogram of a log: tag, start, sorted values with their counts.
type Logged = (Option<String>, Duration, Vec<(u64, u64)>);

fn logged(bytes: &[u8]) -> Vec<Logged> {
    let mut all = Vec::new();
    for entry in IntervalLogIterator::new(bytes) {
        let LogEntry::Interval(line) = entry.expect("readable") else { continue };
        let encoded = base64(line.encoded_histogram());
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut encoded.as_slice()).expect("histogram");
        let values = histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        let tag = line.tag().map(|tag| tag.as_str().to_owned());
        all.push((tag, line.start_timestamp(), values));
    }
    all
}

/// RFC 4648 section 4.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::new();
    for group in text.chunks(4) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 6 | value(byte));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

fn sidecar(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_pair_holds_what_was_measured() {
    let root = tempfile::tempdir().expect("directory");
    let out = root.path().join("new/dumps");
    let (mut recorder, said) = open(&settings(out.clone()));
    assert_eq!(said, [""; 0]);
    let first = interval(&[(12, &[1_000, 2_000]), (7, &[5])], &[9]);
    assert_eq!(recorder.write(&snapshot(0), &first), None);
    assert_eq!(recorder.write(&snapshot(1), &interval(&[], &[])), None);
    recorder.close().expect("closed");

    let name = "netdiag-node-1-20261121T041800Z";
    assert_eq!(files(&out), [format!("{name}.hlog"), format!("{name}.jsonl")]);
    let log = fs::read(out.join(format!("{name}.hlog"))).expect("log");
    let text = String::from_utf8(log.clone()).expect("UTF-8");
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    assert!(text.contains("#[StartTime: 1795234680.000 (seconds since epoch)]\n"), "{text}");
    let zero = Duration::ZERO;
    let tag = |tag: &str| Some(tag.to_owned());
    assert_eq!(
        logged(&log),
        [
            (None, zero, vec![(5, 1), (9, 1), (1_003, 1), (2_007, 1)]),
            (tag("f12.send"), zero, vec![(1_003, 1), (2_007, 1)]),
            (tag("f7.send"), zero, vec![(5, 1)]),
            (tag("other.send"), zero, vec![(9, 1)]),
            (None, Duration::from_secs(1), vec![]),
        ]
    );
    let lines = sidecar(&fs::read(out.join(format!("{name}.jsonl"))).expect("sidecar"));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["tags"], serde_json::json!({"f12": "f12", "f7": "f7", "other": "other"}));
    assert_eq!(lines[0]["schema"], "netdiag.snapshot/1");
    assert_eq!(lines[1]["start"], "2026-11-21T04:18:01Z");
}

#[test]
fn nobody_else_may_read_and_no_link_is_followed() {
    let root = tempfile::tempdir().expect("directory");
    let out = root.path().join("dumps");
    let victim = root.path().join("victim");
    fs::write(&victim, "precious").expect("file");
    fs::DirBuilder::new().mode(0o755).create(&out).expect("directory");
    let name = "netdiag-node-1-20261121T0418";
    symlink(&victim, out.join(format!("{name}00Z.hlog"))).expect("link");
    fs::hard_link(&victim, out.join(format!("{name}00Z-2.hlog"))).expect("link");
    let (mut recorder, said) = open(&settings(out.clone()));
    assert_eq!(said.len(), 2, "{said:?}");
    recorder.write(&snapshot(0), &interval(&[(1, &[1])], &[]));
    assert_eq!(fs::read_to_string(&victim).expect("file"), "precious");
    for extension in ["hlog", "jsonl"] {
        let file = out.join(format!("{name}00Z-3.{extension}"));
        let mode = fs::symlink_metadata(&file).expect("file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", file.display());
    }
    let made = root.path().join("made");
    drop(open(&settings(made.clone())));
    assert_eq!(fs::metadata(&made).expect("made").permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_directory_that_cannot_be_used_is_wrong_usage() {
    let root = tempfile::tempdir().expect("directory");
    let file = root.path().join("file");
    fs::write(&file, "").expect("file");
    let link = root.path().join("link");
    symlink(root.path(), &link).expect("link");
    let below = file.join("dumps");
    for (out, expected) in [
        (file, "Not a directory"),
        (link, "a symlink is not followed"),
        (below, "Not a directory"),
        (PathBuf::from("/proc/1"), "Permission denied|No such file|not permitted"),
    ] {
        let error = Recorder::with_room(&settings(out.clone()), NODE, ALL_ROOM)
            .expect_err("cannot be used");
        assert_eq!(error.status(), exit::Status::Usage, "{error}");
        let text = error.to_string();
        assert!(expected.split('|').any(|part| text.contains(part)), "{text}");
        assert!(text.contains(&out.display().to_string()), "{text}");
    }
}

#[test]
fn files_rotate_by_age_by_size_and_when_the_clock_is_set_back() {
    let each = |change: fn(&mut config::Dump), seconds: [i64; 4]| {
        let root = tempfile::tempdir().expect("directory");
        let mut settings = settings(root.path().to_owned());
        change(&mut settings);
        let (mut recorder, _) = open(&settings);
        for second in seconds {
            recorder.write(&snapshot(second), &interval(&[(1, &[1_000])], &[]));
        }
        recorder.close().expect("closed");
        let logs = files(root.path()).into_iter().filter(|name| name.ends_with(".hlog"));
        logs.map(|name| {
            let log = fs::read(root.path().join(name)).expect("log");
            let untagged = logged(&log).into_iter().filter(|(tag, ..)| tag.is_none());
            untagged.map(|(_, start, _)| start.as_secs()).collect::<Vec<_>>()
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(each(|_| (), [0, 1, 2, 3]), [[0, 1, 2, 3]]);
    assert_eq!(each(|s| s.rotate_every = Duration::from_secs(2), [0, 1, 2, 3]), [[0, 1], [0, 1]]);
    assert_eq!(each(|s| s.rotate_size = 1, [0, 1, 2, 3]), [[0], [0], [0], [0]]);
    assert_eq!(each(|_| (), [10, 11, 5, 6]), [[0, 1], [0, 1]]);
}

#[test]
fn the_oldest_file_makes_room_under_max_disk() {
    let root = tempfile::tempdir().expect("directory");
    let mut settings = settings(root.path().to_owned());
    settings.rotate_every = Duration::from_secs(1);
    settings.max_disk = 20_000;
    let stranger = root.path().join("netdiag-other-20200101T000000Z.hlog");
    fs::write(&stranger, vec![b'#'; 30_000]).expect("file");
    let (mut recorder, _) = open(&settings);
    for second in 0..20 {
        recorder.write(&snapshot(second), &interval(&[(1, &[1])], &[]));
        let ours = files(root.path()).into_iter().filter(|name| name.contains("node-1"));
        let bytes: u64 =
            ours.map(|name| fs::metadata(root.path().join(name)).expect("file").len()).sum();
        assert!(bytes <= settings.max_disk, "{bytes} bytes after {second} s");
    }
    let left = files(root.path());
    assert!(stranger.exists(), "a file of another node is gone");
    assert!(left.iter().any(|name| name.contains("041819Z")), "{left:?}");
    assert!(!left.iter().any(|name| name.contains("041800Z")), "{left:?}");
}

#[test]
fn files_removed_under_us_are_begun_again() {
    let root = tempfile::tempdir().expect("directory");
    let (mut recorder, _) = open(&settings(root.path().to_owned()));
    let one = interval(&[(1, &[1])], &[]);
    recorder.write(&snapshot(0), &one);
    for name in files(root.path()) {
        fs::remove_file(root.path().join(name)).expect("removed");
    }
    recorder.write(&snapshot(1), &one);
    assert_eq!(files(root.path()).len(), 2);
}

#[test]
fn a_second_has_room_for_many_pairs() {
    let root = tempfile::tempdir().expect("directory");
    let mut settings = settings(root.path().to_owned());
    settings.rotate_size = 1;
    let (mut recorder, _) = open(&settings);
    for _ in 0..70 {
        recorder.write(&snapshot(0), &interval(&[(1, &[1])], &[]));
    }
    recorder.close().expect("closed");
    let names = files(root.path());
    assert_eq!(names.len(), 140);
    assert!(names.contains(&"netdiag-node-1-20261121T041800Z-70.hlog".to_owned()), "{names:?}");
}

#[test]
fn two_runs_at_once_share_a_directory() {
    let root = tempfile::tempdir().expect("directory");
    let settings = settings(root.path().to_owned());
    let one = interval(&[(1, &[1])], &[]);
    let (mut first, _) = open(&settings);
    first.write(&snapshot(0), &one);
    let (mut second, said) = open(&settings);
    assert_eq!(said, [""; 0]);
    second.write(&snapshot(0), &one);
    first.write(&snapshot(1), &one);
    drop((first, second));
    let intervals = ["", "-2"].map(|number| {
        let name = format!("netdiag-node-1-20261121T041800Z{number}.jsonl");
        sidecar(&fs::read(root.path().join(name)).expect("sidecar")).len()
    });
    assert_eq!(intervals, [2, 1]);
}

proptest! {
    /// The untagged histogram is the sum of all flows and the rest.
    #[test]
    fn the_node_is_the_sum_of_its_flows(
        flows in prop::collection::vec(
            prop::collection::vec(1_u64..3_600_000_000_000, 0..50), 0..8),
        other in prop::collection::vec(1_u64..10_000, 0..50),
    ) {
        let flows: Vec<(u64, &[u64])> =
            (1..).zip(flows.iter().map(Vec::as_slice)).collect();
        let mut encoder = Encoder::default();
        let start: Timestamp = "2026-11-21T04:18:00Z".parse().expect("time");
        let span = block::Span { file: start, start, end: start };
        let block = encoder
            .encode(&snapshot(0), &interval(&flows, &other), span, 1, None)
            .expect("encoded");
        let all = logged(&block.log);
        let mut sum = BTreeMap::new();
        for (_, _, values) in all.iter().filter(|(tag, ..)| tag.is_some()) {
            for (value, count) in values {
                *sum.entry(*value).or_insert(0) += count;
            }
        }
        prop_assert_eq!(&all[0].0, &None);
        prop_assert_eq!(&all[0].2, &sum.into_iter().collect::<Vec<_>>());
    }
}
