use proptest::prelude::*;

use super::*;
use crate::view::sample;

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

proptest! {
    #[test]
    fn no_line_of_flows_is_wider_than_asked(
        columns in 60_usize..200, comm in ".{0,20}", pid: u32, max: u64, retransmits: u64,
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
            prop_assert!(!line.chars().any(char::is_control));
        }
    }
}
