use super::*;
use crate::{
    finding::Severity,
    snapshot::{
        Owner,
        node::{HeldSockets, Interface, PeerInterface, PortUse, Ports, Sockets, States},
    },
    watched::kit,
};

/// Where no namespace leads to another one.
fn rank(findings: Vec<Finding>) -> Vec<Finding> {
    order::rank(findings, &Links::default())
}

fn lossy(second: u64, lost: u64) -> Snapshot {
    let flow = kit::flow("f1")
        .count("data_segments_sent", 100)
        .count("retransmits.rto", 0)
        .count("retransmits.fast", lost);
    kit::snapshot(second, vec![flow])
}

#[test]
fn a_bad_minute_of_an_hour_is_found() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..3_600 {
        let bad = (1_800..1_860).contains(&second);
        diagnosis.take(&lossy(second, if bad { 10 } else { 0 }));
    }
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.intervals, 3_600);
    let [found] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!((found.id.as_str(), found.severity), ("packet-loss", Severity::Critical));
    assert_eq!((found.start.as_str(), found.windows), ("2026-11-28T14:30:00.000000000Z", 1));
}

#[test]
fn what_holds_on_is_one_finding() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..150 {
        diagnosis.take(&lossy(second, 10));
    }
    assert_eq!(diagnosis.findings().len(), 1);
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].windows, 3);
}

/// Rates of a moment are no rates; where there is nothing else they are all that there is.
#[test]
fn a_moment_behind_a_window_is_no_window() {
    let after = |seconds: u64, bad: u64| {
        let mut diagnosis = Diagnosis::new(Thresholds::new());
        for second in 0..seconds + bad {
            diagnosis.take(&lossy(second, if second < seconds { 0 } else { 10 }));
        }
        let found = diagnosis.report().expect("a report").findings;
        found.iter().map(|one| one.severity > Severity::Info).collect::<Vec<_>>()
    };
    assert_eq!([after(60, 4), after(60, 5), after(0, 1)], [[false], [true], [true]]);
}

/// What happens around the end of a window and of the run is seen as a whole.
#[test]
fn a_moment_behind_a_window_belongs_to_it() {
    let run = |seconds: u64, bad: std::ops::Range<u64>| {
        let mut diagnosis = Diagnosis::new(Thresholds::new());
        for second in 0..seconds {
            diagnosis.take(&lossy(second, if bad.contains(&second) { 4 } else { 0 }));
        }
        let found = diagnosis.report().expect("a report").findings;
        found.iter().map(|one| (one.severity, one.windows, one.end.clone())).collect::<Vec<_>>()
    };
    let end = |second: u64| kit::snapshot(second - 1, vec![]).end;
    // Too few in either part.
    assert_eq!(run(60, 59..60), []);
    assert_eq!(run(61, 59..61), [(Severity::Info, 1, end(61))]);
    assert_eq!(run(70, 59..61), [], "two windows");
    assert_eq!(run(62, 0..62), [(Severity::Warning, 1, end(62))]);
}

#[test]
fn thresholds_can_be_given() {
    let given = Limits::new(vec![("loss_ratio", 0.5), ("critical_ratio", 0.6)]);
    let mut diagnosis = Diagnosis::new(Thresholds::from([("packet-loss", given)]));
    (0..10).for_each(|second| diagnosis.take(&lossy(second, 10)));
    assert_eq!(diagnosis.report().expect("a report").findings[0].severity, Severity::Info);
}

#[test]
fn what_cannot_be_concluded_is_said() {
    let mut snapshot = lossy(0, 10);
    snapshot.signals.retain(|status| status.signal != "retransmit");
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    diagnosis.take(&snapshot);
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings, []);
    assert!(report.withheld.iter().any(|withheld| withheld.id == "packet-loss"));
}

#[test]
fn what_cannot_be_concluded_now_is_counted_at_any_time() {
    let needs = |it: &&&Definition| it.needs.iter().any(|signal| signal.name() == "retransmit");
    let needing = finding::DEFINITIONS.iter().filter(needs).count();
    assert!(needing > 0);
    for is_off in [false, true] {
        let mut diagnosis = Diagnosis::new(Thresholds::new());
        assert_eq!(diagnosis.withheld(), 0, "nothing was looked at");
        // Beyond the end of a window, too.
        for second in 0..130 {
            let mut snapshot = lossy(second, 0);
            snapshot.signals.retain(|status| !is_off || status.signal != "retransmit");
            diagnosis.take(&snapshot);
            assert_eq!(diagnosis.withheld(), if is_off { needing } else { 0 }, "{second}");
        }
    }
}

#[test]
fn what_was_looked_for_in_a_part_only_is_said() {
    let mut snapshot = lossy(0, 10);
    snapshot.signals.retain(|status| !["turn", "rtt"].contains(&status.signal.as_str()));
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    diagnosis.take(&snapshot);
    let report = diagnosis.report().expect("a report");
    let withheld = report.withheld.iter().find(|withheld| withheld.id == "periodic-latency");
    let reason = withheld.map(|withheld| withheld.reason.as_str());
    assert_eq!(
        reason,
        Some(
            "not looked for in what `turn` and `rtt` would tell, as these signals are off; `netdiag doctor` says why"
        )
    );
}

#[test]
fn worse_comes_first() {
    let watched = kit::watched(&[]);
    let of = |severity, confidence| {
        Finding::new(&watched, severity, Scope::namespace(1), "").confidence(confidence)
    };
    let ranked = rank(vec![
        of(Severity::Info, 1.0),
        of(Severity::Critical, 0.5),
        of(Severity::Warning, 0.9),
        of(Severity::Critical, 0.8),
    ]);
    let order: Vec<_> = ranked.iter().map(|one| (one.severity, one.confidence)).collect();
    assert_eq!(
        order,
        [
            (Severity::Critical, 0.8),
            (Severity::Critical, 0.5),
            (Severity::Warning, 0.9),
            (Severity::Info, 1.0)
        ]
    );
}

#[test]
fn what_is_over_or_next_to_nothing_explains_nothing() {
    let watched = kit::watched(&[]);
    let slow = |time: &str| Finding {
        id: "slow-local-application".to_owned(),
        start: format!("2026-11-28T{time}Z"),
        end: format!("2026-11-28T{time}Z"),
        ..Finding::new(&watched, Severity::Warning, Scope::node(""), "")
    };
    let starved = |severity| Finding {
        id: "cpu-starved".to_owned(),
        start: "2026-11-28T02:00:00Z".to_owned(),
        end: "2026-11-28T02:01:00.5Z".to_owned(),
        ..Finding::new(&watched, severity, Scope::node(""), "")
    };
    let explained = |severity, time: &str| {
        let ranked = rank(vec![starved(severity), slow(time)]);
        ranked.iter().any(|one| !one.caused_by.is_empty())
    };
    assert!(explained(Severity::Warning, "02:00:30") && explained(Severity::Warning, "02:02:00"));
    assert!(!explained(Severity::Warning, "02:02:01") && !explained(Severity::Warning, "14:00:00"));
    assert!(
        !explained(Severity::Critical, "01:58:59") && explained(Severity::Critical, "01:59:30")
    );
    assert!(!explained(Severity::Info, "02:00:30"));
}

#[test]
fn causes_come_before_their_symptoms() {
    let watched = kit::watched(&[]);
    let (near, far) = ("10.0.0.2".parse().expect("an address"), "10.0.0.3".parse().expect("one"));
    let of = |id: &str, severity, scope| Finding {
        id: id.to_owned(),
        ..Finding::new(&watched, severity, scope, "")
    };
    let peer = |ip| Scope::peer(Some(kit::NETNS), ip);
    let slow = |ip| Scope::backend(Some(kit::NETNS), ip, 443);
    let ranked = rank(vec![
        of("slow-peer-application", Severity::Critical, slow(near)),
        of("slow-peer-application", Severity::Critical, slow(far)),
        of("periodic-latency", Severity::Critical, Scope::node("")),
        of("packet-loss", Severity::Warning, peer(near)),
    ]);
    let told: Vec<_> =
        ranked.iter().map(|one| (one.id.as_str(), one.scope.peer, one.caused_by.len())).collect();
    // The loss of one peer explains neither the other one's delay nor the node's.
    let slow_causes = |ip| usize::from(ip == near) + 1;
    assert_eq!(
        told,
        [
            ("periodic-latency", None, 0),
            ("packet-loss", Some(near), 0),
            ("slow-peer-application", Some(near), slow_causes(near)),
            ("slow-peer-application", Some(far), slow_causes(far)),
        ]
    );
}

/// Whom a CPU limit holds back is late with what it does, and with nothing else; a node without CPU time is with all.
#[test]
fn who_is_held_back_explains_its_own_findings() {
    let watched = kit::watched(&[]);
    let of = |id: &str, scope| Finding {
        id: id.to_owned(),
        ..Finding::new(&watched, Severity::Warning, scope, "")
    };
    let owner = |pid, cgroup: &str| Owner {
        pid: Some(pid),
        cgroup: Some(cgroup.to_owned()),
        ..kit::owner("web")
    };
    let own = owner(7, "/pods/a/main");
    let pod = Owner { cgroup: Some("/pods/a".to_owned()), ..Owner::default() };
    let starved = || of("cpu-starved", Scope::node(""));
    let held = Finding {
        scope: Scope::node("").by(&pod),
        severity: Severity::Critical,
        ..starved().about("/pods/a").felt_within(vec![pod])
    };
    let service = |owner: &Owner| {
        let scope = Scope::process(Some(kit::NETNS), owner).at(8080);
        of("slow-local-application", scope)
    };
    let server = Scope::backend(Some(kit::NETNS), "10.0.0.2".parse().expect("one"), 53).by(&own);
    let (card, late) = (Scope::interface(kit::NETNS, "eth0"), Scope::namespace(kit::NETNS).at(80));
    let here = of("slow-peer-application", server.clone()).done_by(Some(own.clone()));
    for (symptom, expected) in [
        (service(&own), [true, true]),
        (here, [true, true]),
        (service(&owner(8, "/pods/b/main")), [false, true]),
        (of("listen-overflow", late), [false, true]),
        (of("dns-slow", server.clone()), [false, true]),
        (of("backend-outlier", server), [false, true]),
        (of("softnet-drop", Scope::node("")), [false, true]),
        (of("interface-errors", card), [false, true]),
    ] {
        let explains = [held.clone(), starved()].map(|cause| {
            let ranked = rank(vec![symptom.clone(), cause]);
            ranked.iter().any(|one| one.caused_by == ["cpu-starved"])
        });
        assert_eq!(explains, expected, "{} of {:?}", symptom.id, symptom.scope.owner);
    }
}

#[test]
fn no_run_no_report() {
    assert_eq!(Diagnosis::new(Thresholds::new()).report(), None);
}

/// A destination has ports of its own for each local address.
#[test]
fn several_of_one_window_and_scope_are_several() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..150 {
        let mut snapshot = kit::snapshot(second, vec![]);
        let to = |ip: &str| PortUse {
            local_ip: ip.parse().expect("an address"),
            peer: kit::end("10.0.0.2", 3306),
            taken: 900,
            time_wait: 800,
            owner: kit::owner("worker"),
        };
        // The first one has no ports of it any more in the last window.
        let both = ["10.0.0.1", "10.0.0.9"].map(to);
        snapshot.node.ports.push(Ports {
            netns: kit::NETNS,
            age_ns: 0,
            unchanged_ns: None,
            first: None,
            last: None,
            available: Some(1_000),
            taken: 1_800,
            destinations: both[usize::from(second >= 120)..].to_vec(),
        });
        diagnosis.take(&snapshot);
    }
    let findings = diagnosis.report().expect("a report").findings;
    let mut windows: Vec<_> = findings.iter().map(|one| (&one.part[..], one.windows)).collect();
    windows.sort_unstable();
    assert_eq!(windows, [("10.0.0.1", 2), ("10.0.0.9", 3)]);
}

/// A new client each minute asks the same server in vain, and another one begins behind the last whole minute.
#[test]
fn who_asks_may_change() {
    let run = |seconds: u64, each: u64| {
        let mut diagnosis = Diagnosis::new(Thresholds::new());
        for second in 0..seconds {
            let flow = kit::flow(&format!("f{second}")).of(1_000 + (second / each) as u32, "cron");
            let refused = flow.count("connects_failed.ECONNREFUSED", 1);
            diagnosis.take(&kit::snapshot(second, vec![refused]));
        }
        let found = diagnosis.report().expect("a report").findings;
        let [one] = &found[..] else { panic!("{found:#?}") };
        let owner = &one.scope.owner;
        (one.id.clone(), one.windows, owner.pid, owner.comm.clone())
    };
    let told =
        |windows, pid| ("connection-refused".to_owned(), windows, pid, Some("cron".to_owned()));
    assert_eq!(run(180, 180), told(3, Some(1_000)));
    assert_eq!(run(180, 60), told(3, None));
    assert_eq!(run(183, 60), told(3, None));
    assert_eq!(run(62, 60), told(1, None));
}

/// A peer that is gone is asked by others than those whose connections to it stand.
#[test]
fn what_is_wrong_with_a_peer_explains_what_others_ask_of_it() {
    let watched = kit::watched(&[]);
    let of = |id: &str, pid| {
        let owner = Owner { pid: Some(pid), ..kit::owner("web") };
        let ip = "10.0.0.2".parse().expect("an address");
        let scope = Scope::peer(Some(kit::NETNS), ip).by(&owner);
        Finding { id: id.to_owned(), ..Finding::new(&watched, Severity::Critical, scope, "") }
    };
    let ranked = rank(vec![of("peer-unreachable", 7), of("half-open-peer", 8)]);
    let told: Vec<_> = ranked.iter().map(|one| (&one.id[..], one.caused_by.join(" "))).collect();
    let pair = |id, cause: &str| (id, cause.to_owned());
    assert_eq!(told, [pair("half-open-peer", ""), pair("peer-unreachable", "half-open-peer")]);
}

/// What was asked of a server of names had a route to it. A stub of this node may have none to ask on.
#[test]
fn no_route_explains_nothing_that_was_sent() {
    let watched = kit::watched(&[]);
    let of = |id: &str, scope| Finding {
        id: id.to_owned(),
        ..Finding::new(&watched, Severity::Warning, scope, "")
    };
    let is_caused = |cause: Finding, server: &str| {
        let ip = server.parse().expect("an address");
        let unanswered = of("dns-unanswered", Scope::backend(Some(kit::NETNS), ip, 53));
        let ranked = rank(vec![unanswered, cause]);
        ranked.iter().any(|one| one.caused_by == ["peer-unreachable"])
    };
    let no_route = || of("peer-unreachable", Scope::namespace(kit::NETNS)).sending_nothing();
    let away = Scope::peer(Some(kit::NETNS), "10.0.0.53".parse().expect("an address"));
    let away = of("peer-unreachable", away);
    assert!(!is_caused(no_route(), "10.0.0.53"));
    assert!(is_caused(no_route(), "127.0.0.53") && is_caused(away, "10.0.0.53"));
}

/// Workers that live for a minute each leak sockets for a day.
#[test]
fn however_long_a_run_is_its_findings_are_bounded() {
    let mut diagnosis = Diagnosis::new(Thresholds::new());
    for second in 0..60 * 300 {
        let minute = second / 60;
        let mut snapshot = kit::snapshot(second, vec![]);
        let owner = Owner { pid: Some(1_000 + minute as u32), ..kit::owner("worker") };
        let count = if minute == 7 { 2_000 } else { 200 };
        let states = States { close_wait: count, ..States::default() };
        let close_wait = vec![HeldSockets { owner, count }];
        let sockets = Sockets { netns: kit::NETNS, states, close_wait, ..Sockets::default() };
        snapshot.node.sockets.push(sockets);
        diagnosis.take(&snapshot);
        assert!(diagnosis.findings.len() <= MOST_KEPT);
    }
    let report = diagnosis.report().expect("a report");
    assert_eq!(report.findings.len(), MOST_OF_ONE);
    assert_eq!(report.findings[0].severity, Severity::Critical, "the worst are kept");
    assert_eq!(report.left_out, BTreeMap::from([("close-wait-leak".to_owned(), 300 - 20)]));
}

/// A minute in which very many namespaces have the same, and one of them was asked for.
fn crowded(mut diagnosis: Diagnosis, namespaces: u32, flows: &[Flow]) -> Report {
    for second in 0..60 {
        let mut snapshot = kit::snapshot(second, flows.to_vec());
        snapshot.filtered = true;
        let states = States { time_wait: 30_000, ..States::default() };
        for netns in 0..namespaces {
            let netns = kit::NETNS + 1 - namespaces + netns;
            snapshot.node.sockets.push(Sockets { netns, states, ..Sockets::default() });
        }
        diagnosis.take(&snapshot);
    }
    diagnosis.report().expect("a report")
}

#[test]
fn what_was_not_asked_for_displaces_nothing() {
    let is_asked = |finding: &Finding, _: &Watched| Some(finding.scope.netns == Some(kit::NETNS));
    let live = || Diagnosis::new(Thresholds::new());
    let (asked, beside) = (live().wanting(is_asked), live().wanting(|_, _| None));
    let recorded = Diagnosis::of_recordings(Thresholds::new());
    let flow = || vec![kit::flow("f1")];
    for (diagnosis, flows) in [(asked, vec![]), (beside, flow()), (recorded, flow())] {
        let report = crowded(diagnosis, 2 * MOST_KEPT as u32, &flows);
        let found: Vec<_> = report.findings.iter().map(|one| one.scope.netns).collect();
        assert_eq!(found, [Some(kit::NETNS)]);
        assert_eq!(report.left_out, BTreeMap::new());
    }
}

/// Another pod's namespace is nobody's business; the node's is, through which packets of this one go.
#[test]
fn what_is_beside_flows_is_told_live_and_of_recordings() {
    const NODE: u32 = 4_026_531_840;
    let waits = |found: &[Finding]| -> BTreeSet<Option<u32>> {
        let of_sockets = found.iter().filter(|one| one.id == "time-wait-buildup");
        of_sockets.map(|one| one.scope.netns).collect()
    };
    let live = Diagnosis::new(Thresholds::new()).wanting(|_, _| None);
    for mut diagnosis in [live, Diagnosis::of_recordings(Thresholds::new())] {
        for second in 0..10 {
            let mut snapshot = kit::snapshot(second, vec![kit::flow("f1")]);
            snapshot.filtered = true;
            let peer = Some(PeerInterface { index: 2, netns: Some(NODE) });
            let name = "eth0".to_owned();
            let own = Interface { netns: kit::NETNS, name, peer, ..Interface::default() };
            snapshot.node.interfaces.push(own);
            let states = States { time_wait: 30_000, ..States::default() };
            for netns in [kit::NETNS, kit::NETNS + 1, NODE] {
                snapshot.node.sockets.push(Sockets { netns, states, ..Sockets::default() });
            }
            diagnosis.take(&snapshot);
        }
        let expected = BTreeSet::from([Some(kit::NETNS), Some(NODE)]);
        assert_eq!(waits(&diagnosis.findings()), expected);
        assert_eq!(waits(&diagnosis.present()), expected);
        assert_eq!(waits(&diagnosis.report().expect("a report").findings), expected);
    }
}

#[test]
fn recordings_of_several_runs_are_accounted_for_together() {
    let mut diagnosis = Diagnosis::of_recordings(Thresholds::new());
    for (second, seen) in [(0, 5), (1, 9), (10, 2), (11, 3)] {
        let mut snapshot = lossy(second, 10);
        snapshot.accounting.entry("rtt".to_owned()).or_default().seen = seen;
        snapshot.filtered = true;
        snapshot.node.interfaces_left_out = Some(7);
        let states = States { time_wait: 30_000, ..States::default() };
        for netns in [kit::NETNS, kit::NETNS + 1] {
            snapshot.node.sockets.push(Sockets { netns, states, ..Sockets::default() });
        }
        diagnosis.take(&snapshot);
    }
    let report = diagnosis.report().expect("a report");
    assert_eq!((report.accounting["rtt"].seen, report.recorded), (12, true));
    let waits = report.findings.iter().filter(|one| one.id == "time-wait-buildup");
    let waits: Vec<_> = waits.map(|one| one.scope.netns).collect();
    assert_eq!(waits, [Some(kit::NETNS)], "no flow is in the other one");
    let said = |what: &str| report.not_observable.iter().any(|line| line.contains(what));
    assert!(said("recorded with filters") && said("7 network interfaces"));
}
