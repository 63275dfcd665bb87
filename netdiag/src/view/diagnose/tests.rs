use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{
    diagnosis::{Diagnosis, Thresholds, Withheld},
    hostile,
    snapshot::{Account, Distribution},
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
        "nsenter --net=/proc/812/ns/net netdiag events --kind retransmit --comm 'a'\\''b c' --peer 10.0.0.2",
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
fn commands_are_broken_between_words_alone() {
    let cases = [
        (r"x 'a'\''b c' y", [r"  next: x \", r"    'a'\''b c' \", "    y"]),
        (r#"x "a\" b" c\ d y"#, [r"  next: x \", r#"    "a\" b" \"#, r"    c\ d y"]),
        (r#"x 'a\' "b ' c""#, [r"  next: x \", r"    'a\' \", r#"    "b ' c""#]),
    ];
    for (command, expected) in cases {
        assert_eq!(typed("next: ", command, 12), expected, "{command}");
    }
}

#[test]
fn ends_are_written_as_in_tables() {
    let mut report = report(40);
    report.worst[0].local = kit::end("2001:db8::1", 443);
    let text = shown(&report);
    assert!(text.contains("  [2001:db8::1]:443 > 10.0.0.2:443 shop/812"), "{text}");
}

/// A report with a name of others wherever there may be one.
fn of_others(name: &str) -> Report {
    static SOUND: LazyLock<Report> = LazyLock::new(|| report(40));
    let mut report = SOUND.clone();
    let owner = crate::view::owner::of_others(name);
    let name = || name.to_owned();
    report.host = name();
    report.kernel = name();
    report.left_out = BTreeMap::from([(name(), 7)]);
    report.withheld = vec![Withheld { id: name(), reason: name() }];
    report.not_observable = vec![name()];
    report.complete = false;
    report.accounting.insert(name(), Account { missed: 7, ..Account::default() });
    let worst = &mut report.worst[0];
    worst.owner = owner.clone();
    worst.metrics.insert(name(), Distribution::default());
    let spent = BTreeMap::from([(name(), Some(7))]);
    worst.counts.insert(format!("{}_ns", name()), CountValue::Group(spent));
    let finding = &mut report.findings[0];
    finding.title = name();
    finding.explanation = name();
    finding.scope.name = name();
    finding.scope.owner = owner;
    finding.evidence[0].metric = name();
    for texts in [
        &mut finding.ruled_out,
        &mut finding.not_observable,
        &mut finding.caused_by,
        &mut finding.advice,
        &mut finding.commands,
    ] {
        *texts = vec![name(), name()];
    }
    report
}

/// The first line that a terminal would do something else with than show it.
fn harmful(text: &str) -> Option<&str> {
    text.split('\n').find(|line| sanitised(line) != *line)
}

#[test]
fn names_cannot_move_the_cursor() {
    for name in ["\u{1b}[2Jevil\n", "\u{202e}abc", "\u{7f}\u{9b}2J\u{200b}"] {
        assert_eq!(harmful(&shown(&of_others(name))), None, "{name:?}");
    }
}

proptest! {
    #[test]
    fn no_name_is_harmful(name in hostile::name()) {
        let report = of_others(&name);
        let text = format!("{}\n{}", headline(&report.findings[0]), shown(&report));
        prop_assert_eq!(harmful(&text), None);
    }
}

#[test]
fn json_matches_its_schema() {
    for lost in [0, 40] {
        let value = serde_json::to_value(report(lost)).expect("JSON");
        assert_eq!(schema::check("diagnose-1.json", &value), Ok(()));
        assert_eq!(serde_json::from_value::<Report>(value).expect("a report"), report(lost));
    }
}
