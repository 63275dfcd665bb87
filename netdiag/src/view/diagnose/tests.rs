use super::*;
use crate::{
    diagnosis::{Diagnosis, Thresholds},
    view::schema,
    watched::kit,
};

fn report(lost: u64) -> Report {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..30 {
        let flow = kit::flow("f1")
            .path(200_000)
            .latency("response", 10, 20_000_000)
            .count("spent_ns.peer_application", 190_000_000)
            .count("spent_ns.network_path", 10_000_000)
            .count("data_segments_sent", 1_000)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", lost);
        diagnosis.take(&kit::snapshot(second, vec![flow]));
    }
    diagnosis.report().expect("a report")
}

fn shown(report: &Report) -> String {
    let mut out = Vec::new();
    text(report, 80, &mut out).expect("memory");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn reports_look_as_agreed() {
    insta::assert_snapshot!("lossy", shown(&report(40)));
    insta::assert_snapshot!("quiet", shown(&report(0)));
}

#[test]
fn commands_can_be_typed_as_they_stand() {
    for command in [
        "nsenter --net=/proc/$(lsns -nt net -o NS,PID | awk '$1==4026532177{print $2}')/ns/net tc -s qdisc show dev eth0",
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max net.ipv4.tcp_tw_reuse",
        "ss -tin",
    ] {
        let lines = typed("also: ", command, 80);
        assert!(lines.iter().all(|line| format::width(line) <= 80), "{lines:#?}");
        let text = lines.join("\n");
        // As a shell joins them.
        let mut joined = text.replace("\\\n", "");
        while joined.contains("  ") {
            joined = joined.replace("  ", " ");
        }
        assert_eq!(joined.trim_start(), format!("also: {command}"));
    }
}

#[test]
fn names_cannot_move_the_cursor() {
    let mut report = report(40);
    report.findings[0].title = "\u{1b}[2Jevil\n".to_owned();
    report.findings[0].scope.name = "\u{202e}abc".to_owned();
    let text = shown(&report);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
}

#[test]
fn json_matches_its_schema() {
    for lost in [0, 40] {
        let value = serde_json::to_value(report(lost)).expect("JSON");
        assert_eq!(schema::check("diagnose-1.json", &value), Ok(()));
        assert_eq!(serde_json::from_value::<Report>(value).expect("a report"), report(lost));
    }
}
