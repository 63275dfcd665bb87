//! A server answers only some SYNs: the others are sent again, and connections take seconds to be established.

use crate::{
    finding::{
        Finding, Limits, Scope, Severity, Threshold, Unit,
        advice::{beside_others, by_no_listener_here, events, inside},
        packet_loss::{BUSY, Lost, sent},
    },
    format,
    watched::{Backend, Group, Interval, Seen, Watched},
};

pub(super) const LATE: Threshold = Threshold {
    name: "late",
    value: 1.0,
    unit: Unit::S,
    help: "time in which a connection is established that waited for a SYN to be sent again",
    source: "a SYN is sent again after 1 s, 3 s and 7 s (RFC 6298)",
};
pub(super) const SHARE: Threshold = Threshold {
    name: "late_share",
    value: 0.01,
    unit: Unit::Ratio,
    help: "part of the connections asked for that waited so, or got no answer",
    source: "field practice: loss above 1 % is bad",
};
pub(super) const LEAST: Threshold = Threshold {
    name: "least_late",
    value: 5.0,
    unit: Unit::Count,
    help: "the same in a window, fewer say nothing",
    source: "one accident has at most a few",
};
pub(super) const SECONDS: Threshold = Threshold {
    name: "late_seconds",
    value: 6.0,
    unit: Unit::Count,
    help: "seconds of a window with such, for a warning; half of the intervals where these are fewer",
    source: "a server that starts anew, or a switch, leaves SYNs unanswered for some seconds",
};
pub(super) const TIMES: Threshold = Threshold {
    name: "times_loss",
    value: 3.0,
    unit: Unit::Times,
    help: "late_share compared with the part of the data to the peer that is lost; above, the path does not explain it",
    source: "a handshake is two segments, and data one way is one; three times as much is no chance",
};
pub(super) const SYN_SENT: Threshold = Threshold {
    name: "syn_sent",
    value: 200.0,
    unit: Unit::Count,
    help: "sockets in SYN_SENT to a server, told beside",
    source: "field practice: more than 200 have a peer that is away, behind a firewall or overloaded",
};

/// What explains segments that are lost, or late, and nothing that answers no SYN at all.
pub(super) const OF_THE_PATH: [&str; 3] = ["interface-saturated", "bufferbloat", "packet-loss"];

/// Whether a connection was established that waited for a SYN to be sent again.
fn is_late(flow: &Seen, limits: &Limits) -> bool {
    // A timer may be a tick of the kernel early.
    let late_ns = limits.of(&LATE) * 0.99e9;
    let slowest = flow.sums.quantile("connect", 1.0, 1);
    slowest.is_some_and(|ns| ns as f64 >= late_ns || flow.sums.at_least("retransmits.syn") > 0)
}

/// What is wrong with a server that answers others of its clients, or the same ones after a while.
pub(super) fn of_backend(
    watched: &Watched,
    limits: &Limits,
    at: Backend,
    backend: &Group<'_>,
    peer: Option<&Group<'_>>,
) -> Option<Finding> {
    let established = backend.sums.samples("connect");
    let unanswered = super::unanswered(limits, backend);
    let unanswered = unanswered.map_or(0, |group| group.flows.len() as u64);
    // To whom the others went is not known: so it may be.
    let others = if watched.others_connected() { watched.other.samples("connect") } else { 0 };
    let asked = established + unanswered + others;
    let usual_ns = backend.sums.quantile("connect", 0.5, 1)?;
    let bad = backend.only(|flow| {
        is_late(flow, limits)
            || super::is_unanswered(flow)
            || super::is_given_up(flow, limits, Some(usual_ns))
    })?;
    let count = bad.flows.len() as f64;
    let share = count / asked.max(1) as f64;
    if count < limits.of(&LEAST) || share < limits.of(&SHARE) {
        return None;
    }
    let seconds = bad.seconds(|course| course.established.or(course.asked_again)).count();
    let is_sustained = f64::from(seconds) >= watched.lasting(limits.of(&SECONDS));
    let severity = if is_sustained { Severity::Warning } else { Severity::Info };
    let (netns, ip, port) = at;
    let scope = Scope::backend(netns, ip, port).by(&bad.owner());
    let title = format!(
        "{} answers only some SYNs: {count} of {asked} connections asked again{}",
        scope.name,
        if unanswered > 0 { ", or got no answer" } else { "" }
    );
    let finding = Finding::new(watched, severity, scope, title)
        .about("late")
        .confidence(if is_sustained { 0.9 } else { 0.7 })
        .because(
            "A SYN without an answer is sent again after 1 s, and after 2 s and 4 s more: such a connection takes \
             1 s, 3 s or 7 s. SYNs or their answers are lost on the way, the listener has no room for them, or \
             something before it lets only so many through.",
        )
        .beyond(
            watched,
            "part of the connections that asked again or got no answer",
            share,
            &SHARE,
            limits,
        )
        .beyond(watched, "such connections", count, &LEAST, limits)
        .with(watched, "of these without any answer", unanswered as f64, Unit::Count)
        .beyond(watched, "seconds with such", f64::from(seconds), &SECONDS, limits)
        .with(watched, "SYNs sent again", bad.sums.at_least("retransmits.syn") as f64, Unit::Count);
    let finding = latencies(finding, watched, backend);
    let finding = by_no_listener_here(data_lost(finding, watched, limits, peer, share), backend);
    let finding = if bad.is_local() {
        finding.advise("both ends are on this node: look at that end's listener, and for packets that it drops")
    } else {
        finding
    };
    let finding = finding
        .advise(format!(
            "on {ip}: has the listener of port {port} room? ss -ltn sport = :{port}; nstat -az TcpExtListenDrops \
             TcpExtTCPReqQFullDrop"
        ))
        .advise("look for a limit of new connections before it: of a firewall, a load balancer, a cloud's network")
        .advise("until then let clients keep connections and pool them: each new one may have to wait")
        .confirm_by(events("connect", netns, ip))
        .confirm_by(events("retransmit", netns, ip))
        .confirm_by(inside(&bad, "nstat -az TcpExtTCPSynRetrans TcpActiveOpens"));
    Some(beside_others(syn_sent(finding, watched, limits, at), watched))
}

/// How long connecting takes.
fn latencies(finding: Finding, watched: &Watched, backend: &Group<'_>) -> Finding {
    let of = |quantile| backend.sums.quantile("connect", quantile, 1);
    let both = [("connect p50", of(0.5)), ("connect p99", of(0.99))];
    let known = both.into_iter().filter_map(|(name, ns)| Some((name, ns?)));
    known.fold(finding, |finding, (name, ns)| finding.with(watched, name, ns as f64, Unit::Ns))
}

/// Says whether data to the peer gets lost as well: then it is the path.
fn data_lost(
    finding: Finding,
    watched: &Watched,
    limits: &Limits,
    peer: Option<&Group<'_>>,
    share: f64,
) -> Finding {
    let sent = peer.and_then(|peer| sent(&peer.sums)).unwrap_or(0);
    let Some(peer) = peer.filter(|_| sent >= BUSY) else {
        return finding.not_seeing("whether data gets lost as well: hardly any was sent to it");
    };
    let Some(lost) = Lost::of(peer) else {
        return finding.not_seeing("whether data gets lost as well: nobody tells of it");
    };
    let lost = lost.most as f64 / sent as f64;
    let finding = if lost > 0.0 {
        let times = share / lost;
        finding.with(watched, "data segments lost / sent", lost, Unit::Ratio).beyond(
            watched,
            "part of the connections / of the data lost",
            times,
            &TIMES,
            limits,
        )
    } else {
        finding
    };
    if lost * limits.of(&TIMES) >= share {
        return finding;
    }
    let lost = format::percent(lost);
    finding
        .ruling_out(format!("a path that loses segments: {lost} of the data was lost"))
        .clearing(&OF_THE_PATH)
}

/// Tells of sockets that wait for an answer, where there are any.
pub(super) fn syn_sent(
    finding: Finding,
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): Backend,
) -> Finding {
    let waiting = |interval: &Interval| {
        let here = interval.node.sockets.iter().filter(|one| Some(one.netns) == netns);
        let groups = here.flat_map(|one| &one.syn_sent);
        let to_it = groups.filter(|one| (one.peer.ip, one.peer.port) == (Some(ip), Some(port)));
        to_it.map(|one| one.count).sum::<u64>()
    };
    match watched.intervals.iter().map(waiting).max().unwrap_or(0) {
        0 => finding,
        n => {
            let what = "sockets in SYN_SENT to it, at most";
            finding.beyond(watched, what, n as f64, &SYN_SENT, limits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{peer_unreachable::DEFINITION, tests::check},
        snapshot::{
            Flow,
            node::{SocketGroup, Sockets},
        },
        watched::kit::{self, NETNS, end},
    };

    fn connected(id: &str, ms: u64) -> Flow {
        kit::flow(id)
            .latency("connect", 1, ms * 1_000_000)
            .count("retransmits.syn", 0)
            .count("segments_received", 5)
    }

    /// One to which nothing came, given up after 5 s.
    fn in_vain(id: &str) -> Flow {
        let flow = Flow { closed: true, ..kit::flow(id) };
        flow.count("connects_failed.closed", 1)
            .count("retransmits.syn", 2)
            .count("segments_sent", 3)
            .count("segments_received", 0)
    }

    /// So many flows, and what the nth of them is.
    type Kind<'a> = (u64, &'a dyn Fn(u64) -> Flow);

    /// The flows of each of ten seconds: all of a kind spread over the first `seconds`.
    fn spread(seconds: u64, kinds: &[Kind<'_>]) -> Vec<Vec<Flow>> {
        let mut all: Vec<Vec<Flow>> = vec![Vec::new(); 10];
        for &(count, flow) in kinds {
            for n in 0..count {
                all[(n % seconds) as usize].push(flow(n));
            }
        }
        all
    }

    fn late(n: u64) -> Flow {
        connected(&format!("late{n}"), 1_003)
    }

    fn quick(n: u64) -> Flow {
        connected(&format!("quick{n}"), 5)
    }

    fn over(seconds: u64, kinds: &[Kind<'_>]) -> Watched {
        let all = spread(seconds, kinds);
        kit::series(|second| all[second as usize].clone())
    }

    fn of(lates: u64, quicks: u64) -> Watched {
        over(10, &[(lates, &late), (quicks, &quick)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(4, 6), None);
        check(&DEFINITION, &of(5, 5), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 495), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 496), None);
        check(&DEFINITION, &of(0, 500), None);
        // In four seconds of ten.
        check(&DEFINITION, &over(4, &[(40, &late), (400, &quick)]), Some(Severity::Info));
        check(&DEFINITION, &over(5, &[(40, &late), (400, &quick)]), Some(Severity::Warning));
    }

    #[test]
    fn what_is_late_took_a_second_or_a_second_syn() {
        let after = |ms: u64, again: u64| {
            let flow =
                move |n: u64| connected(&format!("f{n}"), ms).count("retransmits.syn", again);
            over(10, &[(10, &flow), (90, &quick)])
        };
        check(&DEFINITION, &after(1_000, 0), Some(Severity::Warning));
        check(&DEFINITION, &after(980, 0), None);
        check(&DEFINITION, &after(300, 1), Some(Severity::Warning));
    }

    /// Where less than half get no answer at all.
    #[test]
    fn connections_without_an_answer_count() {
        let lost = |n: u64| in_vain(&format!("lost{n}"));
        check(&DEFINITION, &over(10, &[(10, &lost), (40, &quick)]), Some(Severity::Warning));
        let both = over(10, &[(3, &late), (2, &lost), (45, &quick)]);
        check(&DEFINITION, &both, Some(Severity::Info));
        let found = (DEFINITION.rule)(&both, &Limits::default()).remove(0);
        assert_eq!(
            found.title,
            "10.0.0.2:443 answers only some SYNs: 5 of 50 connections asked again, or got no answer"
        );
        // From half of them on there is another finding.
        let half = over(10, &[(20, &lost), (5, &late), (15, &quick)]);
        let found = (DEFINITION.rule)(&half, &Limits::default());
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].title.contains("does not answer 20 connections"), "{}", found[0].title);
    }

    /// Connections that are not told apart may all have been to this server.
    #[test]
    fn others_may_have_got_through() {
        let with = |others: u64| {
            let all = spread(10, &[(5, &late), (45, &quick)]);
            let mut watched = Watched::default();
            for second in 0..10 {
                let mut snapshot = kit::snapshot(second, all[second as usize].clone());
                snapshot.folded = Some(9);
                snapshot.other = snapshot.other.latency("connect", others, 5_000_000);
                watched.take(&snapshot);
            }
            watched
        };
        check(&DEFINITION, &with(45), Some(Severity::Warning));
        check(&DEFINITION, &with(46), None);
    }

    #[test]
    fn a_path_that_loses_data_loses_syns() {
        let with = |lost: u64| {
            let data = move |_: u64| {
                kit::flow("data")
                    .count("data_segments_sent", 1_000)
                    .count("retransmits.rto", 0)
                    .count("retransmits.fast", lost)
            };
            let watched = over(10, &[(10, &late), (90, &quick), (1, &data)]);
            (DEFINITION.rule)(&watched, &Limits::default()).remove(0)
        };
        for (lost, is_path) in [(33, false), (34, true)] {
            let found = with(lost);
            assert_eq!(!found.cleared.contains(&"packet-loss"), is_path);
            let told = found.evidence.iter().find(|one| one.metric.ends_with("of the data lost"));
            let told = told.map(|one| (one.value > 3.0, one.threshold));
            assert_eq!(told, Some((!is_path, Some(3.0))), "{found:#?}");
        }
        assert!(with(0).evidence.iter().all(|one| !one.metric.contains("lost")));
    }

    /// What the peer had twice were probes first, and those of the connection that sent them.
    #[test]
    fn data_is_as_lost_as_packet_loss_has_it() {
        let flow = |id: &str, fast: u64, probes: u64, twice: u64| {
            kit::flow(id)
                .count("data_segments_sent", 5_000)
                .count("retransmits.rto", 0)
                .count("retransmits.fast", fast)
                .count("retransmits.tlp", probes)
                .count("dsacks", twice)
        };
        for (probes, [twice, elsewhere], percent) in
            [(300, [300, 0], Some(3.0)), (0, [0, 300], Some(3.0)), (0, [300, 0], None)]
        {
            let data = |_: u64| flow("data", 300, probes, twice);
            let other = |_: u64| flow("other", 0, 0, elsewhere);
            let kinds: [Kind<'_>; 4] = [(6, &late), (94, &quick), (1, &data), (1, &other)];
            let found = (DEFINITION.rule)(&over(10, &kinds), &Limits::default()).remove(0);
            assert_eq!(found.cleared.contains(&"packet-loss"), percent.is_none(), "{found:#?}");
            let told = found.evidence.iter().find(|one| one.metric.starts_with("data segments"));
            assert_eq!(told.map(|one| (one.value * 100.0).round()), percent, "{found:#?}");
        }
    }

    /// Its own listener may be of any port, and of a server elsewhere it is none.
    #[test]
    fn a_listener_here_has_no_part_in_what_is_asked_elsewhere() {
        let clears = |change: &dyn Fn(Flow) -> Flow| {
            let (late, quick) = (|n: u64| change(late(n)), |n: u64| change(quick(n)));
            let watched = over(10, &[(10, &late), (90, &quick)]);
            let found = (DEFINITION.rule)(&watched, &Limits::default()).remove(0);
            ["listen-overflow", "syn-backlog-overflow"].map(|id| found.cleared.contains(&id))
        };
        assert_eq!(clears(&|flow| flow), [true; 2]);
        assert_eq!(clears(&|flow| flow.to("127.0.0.1", 443)), [false; 2]);
        assert_eq!(clears(&|flow| flow.to("10.0.0.1", 443)), [false; 2]);
        // Of those that it accepted the other end is known.
        let accepted = |flow: Flow| match flow.id.starts_with("quick") {
            true => Flow { pair: Some("f9".to_owned()), ..flow },
            false => flow,
        };
        assert_eq!(clears(&accepted), [false; 2]);
    }

    #[test]
    fn sockets_that_wait_are_told() {
        let mut watched = of(10, 90);
        for interval in &mut watched.intervals {
            let group = |peer, count| {
                let local = crate::snapshot::Endpoint { port: None, ..end("10.0.0.1", 1) };
                SocketGroup { local, peer, count }
            };
            let syn_sent = vec![group(end("10.0.0.2", 443), 240), group(end("10.0.0.2", 80), 9)];
            interval.node.sockets.push(Sockets { netns: NETNS, syn_sent, ..Sockets::default() });
        }
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = (DEFINITION.rule)(&watched, &Limits::default()).remove(0);
        let told = found.evidence.iter().find(|one| one.metric.starts_with("sockets in SYN_SENT"));
        assert_eq!(told.map(|one| (one.value, one.threshold)), Some((240.0, Some(200.0))));
    }

    #[test]
    fn wording() {
        let again = |n: u64| late(n).count("retransmits.syn", 1);
        let watched = over(10, &[(30, &again), (70, &quick)]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
