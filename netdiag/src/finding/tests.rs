//! What holds of every finding, and what their tests share.

use std::{collections::BTreeSet, ffi::OsString};

use super::*;
use crate::{
    cli, diagnosis,
    signal::{self, Count},
    snapshot::{Role, node::Unread},
    view,
    watched::kit,
};

/// Holds what a rule finds in a window against what is expected: a finding that bad, or none.
#[track_caller]
pub(super) fn check(definition: &Definition, watched: &Watched, expected: Option<Severity>) {
    let found = (definition.rule)(watched, &Limits::default());
    let severities: Vec<_> = found.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, Vec::from_iter(expected), "{}: {found:#?}", definition.id);
    said_to_decide(definition, watched, &found);
    said_to_run(definition, &found);
}

/// Holds that netdiag takes the commands that findings tell to confirm them by, of those that are its own.
#[track_caller]
fn said_to_run(definition: &Definition, found: &[Finding]) {
    let commands = found.iter().flat_map(|finding| &finding.commands);
    for command in commands.filter(|command| command.starts_with("netdiag ")) {
        let words = command.split_whitespace().take_while(|word| *word != "|");
        let refusal = cli::parse(words.map(OsString::from)).err();
        assert!(refusal.is_none(), "{}: `{command}`: {refusal:?}", definition.id);
    }
}

/// Holds that what the node says of itself decides nothing about a finding whose definition does not say so.
#[track_caller]
fn said_to_decide(definition: &Definition, watched: &Watched, found: &[Finding]) {
    let decided = |found: &[Finding]| -> Vec<_> {
        found.iter().map(|one| (one.severity, one.scope.clone())).collect()
    };
    for part in Part::ALL.into_iter().filter(|part| !definition.node.contains(part)) {
        let mut less = watched.clone();
        for interval in &mut less.intervals {
            interval.node = std::mem::take(&mut interval.node).without(part);
        }
        let without = (definition.rule)(&less, &Limits::default());
        assert_eq!(decided(&without), decided(found), "{} needs {part:?}", definition.id);
    }
}

/// Whether the first finding of a window rules loss out, and whether it says that nobody tells of any.
pub(super) fn of_loss(definition: &Definition, watched: &Watched) -> (bool, bool) {
    let found = (definition.rule)(watched, &Limits::default()).remove(0);
    let is_told = |lines: &[String]| lines.iter().any(|line| line.starts_with("loss"));
    (is_told(&found.ruled_out), is_told(&found.not_observable))
}

/// The first finding of a window as people read it, 80 columns wide. Its last line says what to do next.
pub(super) fn wording(definition: &Definition, watched: &Watched) -> String {
    let found = (definition.rule)(watched, &Limits::default());
    said_to_run(definition, &found);
    let first = found.into_iter().next().expect("a finding");
    let finding = Finding { id: definition.id.to_owned(), ..first };
    let lines = view::diagnose::finding(&finding, 80);
    for line in &lines {
        assert!(crate::format::width(line) <= 80, "{line}");
    }
    let last = lines.iter().rfind(|line| !line.starts_with("    ")).expect("a line");
    assert!(last.starts_with("  next: "), "{last}");
    lines.join("\n")
}

#[test]
fn ids_are_unique_and_causes_exist() {
    let ids: BTreeSet<_> = DEFINITIONS.iter().map(|definition| definition.id).collect();
    assert_eq!(ids.len(), DEFINITIONS.len());
    for (at, definition) in DEFINITIONS.iter().enumerate() {
        for cause in definition.causes {
            let place = DEFINITIONS.iter().position(|other| other.id == *cause);
            let place = place.unwrap_or_else(|| panic!("{}: no finding {cause}", definition.id));
            assert!(
                place < at,
                "{}: its cause {cause} stands behind it in the list",
                definition.id
            );
        }
    }
}

/// What is counted by a signal that may be off decides nothing.
#[test]
fn packets_are_of_counts_that_decide() {
    for definition in DEFINITIONS {
        for Packets { counts, but, .. } in definition.packets {
            let at = format!("{}: {counts}", definition.id);
            let is_it = |count: &Count| match counts.split_once('.') {
                Some((group, "")) => count.group() == Some(group),
                Some((group, _)) if count.labelled => count.name == group,
                _ => count.name == *counts,
            };
            let found = signal::counts().find(|(_, _, count)| is_it(count));
            let (_, of, _) = found.unwrap_or_else(|| panic!("{at} is no count"));
            let decides = definition.needs.iter().chain(definition.parts).any(|one| *one == of);
            assert!(decides, "{at} is of a signal that it does without");
            let mut kinds = signal::DEFINITIONS[of as usize].kinds.iter();
            assert!(kinds.any(|kind| kind.has_packet), "{at} is of no packet");
            let is_in_group = |but: &str| counts.ends_with('.') && but.starts_with(counts);
            assert!(but.is_none_or(is_in_group), "{at}: {but:?} is in no group");
        }
    }
}

#[test]
fn packets_count_for_findings() {
    let (server, client) = (Some(Role::Server), Some(Role::Client));
    for (count, at, expected) in [
        ("drops.NETFILTER_DROP", None, &["firewall-drop"][..]),
        ("drops.at:nf_hook_slow", server, &["firewall-drop"]),
        ("drops.NO_SOCKET", None, &[]),
        ("retransmits.rto", client, &["pmtu-black-hole", "half-open-peer", "packet-loss"]),
        ("retransmits.fast", None, &["packet-loss"]),
        ("retransmits.syn", client, &["peer-unreachable"]),
        ("retransmits.tlp", client, &[]),
        ("retransmits_failed", client, &[]),
        ("resets_received", client, &["connection-reset"]),
        ("resets_received", None, &["connection-reset"]),
        ("resets_received", server, &[]),
        ("resets_sent.TCP_ABORT_ON_CLOSE", server, &["connection-reset"]),
        ("resets_sent.TCP_ABORT_ON_CLOSE", client, &[]),
        ("resets_sent.TCP_ABORT_ON_CLOSE", None, &[]),
        ("resets_sent.NO_SOCKET", server, &[]),
        ("resets_sent.unknown", None, &[]),
    ] {
        assert_eq!(counted_by(count, at).collect::<Vec<_>>(), expected, "{count} {at:?}");
    }
}

#[test]
fn thresholds_are_described() {
    for definition in DEFINITIONS {
        assert!(
            !definition.help.is_empty() && !definition.thresholds.is_empty(),
            "{}",
            definition.id
        );
        let names: BTreeSet<_> = definition.thresholds.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), definition.thresholds.len(), "{}", definition.id);
        for threshold in definition.thresholds {
            assert!(threshold.value.is_finite(), "{}.{}", definition.id, threshold.name);
            assert!(!threshold.help.is_empty() && !threshold.source.is_empty());
            let given = Limits::new(vec![(threshold.name, 42.0)]);
            assert!((given.of(threshold) - 42.0).abs() < 1e-9);
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_is_seen() {
    for definition in DEFINITIONS {
        check(definition, &Watched::default(), None);
        check(definition, &kit::watched(&[]), None);
        check(definition, &kit::watched(&[kit::flow("f1")]), None);
    }
}

#[test]
fn what_is_off_or_lost_withholds() {
    for definition in DEFINITIONS {
        for signal in definition.needs {
            let mut watched = kit::watched(&[]);
            assert_eq!(withheld(definition, &watched), None, "{}", definition.id);
            watched.signals.retain(|status| status.signal != signal.name());
            let reason = withheld(definition, &watched).expect("withheld");
            assert!(reason.contains(signal.name()), "{}: {reason}", definition.id);
        }
        for signal in definition.parts {
            let mut watched = kit::watched(&[]);
            assert_eq!(not_looked_at(definition, &watched), None, "{}", definition.id);
            watched.signals.retain(|status| status.signal != signal.name());
            assert_eq!(withheld(definition, &watched), None, "{}", definition.id);
            let reason = not_looked_at(definition, &watched).expect("said");
            assert!(reason.contains(signal.name()), "{}: {reason}", definition.id);
        }
        for part in definition.node {
            let why = || "it is shut".to_owned();
            let with =
                |unread: &Unread| kit::with_node(&[], |node| node.unread.push(unread.clone()));
            let whole = Unread::of_node(*part, why());
            assert!(not_looked_at(definition, &with(&whole)).is_some(), "{}", definition.id);
            let two = Unread::in_namespaces(*part, &[(1, why()), (2, why())].into()).expect("two");
            let reason = not_looked_at(definition, &with(&two)).expect("said");
            assert!(reason.ends_with("in 2 network namespaces: it is shut"), "{reason}");
        }
        for signal in definition.exact {
            let mut watched = kit::watched(&[]);
            watched.lost.insert(signal.name().to_owned(), 3);
            assert!(withheld(definition, &watched).is_some(), "{}", definition.id);
        }
    }
}

#[test]
fn what_found_no_room_is_told_from_what_was_lost_on_its_way() {
    let with = |no_room| {
        let mut watched = kit::watched(&[]);
        watched.lost.insert("dns".to_owned(), 3);
        watched.no_room.insert("dns".to_owned(), no_room);
        withheld(&dns_unanswered::DEFINITION, &watched).expect("withheld")
    };
    for (no_room, said, raise) in [
        (0, "missed, which", "raise --ring-size or"),
        (1, "missed, 1 for want of room", "raise --ring-size and --max-flows or"),
        (3, "missed, for want of room", "raise --max-flows or"),
    ] {
        let reason = with(no_room);
        assert!(reason.contains(said) && reason.contains(raise), "{no_room}: {reason}");
    }
}

/// What would be untrue without it is withheld, and of the rest it is said.
#[test]
fn what_was_left_out_withholds_or_is_said() {
    for definition in DEFINITIONS {
        let Definition { id, needs, parts, exact, .. } = definition;
        for signal in needs.iter().chain(*parts).chain(*exact) {
            let left_out = |told| {
                let mut watched = kit::watched(&[]);
                watched.shed.insert(signal.name().to_owned(), 3);
                watched.told.insert(signal.name().to_owned(), told);
                watched
            };
            let is_held_against = needs.len() > 1 && needs.contains(signal);
            let (some, none) = (left_out(9), left_out(0));
            let reason = withheld(definition, &some);
            assert_eq!(reason.is_some(), is_held_against || exact.contains(signal), "{id}");
            let said = reason.or_else(|| not_looked_at(definition, &some)).expect("said");
            assert!(said.contains(&format!("3 samples of `{}`", signal.name())), "{id}: {said}");
            let is_decided = needs.contains(signal) || exact.contains(signal);
            assert_eq!(withheld(definition, &none).is_some(), is_decided, "{id}");
        }
    }
}

#[test]
fn a_quiet_node_has_no_finding() {
    let mut diagnosis = diagnosis::Diagnosis::new(diagnosis::Thresholds::new());
    for second in 0..30 {
        diagnosis.take(&kit::snapshot(second, vec![kit::flow("f1")]));
    }
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings, []);
    assert!(report.withheld.is_empty(), "{:?}", report.withheld);
}
