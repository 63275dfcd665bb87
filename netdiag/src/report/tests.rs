use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use netdiag_common::signal::Signal;

use super::{told::Report, *};
use crate::{
    flow::{Frozen, Interval, latency::Latency},
    signal::metric_id,
    snapshot::Snapshot,
    view::dump::block::{Encoder, Span},
    watched::kit,
};

/// A recorded interval: its snapshot and lines.
struct Taken {
    node: &'static str,
    pair: usize,
    snapshot: Snapshot,
    log: Vec<u8>,
}

/// The `second` of a node, in which these flows took so long to send, and `other` the rest.
fn taken(node: &'static str, second: u64, flows: Vec<(Flow, &[u64])>, other: &[u64]) -> Taken {
    let send = metric_id(Signal::Send, 0);
    let frozen = |id, values: &[u64]| {
        let mut latency = Latency::default();
        values.iter().for_each(|value| latency.record(*value));
        Frozen { id, latencies: vec![(send, latency)], ..Frozen::default() }
    };
    let number = |flow: &Flow| flow.id[1..].parse().expect("f and a number");
    let interval = Interval {
        flows: flows.iter().map(|(flow, values)| frozen(number(flow), values)).collect(),
        other: frozen(0, other),
        ..Interval::default()
    };
    let snapshot = kit::snapshot(second, flows.into_iter().map(|(flow, _)| flow).collect());
    let start: Timestamp = snapshot.start.parse().expect("time");
    let span = Span { file: start, start, end: start };
    let block = Encoder::default().encode(&snapshot, &interval, span, 1, None).expect("encoded");
    let pair = node.len();
    Taken { node, pair, snapshot, log: block.log.to_vec() }
}

fn asked(by: &[By], top: usize) -> Asked {
    Asked {
        by: by.to_vec(),
        top,
        since: None,
        until: None,
        filtered: false,
        wanted: Box::new(|_| true),
    }
}

fn reported(asked: Asked, all: &[Taken]) -> Report {
    let mut survey = Survey::new(asked, Arc::new(|_, _| Some(true)));
    let origin = |one: &Taken| Origin { node: one.node, pair: one.pair };
    all.iter().for_each(|one| survey.take(origin(one), &one.snapshot));
    let mut fold = Fold::new(survey.choose().expect("intervals"));
    for one in all {
        fold.take(origin(one), &one.snapshot, &BTreeMap::new(), Some(&one.log));
    }
    fold.report(None, true, Vec::new(), true)
}

/// Of all of these values.
fn expected(values: &[&[u64]]) -> crate::snapshot::Distribution {
    let mut latency = Latency::default();
    values.iter().copied().flatten().for_each(|value| latency.record(*value));
    latency.distribution()
}

const A1: &[u64] = &[1_000, 2_000, 900_000];
const A2: &[u64] = &[5, 70_000_000];
const B1: &[u64] = &[3_000, 3_000, 3_000, 9_000];
const REST: &[u64] = &[44];

fn flow(id: &str, peer: &str, lost: u64) -> Flow {
    kit::flow(id).to(peer, 443).count("retransmits.rto", lost)
}

fn two_nodes() -> Vec<Taken> {
    vec![
        taken("a", 0, vec![(flow("f1", "10.0.0.2", 1), A1)], &[]),
        taken("a", 1, vec![(flow("f1", "10.0.0.2", 0), A2), (flow("f2", "10.0.0.3", 5), B1)], REST),
        taken("bb", 1, vec![(flow("f1", "10.0.0.2", 2), B1)], &[]),
    ]
}

#[test]
fn nodes_are_added_up_bucket_by_bucket() {
    let report = reported(asked(&[By::Peer, By::Node, By::Flow], 10), &two_nodes());
    let all = expected(&[A1, A2, B1, B1, REST]);
    assert_eq!(report.all.metrics["send"], all);
    assert_eq!(report.metric.as_deref(), Some("send"));
    let rows = |at: usize| -> BTreeMap<_, _> {
        let rows = report.by[at].rows.iter();
        rows.map(|row| (row.name.clone().expect("a name"), row.metrics["send"].clone())).collect()
    };
    let named = |name: &str| name.to_owned();
    let peers =
        [(named("10.0.0.2"), expected(&[A1, A2, B1])), (named("10.0.0.3"), expected(&[B1]))];
    assert_eq!(rows(0), peers.into());
    assert_eq!(report.by[0].other.metrics["send"], expected(&[REST]));
    let nodes = [(named("a"), expected(&[A1, A2, B1, REST])), (named("bb"), expected(&[B1]))];
    assert_eq!(rows(1), nodes.into());
    assert_eq!((report.by[2].rows.len(), report.by[2].folded), (3, 0));
    let course = report.all.over_time.as_ref().expect("over time");
    assert_eq!(course.metrics["send"].count, [3, 11]);
    assert_eq!(course.metrics["send"].max_ns[0], expected(&[A1]).max_ns);
    assert_eq!(course.counts["retransmits"], [Some(1), Some(7)]);
    assert_eq!(report.columns.recorded_ms, [1_000, 2_000]);
    assert_eq!((report.nodes.len(), report.complete), (2, true));
    assert_eq!(report.coarse.iter().map(|one| one.latency.count).sum::<u64>(), all.count);
}

#[test]
fn what_has_no_row_is_in_other() {
    let report = reported(asked(&[By::Peer], 1), &two_nodes());
    let grouped = &report.by[0];
    assert_eq!((grouped.rows.len(), grouped.folded), (1, 1));
    assert_eq!(grouped.rows[0].name.as_deref(), Some("10.0.0.2"));
    assert_eq!(grouped.rows[0].flows, Some(2));
    assert_eq!(grouped.other.metrics["send"], expected(&[B1, REST]));
}

#[test]
fn filters_and_times_narrow_it() {
    let filtered = Asked {
        filtered: true,
        wanted: Box::new(|flow| flow.peer.ip == Some("10.0.0.3".parse().expect("an address"))),
        ..asked(&[By::Peer], 5)
    };
    let report = reported(filtered, &two_nodes());
    assert_eq!(report.all.metrics["send"], expected(&[B1]));
    assert!(report.filtered && report.notes.len() <= 1, "{:?}", report.notes);
    let second = nanoseconds(&kit::snapshot(1, vec![]).start);
    let late = reported(Asked { since: second, ..asked(&[By::Peer], 5) }, &two_nodes());
    assert_eq!(late.all.metrics["send"], expected(&[A2, B1, B1, REST]));
    let early = reported(Asked { until: second, ..asked(&[By::Peer], 5) }, &two_nodes());
    assert_eq!(early.all.metrics["send"], expected(&[A1]));
    assert_eq!(early.nodes.len(), 1);
}

#[test]
fn both_ends_are_side_by_side() {
    let far = Flow {
        peer: kit::end("10.0.0.1", 40_000),
        local: kit::end("10.0.0.2", 443),
        ..kit::flow("f7")
    };
    let near = flow("f1", "10.0.0.2", 30)
        .count("segments_sent", 1_000)
        .count("dsacks", 0)
        .count("drops.NO_SOCKET", 0);
    let far = Flow { role: Some(crate::snapshot::Role::Server), ..far }
        .count("segments_received", 970)
        .count("drops.NETFILTER_DROP", 29);
    let all = [taken("bb", 0, vec![(far, B1)], &[]), taken("a", 0, vec![(near, A1)], &[])];
    let report = reported(asked(&[By::Flow], 5), &all);
    let [one] = &report.conversations[..] else { panic!("{:?}", report.conversations) };
    assert_eq!(one.ends.iter().map(|end| end.node.as_str()).collect::<Vec<_>>(), ["a", "bb"]);
    assert_eq!(one.ends[0].metrics["send"], expected(&[A1]));
    let way = &one.ways[0];
    assert_eq!(
        (way.segments_lost, way.retransmits, way.dropped_at_receiver),
        (Some(30), Some(30), Some(29))
    );
    assert!(way.lost_where.starts_with("on bb"), "{}", way.lost_where);
}

#[test]
fn what_was_left_out_is_said() {
    let mut all = two_nodes();
    for (at, shed) in [(0, 5), (1, 7)] {
        let accounting = &mut all[at].snapshot.accounting;
        accounting.entry("send".to_owned()).or_default().shed = 5;
        accounting.entry("turn".to_owned()).or_default().shed = shed;
    }
    all[2].snapshot.own.shed = vec!["rtt".to_owned()];
    let notes = reported(asked(&[By::Peer], 5), &all).notes;
    let said = ["a: samples of `turn` were left out", "bb: samples of `rtt` were left out"];
    assert_eq!(notes.len(), said.len(), "{notes:?}");
    assert!(notes.iter().zip(said).all(|(note, said)| note.starts_with(said)), "{notes:?}");
}

#[test]
fn torn_histograms_are_left_out_and_said() {
    let mut all = two_nodes();
    let log = String::from_utf8(all[0].log.clone()).expect("UTF-8");
    let line = log.lines().find(|line| line.starts_with("Tag=f1.send")).expect("a line");
    all[0].log = log.replace(line, &line[..line.len() - 5]).into_bytes();
    let report = reported(asked(&[By::Peer], 5), &all);
    assert_eq!(report.all.metrics["send"], expected(&[A2, B1, B1, REST]));
    assert!(!report.complete && report.notes.len() == 1, "{:?}", report.notes);
}

/// Whatever stands in a log: what can be read of it is added up.
#[test]
fn hostile_logs_are_survived() {
    let sound: Vec<_> = two_nodes().into_iter().map(|one| one.log).collect();
    crate::hostile::survived(&sound, |bytes| {
        let one = taken("a", 0, vec![(flow("f1", "10.0.0.2", 1), A1)], &[]);
        let report = reported(asked(&[By::Peer], 5), &[Taken { log: bytes.to_vec(), ..one }]);
        assert_eq!(report.nodes.len(), 1);
    });
}
