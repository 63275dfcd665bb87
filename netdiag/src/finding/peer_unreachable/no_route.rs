//! This node has no route for what it is to send: connects fail before a SYN, so that no flow tells of them.

use std::collections::BTreeMap;

use crate::{
    finding::{Finding, Limits, Scope, Severity, Threshold, Unit, node::inside},
    snapshot::Owner,
    watched::Watched,
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

/// One for each network namespace in which that is so.
pub(super) fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut all: BTreeMap<u32, u64> = BTreeMap::new();
    for (netns, ip) in watched.intervals.iter().flat_map(|interval| &interval.node.ip) {
        // Programs try addresses of both families, and without IPv6 go on with IPv4: that is usual.
        *all.entry(*netns).or_default() += ip.get("OutNoRoutes").copied().unwrap_or(0);
    }
    all.into_iter().filter_map(|(netns, n)| of_namespace(watched, limits, netns, n)).collect()
}

fn of_namespace(watched: &Watched, limits: &Limits, netns: u32, count: u64) -> Option<Finding> {
    let rate = count as f64 / watched.seconds.max(1e-9);
    if count < LEAST || rate < limits.of(&RATE) {
        return None;
    }
    let title = format!("this namespace has no route for {count} connects or packets");
    let whose = Owner::default();
    Some(
        Finding::new(watched, Severity::Warning, Scope::namespace(netns), title)
            .confidence(0.8)
            .because(
                "connect and sendto fail at once with ENETUNREACH: no route leads to where they are to go. The \
                 default route has gone, or there never was one. Nothing is sent, so that no flow tells of it.",
            )
            .beyond(watched, "connects and packets without a route, each second", rate, &RATE, limits)
            .with(watched, "of these in all", count as f64, Unit::Count)
            .ruling_out("the peer and the path to it: nothing was sent")
            .not_seeing("who asked, and for what: the kernel counts them by network namespace alone")
            .not_seeing("the same over IPv6: programs without it try such addresses all the time")
            // What drops packets has nothing to do with it; an interface that is down takes its routes along.
            .clearing(&["firewall-drop", "half-open-peer", "conntrack-full", "qdisc-drop", "softnet-drop"])
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
