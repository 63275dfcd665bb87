use super::*;
use crate::{
    report::{
        By,
        told::{Coarse, Course, Row, SCHEMA, Series, Times},
    },
    view::schema::check,
    watched::kit,
};

/// A report of two nodes and four columns of time, with names that others chose.
pub(in crate::view) fn sample(name: &str) -> Report {
    let told = kit::flow("f1").latency("response", 40, 2_000_000).count("retransmits.rto", 7);
    let told = told.count("drops.NETFILTER_DROP", 2);
    let ns = |ns| vec![Some(ns), Some(ns * 3), None, Some(ns)];
    let series = Series {
        count: vec![10, 20, 0, 10],
        p50_ns: ns(1_000_000),
        p90_ns: ns(1_500_000),
        p99_ns: ns(2_000_000),
        p999_ns: ns(2_000_000),
        max_ns: ns(2_500_000),
        heat: vec![vec![60, 8, 61, 2], vec![66, 20], vec![], vec![60, 10]],
        curve: vec![(0.5, 1_000_000), (0.9, 1_500_000), (1.0, 2_500_000)],
    };
    let course = Course {
        metrics: [("response".to_owned(), series)].into(),
        counts: [("retransmits".to_owned(), vec![Some(7), Some(0), None, Some(0)])].into(),
    };
    let row = Row {
        name: Some(name.to_owned()),
        flows: Some(3),
        metrics: told.metrics.clone(),
        counts: told.counts.clone(),
        over_time: Some(course),
    };
    let node = |name: &str, gaps| NodeRow {
        name: name.to_owned(),
        kernel: "6.12.0".to_owned(),
        start: "2026-11-28T14:00:00Z".to_owned(),
        end: "2026-11-28T14:00:04Z".to_owned(),
        runs: 1,
        intervals: 4,
        recorded_s: 3.0,
        gaps,
        gap_s: gaps as f64,
        overlap_s: 0.0,
        complete: true,
        lost: Some(0),
        filtered: false,
        grouped: false,
        withheld: vec![],
        shed: vec![],
    };
    let coarse = |second, recorded| Coarse {
        start: format!("2026-11-28T14:00:0{second}Z"),
        recorded,
        latency: told.metrics["response"].clone(),
        counts: vec![Some(7), None, Some(0)],
    };
    let by = |by, name: Option<&str>| Grouped {
        by,
        rows: vec![Row { name: name.map(str::to_owned), ..row.clone() }],
        other: Row { metrics: told.metrics.clone(), ..Row::default() },
        folded: 4,
    };
    Report {
        schema: SCHEMA.to_owned(),
        start: "2026-11-28T14:00:00Z".to_owned(),
        end: "2026-11-28T14:00:04Z".to_owned(),
        filtered: false,
        complete: true,
        metric: Some("response".to_owned()),
        counted: ["retransmits", "drops", "resets_sent"].map(str::to_owned).to_vec(),
        nodes: vec![node("node-1", 0), node("node-2", 1)],
        columns: Times {
            start: "2026-11-28T14:00:00Z".to_owned(),
            step_ns: 1_000_000_000,
            count: 4,
            recorded_ms: vec![2_000, 2_000, 0, 2_000],
        },
        all: Row { name: None, ..row.clone() },
        by: vec![by(By::Peer, Some("10.0.0.2")), by(By::Owner, Some(name)), by(By::Pod, None)],
        conversations: vec![conversation_of(name)],
        findings: vec![finding_of(name)],
        findings_left_out: [("packet-loss".to_owned(), 3)].into(),
        notes: vec!["node-2: something is to be known".to_owned()],
        coarse: vec![coarse(0, true), coarse(2, false)],
    }
}

fn conversation_of(name: &str) -> Conversation {
    let end = |node: &str, flow: crate::snapshot::Flow| EndRow {
        node: node.to_owned(),
        id: "f1".to_owned(),
        local: flow.local,
        peer: flow.peer,
        netns: flow.netns,
        role: flow.role,
        owner: crate::snapshot::Owner { comm: Some(name.to_owned()), ..flow.owner },
        rtt_min_ns: Some(180_000),
        metrics: flow.metrics,
        counts: flow.counts,
    };
    let client = kit::flow("f1").latency("rtt", 9, 200_000).count("retransmits.rto", 7);
    let ends = vec![end("node-1", client), end("node-2", kit::flow("f1").serving(443))];
    let way = Way {
        from: "node-1".to_owned(),
        to: "node-2".to_owned(),
        segments_sent: Some(1_000),
        segments_received: Some(993),
        segments_lost: Some(7),
        retransmits: Some(7),
        retransmitted_bytes: Some(9_000),
        spurious: Some(0),
        dropped_at_sender: Some(0),
        dropped_at_receiver: None,
        dropped_bytes_at_sender: Some(0),
        dropped_bytes_at_receiver: None,
        lost_where: "not known: drops were not recorded at both ends".to_owned(),
    };
    Conversation {
        protocol: Some("tcp".to_owned()),
        start: "2026-11-28T14:00:00Z".to_owned(),
        end: "2026-11-28T14:00:04Z".to_owned(),
        translated: true,
        ends,
        ways: vec![way],
    }
}

fn finding_of(name: &str) -> crate::report::told::Located {
    use crate::finding::{Scope, Severity};
    let watched = kit::watched(&[kit::flow("f1")]);
    let scope = Scope::process(Some(kit::NETNS), &kit::owner(name));
    let finding = Finding::new(&watched, Severity::Warning, scope, format!("{name} is slow"));
    let finding = Finding { id: "slow-local-application".to_owned(), ..finding };
    crate::report::told::Located { node: "node-1".to_owned(), finding }
}

#[test]
fn text() {
    let lines = lines(&sample("shop"), 80);
    assert!(lines.iter().all(|line| width(line) <= 80), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn text_of_others_is_harmless_and_fits() {
    for name in ["\u{1b}[2Jevil\n", "漢字漢字漢字漢字漢字漢字漢字漢字", "\u{202e}abc", ""]
    {
        let lines = lines(&sample(name), 80);
        assert!(lines.iter().all(|line| width(line) <= 80), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.chars().any(char::is_control)));
    }
}

#[test]
fn json_is_what_its_schema_says() {
    let report = sample("shop");
    let value = serde_json::to_value(&report).expect("JSON");
    assert_eq!(check("report-1.json", &value), Ok(()));
    assert!(value["all"]["over_time"]["metrics"]["response"].get("heat").is_none());
}
