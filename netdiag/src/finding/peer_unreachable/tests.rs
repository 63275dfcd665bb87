use super::*;
use crate::{
    diagnosis::{Diagnosis, Thresholds},
    finding::tests::check,
    snapshot::{ConntrackTable, Flow},
    watched::kit::{self, NETNS},
};

/// Connects that are sent again, so many in ten seconds.
fn unanswered(count: u64, again: u64) -> Vec<Flow> {
    let one = |n| {
        let flow = kit::flow(&format!("f{n}")).count("retransmits.syn", again);
        flow.count("segments_sent", again + 1).count("segments_received", 0)
    };
    (0..count).map(one).collect()
}

#[test]
fn thresholds() {
    check(&DEFINITION, &kit::once(unanswered(3, 2)), None);
    check(&DEFINITION, &kit::once(unanswered(4, 2)), Some(Severity::Critical));
    check(&DEFINITION, &kit::once(unanswered(4, 1)), None);
    let closed = |flow: Flow| Flow { closed: true, ..flow };
    check(
        &DEFINITION,
        &kit::once(unanswered(4, 1).into_iter().map(closed)),
        Some(Severity::Critical),
    );
    // One of 7 s.
    let slow = kit::series(|_| vec![]);
    assert_eq!(rule(&slow, &Limits::default()), []);
    let mut slow = Watched::default();
    for second in 0..30 {
        slow.take(&kit::snapshot(second, if second == 0 { unanswered(4, 2) } else { vec![] }));
    }
    check(&DEFINITION, &slow, Some(Severity::Info));
}

#[test]
fn some_that_are_established() {
    let with = |n| {
        let sound =
            kit::flow("sound").latency("connect", n, 5_000_000).count("segments_received", 9);
        kit::once(unanswered(4, 2).into_iter().chain([sound]))
    };
    check(&DEFINITION, &with(4), Some(Severity::Warning));
    check(&DEFINITION, &with(5), None);
    let found = rule(&with(4), &Limits::default());
    assert_eq!(found[0].scope.name, "10.0.0.2:443");
}

/// Connects that are given up after so long, nothing having come: a SYN would be sent again after 1 s.
fn given_up(count: u64, ms: u64) -> Vec<Flow> {
    let one = |n| {
        let flow = Flow { closed: true, ..kit::flow(&format!("g{n}")) };
        flow.count("connects_failed.closed", 1)
            .count("retransmits.syn", 0)
            .count("segments_sent", 1)
            .count("segments_received", 0)
            .count("lifetime_ns", ms * 1_000_000)
    };
    (0..count).map(one).collect()
}

#[test]
fn clients_that_do_not_wait_for_a_second_syn() {
    check(&DEFINITION, &kit::once(given_up(3, 300)), None);
    check(&DEFINITION, &kit::once(given_up(4, 300)), Some(Severity::Warning));
    check(&DEFINITION, &kit::once(given_up(400, 200)), Some(Severity::Warning));
    check(&DEFINITION, &kit::once(given_up(400, 199)), None);
    let found = rule(&kit::once(given_up(4, 300)), &Limits::default()).remove(0);
    assert!(found.title.ends_with("asked for, all given up within 300ms"), "{}", found.title);
    // Something came, or nobody knows.
    let answered = given_up(9, 300).into_iter().map(|flow| flow.count("segments_received", 1));
    check(&DEFINITION, &kit::once(answered), None);
    let unknown = given_up(9, 300).into_iter().map(|mut flow| {
        flow.counts.remove("segments_received");
        flow
    });
    check(&DEFINITION, &kit::once(unknown), None);
    // As many that waited longer are surer.
    let both = |n| given_up(9, 300).into_iter().chain(unanswered(n, 2));
    check(&DEFINITION, &kit::once(both(3)), Some(Severity::Warning));
    check(&DEFINITION, &kit::once(both(4)), Some(Severity::Critical));
}

/// They asked in the window before, where their SYNs were sent again, and are given up in this one.
#[test]
fn who_gives_up_in_a_later_window_asked_again_before() {
    let later = |sent: u64, again: u64| {
        let flow =
            move |flow: Flow| flow.count("segments_sent", sent).count("retransmits.syn", again);
        kit::once(given_up(9, 30_000).into_iter().map(flow))
    };
    check(&DEFINITION, &later(1, 1), None);
    check(&DEFINITION, &later(0, 0), None);
    // In the window in which it asked.
    check(&DEFINITION, &later(2, 1), Some(Severity::Critical));
}

/// They asked in the last seconds of the window before, where no more than one SYN was sent again, and lasted on.
#[test]
fn who_asks_at_the_end_of_a_window_counts_in_the_next_one() {
    let left = |second: u64, ms: u64, again: u64| {
        let flow =
            move |flow: Flow| flow.count("segments_sent", again).count("retransmits.syn", again);
        kit::series(|at| match at == second {
            true => given_up(9, ms).into_iter().map(flow).collect(),
            false => vec![],
        })
    };
    // With a timeout of 5 s, and one that was there for longer.
    check(&DEFINITION, &left(2, 5_000, 1), Some(Severity::Critical));
    check(&DEFINITION, &left(2, 5_001, 1), None);
    // The second SYN was sent in the window before, or there was none yet.
    check(&DEFINITION, &left(0, 3_000, 0), Some(Severity::Critical));
    check(&DEFINITION, &left(0, 3_001, 0), None);
    check(&DEFINITION, &left(0, 1_000, 0), Some(Severity::Critical));
    check(&DEFINITION, &left(0, 999, 0), Some(Severity::Warning));
    check(&DEFINITION, &left(0, 199, 0), None);
    // Nobody knows how old it was, or it is not gone yet, or something came.
    let with = |change: fn(Flow) -> Flow| {
        let flow = |flow: Flow| change(flow.count("segments_sent", 1).count("retransmits.syn", 1));
        kit::once(given_up(9, 3_000).into_iter().map(flow))
    };
    let unknown = |mut flow: Flow| {
        flow.counts.remove("lifetime_ns");
        flow
    };
    check(&DEFINITION, &with(|flow| flow), Some(Severity::Critical));
    check(&DEFINITION, &with(unknown), None);
    check(&DEFINITION, &with(|flow| Flow { closed: false, ..flow }), None);
    check(&DEFINITION, &with(|flow| flow.count("segments_received", 1)), None);
}

/// Over a long path they are gone before an answer can have come.
#[test]
fn who_goes_before_others_are_established_did_not_wait() {
    let with = |ms: u64| {
        let sound = kit::flow("sound").latency("connect", 9, ms * 1_000_000);
        kit::once(given_up(9, 300).into_iter().chain([sound]))
    };
    check(&DEFINITION, &with(145), Some(Severity::Warning));
    check(&DEFINITION, &with(155), None);
}

#[test]
fn what_is_refused_or_late_or_older_is_reached() {
    let each = |change: fn(Flow) -> Flow| kit::once(unanswered(9, 2).into_iter().map(change));
    check(
        &DEFINITION,
        &each(|flow| flow.count("connects_failed.ECONNREFUSED", 1).count("segments_received", 1)),
        None,
    );
    // That is late, and not for long.
    let late = each(|flow| flow.latency("connect", 1, 3_000_000_000));
    check(&DEFINITION, &late, Some(Severity::Info));
    check(&DEFINITION, &each(|flow| flow.count("segments_sent", 2)), None);
}

#[test]
fn a_listener_here_has_no_part_in_what_is_asked_elsewhere() {
    let clears = |ip: &str| {
        let watched = kit::once(unanswered(9, 2).into_iter().map(|flow| flow.to(ip, 443)));
        let found = rule(&watched, &Limits::default()).remove(0);
        ["listen-overflow", "syn-backlog-overflow"].map(|id| found.cleared.contains(&id))
    };
    assert_eq!(clears("10.0.0.2"), [true; 2]);
    // Where the clients are, and the loopback.
    assert_eq!([clears("10.0.0.1"), clears("127.0.0.1")], [[false; 2]; 2]);
}

#[test]
fn a_peer_is_told_of_once() {
    let ports = |port| {
        unanswered(4, 2).into_iter().map(move |flow| Flow {
            id: format!("{}-{port}", flow.id),
            ..flow.to("10.0.0.9", port)
        })
    };
    check(&DEFINITION, &kit::once(ports(80).chain(ports(443))), Some(Severity::Critical));
}

/// A table of connections in which so many found their place taken.
fn clashed(insert_failed: u64) -> ConntrackTable {
    ConntrackTable {
        netns: NETNS,
        entries: 1_000,
        max: Some(262_144),
        insert_failed: Some(insert_failed),
        drop: Some(insert_failed),
        early_drop: Some(0),
        clash_resolve: Some(0),
        invalid: Some(0),
        chaintoolong: Some(0),
    }
}

/// Address translation that chooses a port which is taken drops single SYNs on this node.
#[test]
fn clashes_in_connection_tracking_make_some_connections_late() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..10 {
        let connected =
            |id: &str, count: u64, ms: u64| kit::flow(id).latency("connect", count, ms * 1_000_000);
        let late = (0..2).map(|n| connected(&format!("late{second}.{n}"), 1, 1_003));
        let flows = late.chain([connected("quick", 98, 5)]).collect();
        let mut snapshot = kit::snapshot(second, flows);
        snapshot.node.conntrack.push(clashed(4));
        diagnosis.take(&snapshot);
    }
    let mut found = diagnosis.report().expect("a report").findings;
    found.retain(|one| one.id == DEFINITION.id);
    let causes: Vec<_> = found.iter().map(|one| one.caused_by.join(" ")).collect();
    assert_eq!(causes, ["conntrack-insert-failed"]);
}

#[test]
fn fewer_clashes_than_connections_explain_none() {
    let is_cleared = |failed: u64| {
        let mut watched = kit::once(unanswered(9, 2));
        watched.intervals[0].node.conntrack.push(clashed(failed));
        let found = rule(&watched, &Limits::default()).remove(0);
        found.cleared.contains(&"conntrack-insert-failed")
    };
    assert!(is_cleared(8) && !is_cleared(9));
}

#[test]
fn wording() {
    let watched = kit::once(unanswered(20, 3));
    insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
}
