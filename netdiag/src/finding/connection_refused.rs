//! A peer refuses connections: nobody listens there.

use std::collections::BTreeSet;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{beside_others, by_no_listener_here, events, inside, many},
};
use crate::watched::{Backend, Group, Seen, Watched};

const LEAST: Threshold = Threshold {
    name: "least_refused",
    value: 4.0,
    unit: Unit::Count,
    help: "connections refused in a window, fewer say nothing",
    source: "a server that starts anew refuses a few",
};
const RATE: Threshold = Threshold {
    name: "rate",
    value: 0.15,
    unit: Unit::PerSecond,
    help: "the same each second, for a warning; fewer give an info",
    source: "a probe every 10 s has less",
};
const CRITICAL_RATE: Threshold = Threshold {
    name: "critical_rate",
    value: 1.0,
    unit: Unit::PerSecond,
    help: "the same where none is accepted, from which on it is more than probes",
    source: "what asks each second has work to do",
};
const WELL: Threshold = Threshold {
    name: "well",
    value: 5.0,
    unit: Unit::S,
    help: "time without a refusal after which a server that accepts is well again, for an info",
    source: "who is refused asks again within seconds; a server that starts has begun to accept",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "connection-refused",
    help: "a peer refuses connections: nobody listens at that port",
    thresholds: &[&LEAST, &RATE, &CRITICAL_RATE, &WELL],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[],
    // A connection that was not seen to succeed would count as none.
    exact: &[Signal::Socket],
    packets: &[],
    causes: &["firewall-drop", "listen-overflow", "syn-backlog-overflow"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let backends = watched.by_backend();
    backends.iter().filter_map(|(at, group)| of_backend(watched, limits, *at, group)).collect()
}

fn is_refused(flow: &Seen) -> bool {
    flow.sums.at_least("connects_failed.ECONNREFUSED") > 0
}

fn refusals(flows: &Group<'_>) -> u64 {
    flows.sums.at_least("connects_failed.ECONNREFUSED")
}

/// How many were refused to processes that got to no other address of this node either: who asks for a name's addresses
/// one by one, as for `localhost`, gets to another of them.
fn in_vain(watched: &Watched, refused: &Group<'_>) -> u64 {
    let asks_here = |flow: &Seen| {
        let is_local = flow.peer.ip.is_some_and(|ip| ip.is_loopback());
        is_local.then_some((flow.owner.pid?, flow.peer.port, flow.netns))
    };
    if !refused.flows.iter().any(|flow| asks_here(flow).is_some()) {
        return refusals(refused);
    }
    let got_through = watched.flows.values().filter(|flow| flow.sums.samples("connect") > 0);
    let got_through: BTreeSet<_> = got_through.filter_map(asks_here).collect();
    let lone =
        refused.only(|flow| asks_here(flow).is_none_or(|asked| !got_through.contains(&asked)));
    lone.map_or(0, |lone| refusals(&lone))
}

fn of_backend(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): Backend,
    group: &Group<'_>,
) -> Option<Finding> {
    let refused = group.only(is_refused)?;
    let count = refusals(&refused);
    if (count as f64) < limits.of(&LEAST) {
        return None;
    }
    let established = group.sums.samples("connect");
    let is_all = established == 0 && !watched.others_connected();
    let rate = count as f64 / watched.seconds.max(1e-9);
    let last = refused.seconds(|course| course.refused).last().unwrap_or(0);
    let since = watched.seconds - f64::from(last) - watched.every();
    let is_well =
        group.seconds(|course| course.established).after(last) && since >= limits.of(&WELL);
    let in_vain = in_vain(watched, &refused);
    let is_tried_elsewhere = (in_vain as f64) < limits.of(&LEAST);
    let (severity, threshold) = if is_well || is_tried_elsewhere || rate < limits.of(&RATE) {
        (Severity::Info, &RATE)
    } else if is_all && rate >= limits.of(&CRITICAL_RATE) {
        (Severity::Critical, &CRITICAL_RATE)
    } else {
        (Severity::Warning, &RATE)
    };
    let scope = Scope::backend(netns, ip, port).by(&refused.owner());
    let title = if is_all {
        format!("{} refuses all of {}", scope.name, many(count as usize, "connection"))
    } else if established == 0 {
        format!("{} refuses {}", scope.name, many(count as usize, "connection"))
    } else {
        format!(
            "{} refuses {}, {established} got through",
            scope.name,
            many(count as usize, "connection")
        )
    };
    let finding = Finding::new(watched, severity, scope, title)
        .confidence(0.95)
        .because(
            "The answer to a SYN was a reset: the way there is open and the host is up, but no process \
             listens at that port, or a firewall rejects it in its name.",
        )
        .beyond(watched, "connections refused", count as f64, &LEAST, limits)
        .beyond(watched, "each second", rate, threshold, limits)
        .with(watched, "connections established there", established as f64, Unit::Count)
        .ruling_out("the network: each was answered at once")
        .not_seeing("whether the reset is the peer's own, or that of a firewall before it")
        .advise(match refused.comm() {
            Some(comm) => format!("see whether {comm} asks for the right address and port: {ip}:{port}"),
            None => format!("see whether {ip}:{port} is the right address and port"),
        })
        .advise(format!("on {ip}: is the service up, and does it listen at that address? ss -ltnp sport = :{port}"))
        .confirm_by(inside(&refused, &format!("nc -zv {ip} {port}")))
        .confirm_by(events("connect", netns, ip));
    let finding = by_no_listener_here(beside_others(finding, watched), group);
    Some(match (is_well, is_tried_elsewhere) {
        (true, _) => {
            finding.advise("it accepts again: see whether it was started anew at that time")
        }
        (_, true) if in_vain > 0 => finding.ruling_out(format!(
            "a failure: who asked got through to another address of this node, for all but {in_vain} of them"
        )),
        (_, true) => {
            finding.ruling_out("a failure: who asked got through to another address of this node")
        }
        _ => finding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    fn refused(id: &str) -> Flow {
        Flow { closed: true, ..kit::flow(id).count("connects_failed.ECONNREFUSED", 1) }
    }

    /// One each second of so many, in as many seconds again.
    fn of(refusals: u64, seconds: u64, also: impl Fn(u64) -> Vec<Flow>) -> Watched {
        let mut watched = Watched::default();
        for second in 0..seconds {
            let one = (second < refusals).then(|| refused(&format!("f{second}")));
            watched.take(&kit::snapshot(second, one.into_iter().chain(also(second)).collect()));
        }
        watched
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(3, 10, |_| vec![]), None);
        check(&DEFINITION, &of(4, 10, |_| vec![]), Some(Severity::Warning));
        check(&DEFINITION, &of(4, 26, |_| vec![]), Some(Severity::Warning));
        check(&DEFINITION, &of(4, 27, |_| vec![]), Some(Severity::Info));
        check(&DEFINITION, &of(9, 10, |_| vec![]), Some(Severity::Warning));
        check(&DEFINITION, &of(10, 10, |_| vec![]), Some(Severity::Critical));
    }

    #[test]
    fn a_server_that_starts_anew_or_a_second_address_alarms_nobody() {
        let sound = |second| vec![kit::flow(&format!("s{second}")).latency("connect", 1, 1_000)];
        check(&DEFINITION, &of(10, 10, sound), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 9, sound), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 10, sound), Some(Severity::Info));
        let local = kit::watched(&[
            refused("f1").to("::1", 5432),
            kit::flow("f2").to("127.0.0.1", 5432).latency("connect", 1, 1_000),
        ]);
        check(&DEFINITION, &local, Some(Severity::Info));
    }

    #[test]
    fn who_has_a_second_address_speaks_for_nobody_else() {
        let with = |times: u64| {
            kit::series(|second| {
                let one = refused("f1").to("::1", 5432);
                let other = kit::flow("f2").to("127.0.0.1", 5432).latency("connect", 1, 1_000);
                let lone = (second < times).then(|| refused("f3").to("::1", 5432).of(900, "cron"));
                [one, other].into_iter().chain(lone).collect()
            })
        };
        check(&DEFINITION, &with(3), Some(Severity::Info));
        check(&DEFINITION, &with(4), Some(Severity::Critical));
        let found = rule(&with(3), &Limits::default()).remove(0);
        let said = "for all but 3 of them";
        assert!(found.ruled_out.iter().any(|line| line.ends_with(said)), "{found:#?}");
    }

    /// Those that got through may be among the flows that are summed up.
    #[test]
    fn all_is_said_only_where_all_are_told_apart() {
        let mut watched = of(10, 10, |_| vec![]);
        assert!(rule(&watched, &Limits::default())[0].title.contains("refuses all of"));
        let mut snapshot = kit::snapshot(10, vec![]);
        snapshot.other = snapshot.other.latency("connect", 1, 1_000);
        snapshot.folded = Some(7);
        watched.take(&snapshot);
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.title.ends_with("refuses 10 connections"), "{}", found.title);
        assert!(found.not_observable.iter().any(|line| line.contains("up to 7 flows")));
    }

    #[test]
    fn a_listener_here_has_no_part_in_what_is_asked_elsewhere() {
        let clears = |ip: &str| {
            let flows = ["f1", "f2"].map(|id| refused(id).to(ip, 443));
            let found = rule(&kit::watched(&flows), &Limits::default()).remove(0);
            ["listen-overflow", "syn-backlog-overflow"].map(|id| found.cleared.contains(&id))
        };
        assert_eq!(clears("10.0.0.2"), [true; 2]);
        assert_eq!([clears("10.0.0.1"), clears("127.0.0.1")], [[false; 2]; 2]);
    }

    #[test]
    fn wording() {
        let watched = kit::watched(&[refused("f1"), refused("f2")]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
