use proptest::prelude::*;

use super::*;
use crate::{
    hostile,
    snapshot::{Conntrack, Group, Listener, Owner, Sum, TopCreator},
    view::sample,
};

fn shown(name: &str, columns: usize) -> String {
    let snapshot: Snapshot = sample::read(name);
    let mut out = Vec::new();
    table(&snapshot, columns, &mut out).expect("memory");
    accounting(&snapshot, columns, &mut out).expect("memory");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn tables_look_as_agreed() {
    for name in ["ipv4", "lossy", "quiet", "total"] {
        insta::assert_snapshot!(name, shown(name, COLUMNS));
    }
    insta::assert_snapshot!("ipv4-wide", shown("ipv4", 160));
}

#[test]
fn every_metric_of_every_signal_is_shown() {
    let mut snapshot: Snapshot = sample::read("ipv4");
    let flow = &mut snapshot.flows[0];
    let distribution = flow.metrics["send"].clone();
    for (_, _, metric) in signal::metrics() {
        flow.metrics.insert(metric.name.to_owned(), distribution.clone());
    }
    let text = lines(&snapshot, COLUMNS).join("\n").to_lowercase();
    for (_, _, metric) in signal::metrics() {
        assert!(text.contains(metric.name), "{} is not in\n{text}", metric.name);
    }
}

type Lose = fn(&mut crate::snapshot::Account);

#[test]
fn every_loss_is_said() {
    let losses: [(Lose, &str); 4] = [
        (|a| a.ring_full = 7, "7 found the ring full"),
        (|a| a.map_full = 7, "7 found a map full"),
        (|a| a.read_failed = 7, "7 could not be read"),
        (|a| a.missed = 7, "7 were skipped"),
    ];
    for (lose, expected) in losses {
        let mut snapshot: Snapshot = sample::read("ipv4");
        lose(snapshot.accounting.get_mut("send").expect("send"));
        let text = lines(&snapshot, COLUMNS).join("\n");
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
        assert!(text.contains("LOST since the start: 7 send samples"), "{text}");
    }
}

/// A snapshot with a name of others wherever there may be one: of a pod, of one whose name is not known, or of a
/// container.
fn of_others(name: &str, by: Grouping, home: usize) -> Snapshot {
    let mut snapshot: Snapshot = sample::read("lossy");
    let name = || name.to_owned();
    let owner = Owner {
        pid: Some(812),
        comm: Some(name()),
        cgroup: Some(name()),
        container: Some(name()),
        container_name: (home == 0).then(name),
        pod_uid: (home < 2).then(name),
        pod: (home == 0).then(name),
        namespace: (home == 0).then(name),
    };
    snapshot.by = by;
    snapshot.host = name();
    snapshot.kernel = name();
    let local = snapshot.flows[0].local.clone();
    for flow in &mut snapshot.flows {
        flow.owner = owner.clone();
        flow.peer_owner = Some(owner.clone());
        flow.group = (by != Grouping::Flow).then(|| Group { name: Some(name()), flows: 2 });
        flow.counts.insert(name(), CountValue::Number(Some(7)));
        let group = CountValue::Group(BTreeMap::from([(name(), Some(7))]));
        flow.counts.insert(format!("{}.", name()), group.clone());
        flow.counts.insert(format!("{}_ns", name()), group);
    }
    snapshot.node.listeners = vec![Listener {
        netns: 7,
        local: local.clone(),
        owner: owner.clone(),
        drops: 7,
        accept_queue: 6,
        accept_queue_limit: 5,
    }];
    let counts = signal::counts_of(signal::Rows::Entries);
    let counts = counts.map(|(_, _, count)| (count.name.to_owned(), Some(7))).collect();
    snapshot.conntrack = Some(Conntrack {
        other: Sum { counts },
        creators: vec![TopCreator {
            netns: Some(7),
            protocol: Some("udp".to_owned()),
            destination: local,
            creator: Some(owner),
            new: Some(7),
            confirmed: None,
            table_full: None,
        }],
        ..Conntrack::default()
    });
    snapshot
}

#[test]
fn names_of_others_are_shown_wherever_there_is_one() {
    let text = lines(&of_others("evil", Grouping::Flow, 0), 400).join("\n");
    assert!(text.starts_with("evil  evil  2026-"), "{text}");
    for expected in [
        "]:65534 evil/812",
        "in evil/evil evil",
        "peer evil/812 in evil/evil evil",
        "evil 7",
        "evil. (evil 7)",
        "evil (evil 100%)",
        "listener [2001:db8:1234:5678:9abc:def0:1234:5678]:65535  evil/812",
        "  evil/812 to [2001:db8:1234:5678:9abc:def0:1234:5678]:65535",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in\n{text}");
    }
}

proptest! {
    #[test]
    fn no_name_is_harmful(name in hostile::name(), home in 0_usize..3) {
        for by in [Grouping::Flow, Grouping::Process, Grouping::Container, Grouping::Pod] {
            for line in lines(&of_others(&name, by, home), COLUMNS) {
                prop_assert_eq!(sanitised(&line), line, "by {}", by.name());
            }
        }
    }

    #[test]
    fn no_line_of_flows_is_wider_than_asked(
        columns in 60_usize..200, comm in hostile::name(), pid: u32, max: u64, retransmits: u64,
    ) {
        let mut snapshot: Snapshot = sample::read("lossy");
        for flow in &mut snapshot.flows {
            flow.owner.comm = Some(comm.clone());
            flow.owner.pid = Some(pid);
            flow.metrics.get_mut("send").expect("send").max_ns = Some(max % 3_600_000_000_001);
            flow.counts.insert("retransmits".to_owned(), CountValue::Number(Some(retransmits)));
        }
        let rows: Vec<Row> = snapshot.flows.iter().map(|flow| Row::new(flow, snapshot.by)).collect();
        for line in body(&identity::names(snapshot.by), &rows, columns) {
            prop_assert!(width(&line) <= columns, "{line}");
            prop_assert_eq!(sanitised(&line), line);
        }
    }
}
