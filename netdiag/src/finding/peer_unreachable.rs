//! Connections to a peer are asked for, and nothing answers.

use std::collections::BTreeMap;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{beside_others, events, inside, many},
};
use crate::watched::{Backend, Group, Peer, Seen, Watched};

const LEAST: Threshold = Threshold {
    name: "least_unanswered",
    value: 4.0,
    unit: Unit::Count,
    help: "connections asked for in a window that nothing answered",
    source: "a lost SYN or two is loss",
};
const RATE: Threshold = Threshold {
    name: "rate",
    value: 0.15,
    unit: Unit::PerSecond,
    help: "the same each second, for a warning; fewer give an info",
    source: "one client with a timeout of some 5 s; a probe every 10 s has less",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the connections asked for that nothing answered",
    source: "with less the peer is there, and loses SYNs or has no room",
};
/// What the kernel says when nothing answers, or a router in its place.
const ERRORS: [&str; 5] = ["ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN"];

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "peer-unreachable",
    help: "connections to a peer are asked for, and nothing answers",
    thresholds: &[&LEAST, &RATE, &SHARE],
    // Until it fails, SYNs that are sent again are all that can be seen.
    needs: &[Signal::Socket, Signal::Retransmit],
    // A connection that was not seen to succeed would count as none.
    parts: &[],
    node: &[],
    exact: &[Signal::Socket],
    packets: &[Packets::of("retransmits.syn")],
    causes: &[
        "firewall-drop",
        "half-open-peer",
        "conntrack-full",
        "interface-errors",
        "qdisc-drop",
        "softnet-drop",
    ],
    rule,
};

/// Whether nothing answered: an error says so, or SYNs were sent again and it was given up or lasts on.
fn is_unanswered(flow: &Seen) -> bool {
    let sums = &flow.sums;
    let failed = ERRORS.iter().any(|error| sums.at_least(&format!("connects_failed.{error}")) > 0);
    let again = sums.at_least("retransmits.syn");
    // One of an earlier window began there.
    let began = sums.count("segments_sent").is_none_or(|sent| sent > again);
    let heard = sums.samples("connect") > 0 || sums.at_least("segments_received") > 0;
    !heard && began && (failed || again >= 2 || again >= 1 && flow.closed)
}

struct Unanswered<'a> {
    group: Group<'a>,
    port: u16,
    share: f64,
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut peers: BTreeMap<Peer, Vec<Unanswered<'_>>> = BTreeMap::new();
    for ((netns, ip, port), backend) in watched.by_backend() {
        if let Some(unanswered) = of_backend(limits, port, &backend) {
            peers.entry((netns, ip)).or_default().push(unanswered);
        }
    }
    let groups = watched.by_peer();
    let mut found = Vec::new();
    for (peer, backends) in peers {
        let is_heard =
            groups.get(&peer).is_some_and(|group| group.seconds(|course| course.heard).count() > 0);
        for backend in &backends {
            // One finding for a peer of which nothing is heard at all, by the port with the most.
            let most = backends.iter().max_by_key(|one| one.group.flows.len()).map(|one| one.port);
            if is_heard || most == Some(backend.port) {
                let at = (peer.0, peer.1, backend.port);
                found.extend(told(watched, limits, at, backend, (is_heard, backends.len())));
            }
        }
    }
    found
}

fn of_backend<'a>(limits: &Limits, port: u16, backend: &Group<'a>) -> Option<Unanswered<'a>> {
    let group = backend.only(is_unanswered)?;
    let count = group.flows.len() as f64;
    let share = count / (count + backend.sums.samples("connect") as f64);
    let is_enough = count >= limits.of(&LEAST) && share >= limits.of(&SHARE);
    is_enough.then_some(Unanswered { group, port, share })
}

fn told(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): Backend,
    unanswered: &Unanswered<'_>,
    (is_heard, ports): (bool, usize),
) -> Option<Finding> {
    let Unanswered { group, share, .. } = unanswered;
    let count = group.flows.len();
    let rate = count as f64 / watched.seconds.max(1e-9);
    let is_all = *share >= 1.0 && !watched.others_connected();
    let severity = match rate >= limits.of(&RATE) {
        false => Severity::Info,
        true if is_all => Severity::Critical,
        true => Severity::Warning,
    };
    let scope = if is_heard { Scope::backend(netns, ip, port) } else { Scope::peer(netns, ip) };
    let asked = many(count, "connection");
    let (name, owner) = (scope.name.clone(), group.owner());
    let title = if is_all {
        format!("{name} answers none of {asked} that were asked for")
    } else if *share >= 1.0 {
        format!("{name} does not answer {asked} that were asked for")
    } else {
        format!(
            "{name} does not answer {asked}, {:.0} % of those that were asked for",
            share * 100.0
        )
    };
    let by_router =
        ERRORS[1..].iter().map(|error| group.sums.at_least(&format!("connects_failed.{error}")));
    let by_router: u64 = by_router.sum();
    let finding = Finding::new(watched, severity, scope.by(&owner), title)
        .confidence(if is_all { 0.95 } else { 0.7 })
        .because(match (is_heard, by_router) {
            (_, 1..) => {
                "A router on the way, or this node, says that the peer cannot be reached: no route, or \
                 nobody answers for its address."
            }
            (false, 0) => {
                "SYNs are sent again after 1 s and more, and neither an answer nor a refusal comes. The \
                 peer is down, the way to it is broken, or a firewall drops them without a word."
            }
            (true, 0) => {
                "The peer is heard at other connections, so it is up: SYNs to this port are dropped, by a \
                 firewall or for want of room in its listener's queue."
            }
        })
        .beyond(watched, "connections that nothing answered", count as f64, &LEAST, limits)
        .beyond(watched, "of those asked for", *share, &SHARE, limits)
        .beyond(watched, "each second", rate, &RATE, limits)
        .with(watched, "SYNs sent again", group.sums.at_least("retransmits.syn") as f64, Unit::Count)
        .with(watched, "failures that a router told of", by_router as f64, Unit::Count)
        .with(watched, "ports of the peer that do not answer", ports as f64, Unit::Count)
        .ruling_out("a port that nobody listens at: that is refused at once")
        .not_seeing("where SYNs or their answers are lost: a rule on the peer and a dead peer look alike")
        .advise(match (is_heard, by_router) {
            (_, 1..) => format!("see the route and the neighbour: ip route get {ip}; ip neigh show {ip}"),
            (false, 0) => format!("see whether {ip} is the right address, and whether it is up"),
            (true, 0) => format!("look at the firewall before {ip}:{port}, and at its listener's queue: ss -ltn"),
        })
        .advise("take it out of the clients' list, and give connect a timeout of its own")
        .confirm_by(inside(group, &format!("nc -zvw 3 {ip} {port}")))
        .confirm_by(inside(group, &format!("ip route get {ip}")))
        .confirm_by(events("connect", netns, ip));
    Some(beside_others(finding, watched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

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

    #[test]
    fn what_is_refused_or_late_or_older_is_reached() {
        let each = |change: fn(Flow) -> Flow| kit::once(unanswered(9, 2).into_iter().map(change));
        check(
            &DEFINITION,
            &each(|flow| {
                flow.count("connects_failed.ECONNREFUSED", 1).count("segments_received", 1)
            }),
            None,
        );
        check(&DEFINITION, &each(|flow| flow.latency("connect", 1, 3_000_000_000)), None);
        check(&DEFINITION, &each(|flow| flow.count("segments_sent", 2)), None);
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

    #[test]
    fn wording() {
        let watched = kit::once(unanswered(20, 3));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
