use std::{
    collections::{BTreeMap, BTreeSet},
    time::UNIX_EPOCH,
};

use netdiag_common::flow::FlowKey;
use proptest::prelude::*;

use super::*;
use crate::{
    finding::{Scope, Severity},
    flow::{Frozen, Role, latency::Latency},
    signal::{Label, counts, retransmit},
    view::sample::read,
    watched::Watched,
};

const RTT: &str = "rtt";

pub(in crate::view) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn metric(name: &str) -> MetricId {
    metrics().find(|(.., metric)| metric.name == name).expect("a metric").0
}

fn id(name: &str) -> CountId {
    counts().find(|(.., count)| count.name == name).expect("a count").0
}

/// A client's end of a conversation with a server, with some round trips.
pub(in crate::view) fn flow(comm: &str, nanoseconds: u64, n: u64) -> Frozen {
    let mut latency = Latency::default();
    latency.record_n(nanoseconds, n);
    let mapped = |last| std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
    Frozen {
        id: 1,
        key: FlowKey {
            local_addr: mapped(1),
            peer_addr: mapped(2),
            local_port: 40_000,
            peer_port: 443,
            netns: 1,
            ..FlowKey::default()
        },
        role: Some(Role::Client),
        comm: Some(comm.to_owned()),
        latencies: vec![(metric(RTT), latency)],
        counts: vec![(id("sends"), n)],
        ..Frozen::default()
    }
}

pub(in crate::view) fn interval(flows: Vec<Frozen>) -> Interval {
    Interval { flows, ..Interval::default() }
}

/// Every series of a family by its labels, histograms by their counts.
fn numbers(metrics: &Metrics, name: &str) -> BTreeMap<Vec<String>, f64> {
    let families = metrics.families();
    let family = families.iter().find(|family| family.definition.name == name).expect(name);
    let of = |series: &Series| {
        let labels = series.labels.iter().map(ToString::to_string).collect();
        let value = match &series.value {
            Value::Number(value) => *value,
            Value::Histogram(told) => told.count as f64,
        };
        (labels, value)
    };
    family.series.iter().map(of).collect()
}

/// A run of one interval whose process has the worst of names.
pub(in crate::view) fn small() -> Metrics {
    let mut metrics = Metrics::new(8, at(0));
    let mut evil = flow("e\u{1b}[2J\n\u{202e}\"\\\u{1d11e}", 1_000_000, 3);
    evil.labelled = vec![((id("drops"), Label::Reason(3)), 2)];
    evil.counts.push((id("send_bytes"), 4_096));
    let mut labels = Labels::default();
    labels.reasons.insert(3, "NO_SOCKET".to_owned());
    metrics.count(&interval(vec![evil]), &labels, at(1));
    let watched = Watched::default();
    let found = Finding::new(&watched, Severity::Warning, Scope::node("n"), "t");
    let found = Finding { id: "packet-loss".to_owned(), ..found };
    let mut snapshot: Snapshot = read("lossy");
    snapshot.host = "n\u{7}ode".to_owned();
    metrics.observe(&snapshot, &[found], 0, at(1), Duration::from_secs(1));
    metrics
}

#[test]
fn names_are_as_prometheus_wants_them() {
    let mut names = BTreeSet::new();
    for definition in definitions() {
        let Definition { name, kind, unit, labels, help } = &*definition;
        let is_plain = |text: &str| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
        };
        assert!(is_plain(name) && labels.iter().all(|label| is_plain(label)), "{name} {labels:?}");
        assert!(name.starts_with("netdiag_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
        let ends_in = |unit: &Unit| definition.family().ends_with(&format!("_{}", unit.name()));
        assert!(unit.as_ref().is_none_or(ends_in), "{name}");
        assert!(
            !help.is_empty() && !help.contains('\n') && !help.contains("nanosecond"),
            "{name}: {help}"
        );
        assert!(names.insert(definition.family().to_owned()), "{name} is there twice");
        let distinct: BTreeSet<_> = labels.iter().collect();
        assert_eq!(distinct.len(), labels.len(), "{name} {labels:?}");
    }
}

#[test]
fn every_count_that_adds_up_is_told_once() {
    let told = definitions();
    let is_told = |name: &str| told.iter().any(|definition| definition.name == name);
    for (name, metric) in [
        ("retransmits.rto", "netdiag_retransmits_total"),
        ("dns.queries", "netdiag_dns_queries_total"),
        ("send_bytes", "netdiag_send_bytes_total"),
        ("bytes_sent", "netdiag_sent_bytes_total"),
        ("spent_ns.peer_application", "netdiag_spent_seconds_total"),
        ("busy_ns", "netdiag_busy_seconds_total"),
        ("drops", "netdiag_drops_total"),
    ] {
        let _there = id(name);
        assert!(is_told(metric), "{metric}");
    }
    assert!(is_told("netdiag_conntrack_insert_failed_total"));
    // The histogram of that name has the sum.
    assert!(is_told("netdiag_send_seconds") && !is_told("netdiag_send_seconds_total"));
    assert_eq!(retransmit::DEFINITION.counts[0].key, Some("kind"));
}

#[test]
fn text() {
    let families = small().families();
    // What is the same for every metric need not be seen of each.
    let shown = [
        "netdiag_rtt_seconds",
        "netdiag_send_bytes",
        "netdiag_drops",
        "netdiag_finding",
        "netdiag_build",
    ];
    let shown: Vec<_> =
        families.into_iter().filter(|family| shown.contains(&family.definition.family())).collect();
    insta::assert_snapshot!("openmetrics", text::openmetrics(&shown));
    insta::assert_snapshot!("prometheus", text::prometheus(&shown));
}

#[test]
fn names_of_others_end_no_line_and_no_label() {
    let text = text::openmetrics(&small().families());
    assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{text}");
    assert!(!text.contains('\u{202e}'));
    for line in text.lines() {
        let is_one =
            line.starts_with("# ") || line.starts_with("netdiag_") || line.starts_with("process_");
        assert!(is_one, "{line}");
    }
    // The escaped quotation mark and backslash, and the character of 4 bytes as it is.
    assert!(text.contains(r#"comm="e�[2J��\"\\𝄞""#), "{text}");
}

#[test]
fn formats_say_the_same() {
    let families = small().families();
    let read = protobuf::tests::read(&encoded(&families, Format::Protobuf));
    let text = text::prometheus(&families);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(read.len(), lines.len());
    for (name, value) in &read {
        assert!(
            lines.contains(&format!("{name} {value}").as_str()),
            "{name} {value} is not in\n{text}"
        );
    }
}

#[test]
fn what_has_no_room_is_other_and_stays_there() {
    let mut metrics = Metrics::new(2, at(0));
    let all =
        |n| vec![flow("few", 1_000, n), flow("more", 1_000, 2 * n), flow("most", 1_000, 3 * n)];
    let comm = |labels: &Vec<String>| labels[3].clone();
    metrics.count(&interval(all(1)), &Labels::default(), at(1));
    assert_eq!(metrics.groups.sizes(), (2, 1));
    metrics.count(&interval(vec![flow("few", 1_000, 100)]), &Labels::default(), at(2));
    metrics.count(&interval(all(1)), &Labels::default(), at(3));
    let told = numbers(&metrics, "netdiag_rtt_seconds");
    let told: Vec<_> = told.iter().map(|(labels, n)| (comm(labels), *n)).collect();
    let expected = [("more", 4.0), ("most", 6.0), ("other", 102.0)];
    assert_eq!(told, expected.map(|(comm, n)| (comm.to_owned(), n)));
}

#[test]
fn a_silent_group_makes_room_and_comes_back_anew() {
    let mut metrics = Metrics::new(1, at(0));
    let comms = |metrics: &Metrics| -> Vec<(String, f64)> {
        let told = numbers(metrics, "netdiag_sends_total");
        told.into_iter().map(|(labels, n)| (labels[3].clone(), n)).collect()
    };
    let mut take = |comm, second| {
        metrics.count(&interval(vec![flow(comm, 1_000, 5)]), &Labels::default(), at(second));
        metrics.signals = read::<Snapshot>("quiet").signals;
        comms(&metrics)
    };
    let told = |comm: &str, n, other| vec![(comm.to_owned(), n), ("other".to_owned(), other)];
    assert_eq!(take("a", 1), told("a", 5.0, 0.0));
    assert_eq!(take("b", 2), told("a", 5.0, 5.0));
    assert_eq!(take("b", 1_000), told("b", 5.0, 5.0));
    assert_eq!(take("a", 2_000), told("a", 5.0, 5.0));
}

#[test]
fn accounts_never_fall() {
    let mut metrics = Metrics::new(1, at(0));
    let mut snapshot: Snapshot = read("lossy");
    let name = "netdiag_samples_seen_total";
    metrics.observe(&snapshot, &[], 0, at(1), Duration::from_secs(1));
    let before = numbers(&metrics, name);
    snapshot
        .accounting
        .values_mut()
        .for_each(|account| account.seen = account.seen.saturating_sub(1));
    metrics.observe(&snapshot, &[], 0, at(2), Duration::from_secs(1));
    assert_eq!(numbers(&metrics, name), before);
}

#[test]
fn idle_flows_are_not_active_whatever_is_listed() {
    let mut metrics = Metrics::new(8, at(0));
    let idle = Frozen { idle: true, ..flow("a", 1_000, 1) };
    let flows = Interval { folded: 3, ..interval(vec![flow("a", 1_000, 1), idle]) };
    metrics.count(&flows, &Labels::default(), at(1));
    // With `--all` there are idle ones among those that a snapshot leaves out, too.
    let snapshot = Snapshot { folded: Some(9), ..read("quiet") };
    metrics.observe(&snapshot, &[], 0, at(1), Duration::from_secs(1));
    assert_eq!(numbers(&metrics, "netdiag_flows"), BTreeMap::from([(Vec::new(), 4.0)]));
}

#[test]
fn what_cannot_be_concluded_is_told() {
    let mut metrics = Metrics::new(8, at(0));
    for withheld in [3, 0] {
        metrics.observe(&read("quiet"), &[], withheld, at(1), Duration::from_secs(1));
        let told = numbers(&metrics, "netdiag_findings_withheld");
        assert_eq!(told, BTreeMap::from([(Vec::new(), withheld as f64)]));
    }
}

proptest! {
    #[test]
    fn sums_never_fall_and_lose_nothing(
        intervals in prop::collection::vec(
            prop::collection::vec((0..6_usize, 1..2_000_000_u64, 1..9_u64), 0..8), 1..12)
    ) {
        let mut metrics = Metrics::new(3, at(0));
        metrics.signals = read::<Snapshot>("quiet").signals;
        let mut before: BTreeMap<&str, BTreeMap<Vec<String>, f64>> = BTreeMap::new();
        let mut expected = 0;
        for (nth, flows) in intervals.into_iter().enumerate() {
            expected += flows.iter().map(|(.., n)| n).sum::<u64>();
            let flow = |(who, nanoseconds, n)| flow(["a", "b", "c", "d", "e", "f"][who], nanoseconds, n);
            let flows = interval(flows.into_iter().map(flow).collect());
            metrics.count(&flows, &Labels::default(), at(nth as u64));
            for name in ["netdiag_sends_total", "netdiag_rtt_seconds"] {
                let now = numbers(&metrics, name);
                prop_assert_eq!(now.values().sum::<f64>(), expected as f64);
                prop_assert!(now.len() <= 4);
                for (labels, n) in before.get(name).into_iter().flatten() {
                    prop_assert!(now[labels] >= *n);
                }
                before.insert(name, now);
            }
        }
    }
}
