//! This node has no route for what it is to send: connects fail before a SYN, so that no flow tells of them.

use std::{collections::BTreeMap, iter, net::IpAddr};

use crate::{
    finding::{Finding, Limits, Scope, Severity, Threshold, Unit, node::inside},
    snapshot::Owner,
    watched::{Seen, Watched},
};

pub(super) const RATE: Threshold = Threshold {
    name: "no_route",
    value: 1.0,
    unit: Unit::PerSecond,
    help: "connects and packets of a network namespace each second for which it has no route (IPv4)",
    source: "what tries an address in vain now and then has less",
};
/// Fewer in a window say nothing.
const LEAST: u64 = 10;

/// What has no route, over IPv4 and over IPv6.
const COUNTERS: [&str; 2] = ["OutNoRoutes", "Ip6OutNoRoutes"];

/// One for each network namespace in which that is so.
pub(super) fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut all: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
    for (netns, ip) in watched.intervals.iter().flat_map(|interval| &interval.node.ip) {
        let sums = all.entry(*netns).or_default();
        for (sum, counter) in iter::zip(sums, COUNTERS) {
            *sum += ip.get(counter).copied().unwrap_or(0);
        }
    }
    all.into_iter().filter_map(|(netns, sums)| of_namespace(watched, limits, netns, sums)).collect()
}

/// Whether a namespace is heard over IPv6 from beyond its link, and has nobody over IPv4 beyond itself: it may be meant
/// to have IPv6 alone.
fn is_of_ipv6(watched: &Watched, netns: u32) -> bool {
    let is_heard = |flow: &Seen| {
        let took = |metric| flow.sums.samples(metric) > 0;
        took("connect") || took("dns") || flow.sums.at_least("segments_received") > 0
    };
    let mut heard = false;
    for flow in watched.flows.values().filter(|flow| flow.netns == Some(netns)) {
        // An IPv4 address may be written as one of IPv6.
        match flow.peer.ip.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) if !ip.is_loopback() => return false,
            Some(IpAddr::V6(ip)) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
                heard |= is_heard(flow);
            }
            _ => {}
        }
    }
    heard
}

fn of_namespace(
    watched: &Watched,
    limits: &Limits,
    netns: u32,
    [count, over_v6]: [u64; 2],
) -> Option<Finding> {
    let rate = |count: u64| count as f64 / watched.seconds.max(1e-9);
    let is_many = |count: u64| count >= LEAST && rate(count) >= limits.of(&RATE);
    // Programs try addresses of both families, and without IPv6 go on with IPv4: that is usual.
    if !is_many(count) {
        return None;
    }
    // So it is without IPv4: names are resolved to both, and a socket is connected to each address only to sort them
    // (RFC 6724). Where nothing leads anywhere by IPv6 either, the routes have gone.
    let is_usual = !is_many(over_v6) && is_of_ipv6(watched, netns);
    let (severity, why) = if is_usual {
        (
            Severity::Info,
            "connect and sendto fail at once with ENETUNREACH: no route leads to where they are to go. This \
             namespace is heard over IPv6 and talks to nobody over IPv4, so it may be meant to have none: programs \
             try the addresses of both families that a name has, if only to sort them, and go on with IPv6.",
        )
    } else {
        (
            Severity::Warning,
            "connect and sendto fail at once with ENETUNREACH: no route leads to where they are to go. The \
             default route has gone, or there never was one. Nothing is sent, so that no flow tells of it.",
        )
    };
    let title = format!("this namespace has no route for {count} connects or packets");
    let whose = Owner::default();
    let finding = Finding::new(watched, severity, Scope::namespace(netns), title);
    let finding = match is_usual {
        true => finding.advise("where it is meant to have IPv6 alone there is nothing to mend"),
        false => finding,
    };
    let metric = "connects and packets without a route, each second";
    Some(
        finding
            .confidence(0.8)
            .because(why)
            .beyond(watched, metric, rate(count), &RATE, limits)
            .with(watched, "of these in all", count as f64, Unit::Count)
            .ruling_out("the peer and the path to it: nothing was sent")
            .not_seeing("who asked, and for what: the kernel counts them by network namespace alone")
            .not_seeing("the same over IPv6: programs without it try such addresses all the time")
            // What drops packets has nothing to do with it; an interface that is down takes its routes along.
            .clearing(&["firewall-drop", "half-open-peer", "qdisc-drop", "softnet-drop"])
            .clearing(&["conntrack-full", "conntrack-insert-failed"])
            .clearing(&["listen-overflow", "syn-backlog-overflow"])
            .clearing(&super::late::OF_THE_PATH)
            .advise("look for the default route, and for the interface that it leads through: ip route; ip link")
            .advise("look for \"Network is unreachable\" in what the applications of this namespace log")
            .confirm_by(inside(watched, netns, &whose, "ip route"))
            .confirm_by(inside(watched, netns, &whose, "nstat -az IpOutNoRoutes")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{peer_unreachable::DEFINITION, tests::check},
        snapshot::Flow,
        watched::kit::{self, NETNS},
    };

    /// So many in each of the first seconds of ten.
    fn of(counter: &str, each: u64, seconds: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            let n = if second < seconds { each } else { 0 };
            node.ip.entry(NETNS).or_default().insert(counter.to_owned(), n);
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of("OutNoRoutes", 1, 9), None);
        check(&DEFINITION, &of("OutNoRoutes", 1, 10), Some(Severity::Warning));
        check(&DEFINITION, &of("OutNoRoutes", 10, 1), Some(Severity::Warning));
        check(&DEFINITION, &of("Ip6OutNoRoutes", 100, 10), None);
    }

    /// Two of each of these each second, beside these flows.
    fn beside(counters: &[&str], flows: &[Flow]) -> Watched {
        kit::with_nodes(flows, |_, node| {
            let ip = node.ip.entry(NETNS).or_default();
            ip.extend(counters.iter().map(|counter| ((*counter).to_owned(), 2)));
        })
    }

    fn heard(id: &str, ip: &str) -> Flow {
        kit::flow(id).to(ip, 443).latency("connect", 1, 5_000_000)
    }

    /// Names have addresses of both families, and each is tried.
    #[test]
    fn a_namespace_that_talks_over_ipv6_alone_is_an_info() {
        let (v4, both): (&[&str], &[&str]) = (&["OutNoRoutes"], &COUNTERS);
        let v6 = || heard("v6", "2001:db8::2");
        let names = kit::asker("fd00::53").latency("dns", 3, 1_000_000);
        let itself = heard("lo", "127.0.0.1");
        for (counters, flows, expected) in [
            (v4, vec![], Severity::Warning),
            (v4, vec![v6()], Severity::Info),
            (v4, vec![names], Severity::Info),
            (v4, vec![v6(), itself], Severity::Info),
            (v4, vec![v6(), heard("v4", "10.0.0.2")], Severity::Warning),
            (v4, vec![v6(), heard("mapped", "::ffff:10.0.0.2")], Severity::Warning),
            (v4, vec![heard("v4", "10.0.0.2")], Severity::Warning),
            // All routes have gone but those of the link, or nobody is heard over IPv6 either.
            (both, vec![v6()], Severity::Warning),
            (v4, vec![heard("link", "fe80::2"), heard("lo", "::1")], Severity::Warning),
            (v4, vec![kit::flow("unheard").to("2001:db8::2", 443)], Severity::Warning),
            (v4, vec![Flow { netns: Some(NETNS + 1), ..v6() }], Severity::Warning),
        ] {
            check(&DEFINITION, &beside(counters, &flows), Some(expected));
        }
    }

    /// As a run begins, one is one a second.
    #[test]
    fn a_few_are_an_accident() {
        let first = |n: u64| {
            let mut watched = Watched::default();
            let mut snapshot = kit::snapshot(0, vec![]);
            snapshot.node.ip.entry(NETNS).or_default().insert("OutNoRoutes".to_owned(), n);
            watched.take(&snapshot);
            watched
        };
        check(&DEFINITION, &first(9), None);
        check(&DEFINITION, &first(10), Some(Severity::Warning));
    }

    #[test]
    fn wording() {
        let watched = of("OutNoRoutes", 40, 10);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
