//! This node's own firewall drops what somebody needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Part, Scope, Severity, Threshold, Unit,
    advice::{inside, is_private, many},
};
use crate::watched::{Group, Seen, Watched};

const LEAST: Threshold = Threshold {
    name: "least_packets",
    value: 10.0,
    unit: Unit::Count,
    help: "packets of this node's own connections dropped in a window, for a warning",
    source: "two connections that are given up have that many",
};
const NOTICED: Threshold = Threshold {
    name: "noticed_packets",
    value: 5.0,
    unit: Unit::Count,
    help: "the same, for an info",
    source: "one connection that is given up",
};
const CONVERSATIONS: Threshold = Threshold {
    name: "least_conversations",
    value: 10.0,
    unit: Unit::Count,
    help: "conversations that ask for one port of this node and are dropped in a window",
    source: "fewer are a probe, or somebody who is mistaken",
};
/// Drops for the kernel's reason, and at the places where kernels without reasons drop for the same one
/// (`nf_hook_slow`, net/netfilter/core.c).
const DROPS: [Packets; 4] = [
    Packets::of("drops.NETFILTER_DROP"),
    Packets::of("drops.at:nf_hook_slow"),
    Packets::of("drops.at:nf_hook_slow_list"),
    Packets::of("drops.at:nft_do_chain"),
];

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "firewall-drop",
    help: "this node's firewall drops packets of its own connections, or of clients",
    thresholds: &[&LEAST, &NOTICED, &CONVERSATIONS],
    needs: &[Signal::Drop],
    parts: &[],
    node: &[Part::Conntrack],
    exact: &[],
    packets: &DROPS,
    causes: &["conntrack-full", "conntrack-insert-failed"],
    rule,
};

fn dropped(flow: &Seen) -> u64 {
    DROPS.iter().map(|drops| flow.sums.at_least(drops.counts)).sum()
}

/// Whether a socket of this node has it; else a packet was on its way in, or through.
fn is_own(flow: &Seen) -> bool {
    flow.owner.pid.is_some() || flow.role.is_some() || flow.sums.at_least("segments_sent") > 0
}

/// What is for all in a network is dropped everywhere.
fn is_to_all(ip: IpAddr) -> bool {
    let is_directed = |ip: std::net::Ipv4Addr| ip.octets()[3] == 255;
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || is_directed(ip))
}

/// Namespaces where connection tracking accounts for most of the drops, or may: it is a hook of netfilter, too, and
/// the kernel's reason is the same.
fn by_tracking(watched: &Watched) -> BTreeSet<Option<u32>> {
    let mut tracked: BTreeMap<u32, u64> = BTreeMap::new();
    for table in watched.intervals.iter().flat_map(|interval| &interval.node.conntrack) {
        *tracked.entry(table.netns).or_default() += table.drop.unwrap_or(0);
    }
    let drops = watched.by(|flow| Some(flow.netns));
    let drops = drops.iter().map(|(netns, group)| (*netns, all(group)));
    let unread = watched.unread(Part::Conntrack);
    let may = |netns| unread.is_some_and(|unread| unread.concerns(netns));
    let is_most = |&(netns, n): &(Option<u32>, u64)| {
        let of_tracking = |netns| tracked.get(&netns).map_or(may(netns), |of| of * 2 > n);
        netns.is_some_and(of_tracking)
    };
    drops.filter(is_most).map(|(netns, _)| netns).collect()
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let tracked = by_tracking(watched);
    let own = watched.by(|flow| {
        let is_so = dropped(flow) > 0 && is_own(flow) && !tracked.contains(&flow.netns);
        // Of a server's connections the port is its own.
        let port = if flow.is_client() { flow.peer.port } else { flow.local.port };
        is_so.then_some((flow.netns, flow.peer.ip?, port))
    });
    let own = own.iter().filter_map(|(at, group)| of_own(watched, limits, *at, group));
    let asked = watched.by(|flow| {
        let is_so = dropped(flow) > 0
            && !is_own(flow)
            && !is_to_all(flow.local.ip?)
            && !tracked.contains(&flow.netns);
        is_so.then_some((flow.netns, flow.local.ip?, flow.local.port?))
    });
    let asked = asked.iter().filter_map(|(at, group)| of_clients(watched, limits, *at, group));
    own.chain(asked).collect()
}

fn all(group: &Group<'_>) -> u64 {
    group.flows.iter().map(|flow| dropped(flow)).sum()
}

fn of_own(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): (Option<u32>, IpAddr, Option<u16>),
    group: &Group<'_>,
) -> Option<Finding> {
    let packets = all(group);
    if (packets as f64) < limits.of(&NOTICED) {
        return None;
    }
    let (severity, threshold) = if packets as f64 >= limits.of(&LEAST) {
        (Severity::Warning, &LEAST)
    } else {
        (Severity::Info, &NOTICED)
    };
    let (scope, with) = match port {
        Some(port) if group.first().is_client() => {
            (Scope::backend(netns, ip, port), format!("{ip} port {port}"))
        }
        _ => (Scope::peer(netns, ip), ip.to_string()),
    };
    let who = group.comm().map(|comm| format!("{comm}'s ")).unwrap_or_default();
    let title = format!("this node's firewall drops {who}packets with {with}: {packets} of them");
    let finding = Finding::new(watched, severity, scope.by(&group.owner()), title)
        .about(port.map_or_else(String::new, |port| format!("{port}")))
        .beyond(watched, "packets dropped", packets as f64, threshold, limits)
        .with(watched, "conversations", group.flows.len() as f64, Unit::Count);
    Some(told(finding, group, netns, &format!("--peer {ip}")))
}

/// What asks for a port of this node, or passes it.
fn of_clients(
    watched: &Watched,
    limits: &Limits,
    (netns, local, port): (Option<u32>, IpAddr, u16),
    group: &Group<'_>,
) -> Option<Finding> {
    // Whom the Internet sends is nobody's client.
    let near = group.only(|flow| flow.peer.ip.is_some_and(is_private));
    let is_near =
        near.as_ref().is_some_and(|near| near.flows.len() as f64 >= limits.of(&CONVERSATIONS));
    let group = near.as_ref().filter(|_| is_near).unwrap_or(group);
    if (group.flows.len() as f64) < limits.of(&CONVERSATIONS) {
        return None;
    }
    let is_tcp = group.first().is_tcp();
    let severity = if is_near && is_tcp { Severity::Warning } else { Severity::Info };
    let mut peers: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for flow in &group.flows {
        if let Some(ip) = flow.peer.ip {
            *peers.entry(ip).or_default() += dropped(flow);
        }
    }
    let (&worst, _) = peers.iter().max_by_key(|(_, packets)| **packets)?;
    let scope = match netns {
        _ if peers.len() == 1 => Scope::peer(netns, worst),
        Some(netns) => Scope::namespace(netns),
        None => Scope::node(""),
    };
    let whose = if peers.len() == 1 { worst.to_string() } else { many(peers.len(), "client") };
    let title = format!(
        "this node's firewall drops what {whose} sends to {}: {}",
        std::net::SocketAddr::new(local, port),
        many(group.flows.len(), "conversation")
    );
    let finding = Finding::new(watched, severity, scope.at(port), title)
        .confidence(0.85)
        .beyond(watched, "conversations dropped", group.flows.len() as f64, &CONVERSATIONS, limits)
        .with(watched, "packets dropped", all(group) as f64, Unit::Count)
        .with(watched, "addresses that they came from", peers.len() as f64, Unit::Count)
        .not_seeing("whether the rule is meant so: a policy that denies looks the same");
    let at = format!("--local-port {port}");
    Some(told(finding, group, netns, &at))
}

fn told(finding: Finding, group: &Group<'_>, netns: Option<u32>, filter: &str) -> Finding {
    let netns = netns.map(|netns| format!(" --netns {netns}")).unwrap_or_default();
    finding
        .because(
            "The kernel dropped them because a netfilter rule said so (nftables, iptables, a NetworkPolicy). \
             The sender gets no answer: it tries again, and gives up after seconds or minutes.",
        )
        .ruling_out("loss on the way: these packets were here")
        .advise("find the rule, and ask its owner before you change it: a counter that grows tells which one")
        .advise("in a cluster look at the NetworkPolicies of the pod's namespace first")
        .advise("where the rule is right, let it reject: clients then fail at once")
        .confirm_by(format!("netdiag events --kind drop --stack {filter}{netns}"))
        .confirm_by(inside(group, "nft list ruleset"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{ConntrackTable, Flow, Owner, node::Unread},
        watched::kit,
    };

    fn own(packets: u64, label: &str) -> Watched {
        kit::once([kit::flow("f1").count(&format!("drops.{label}"), packets)])
    }

    /// So many conversations of a client for a port of this node.
    fn asked(count: usize, client: &str) -> Vec<Flow> {
        let one = |n: usize| Flow {
            role: None,
            owner: Owner::default(),
            local: kit::end("10.0.0.1", 8080),
            ..kit::flow(&format!("f{n}")).to(client, 40_000 + n as u16)
        };
        (0..count).map(|n| one(n).count("drops.NETFILTER_DROP", 3)).collect()
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &own(4, "NETFILTER_DROP"), None);
        check(&DEFINITION, &own(5, "NETFILTER_DROP"), Some(Severity::Info));
        check(&DEFINITION, &own(9, "NETFILTER_DROP"), Some(Severity::Info));
        check(&DEFINITION, &own(10, "NETFILTER_DROP"), Some(Severity::Warning));
        check(&DEFINITION, &own(10, "at:nf_hook_slow"), Some(Severity::Warning));
        check(&DEFINITION, &own(10, "NO_SOCKET"), None);
        check(&DEFINITION, &kit::once(asked(9, "10.0.0.2")), None);
        check(&DEFINITION, &kit::once(asked(10, "10.0.0.2")), Some(Severity::Warning));
    }

    #[test]
    fn what_the_internet_sends_or_all_get_is_dropped_everywhere() {
        check(&DEFINITION, &kit::once(asked(50, "203.0.113.9")), Some(Severity::Info));
        let udp = |flow: Flow| Flow { protocol: Some("udp".to_owned()), ..flow };
        check(
            &DEFINITION,
            &kit::once(asked(50, "10.0.0.2").into_iter().map(udp)),
            Some(Severity::Info),
        );
        let to = |ip: &'static str| move |flow: Flow| Flow { local: kit::end(ip, 8080), ..flow };
        for ip in ["224.0.0.251", "10.0.0.255", "ff02::fb"] {
            check(&DEFINITION, &kit::once(asked(50, "10.0.0.2").into_iter().map(to(ip))), None);
        }
    }

    #[test]
    fn what_connection_tracking_drops_is_its_own_finding() {
        let with = |drop| {
            let flow = kit::flow("f1").count("drops.NETFILTER_DROP", 10);
            kit::with_node(&[flow], |node| {
                node.conntrack = vec![ConntrackTable {
                    netns: kit::NETNS,
                    entries: 1_000,
                    max: Some(1_000),
                    insert_failed: None,
                    drop,
                    early_drop: None,
                    clash_resolve: None,
                    invalid: None,
                    chaintoolong: None,
                }];
            })
        };
        check(&DEFINITION, &with(Some(10)), None);
        check(&DEFINITION, &with(Some(5)), Some(Severity::Warning));
        check(&DEFINITION, &with(None), Some(Severity::Warning));
        let mut watched = with(Some(5));
        for interval in &mut watched.intervals {
            interval.node.conntrack.clear();
            let unread = [(kit::NETNS, "it is shut".to_owned())].into();
            interval.node.unread.extend(Unread::in_namespaces(Part::Conntrack, &unread));
        }
        check(&DEFINITION, &watched, None);
        for interval in &mut watched.intervals {
            interval.node.unread[0].netns = vec![kit::NETNS + 1];
        }
        check(&DEFINITION, &watched, Some(Severity::Warning));
    }

    #[test]
    fn many_clients_are_one_finding() {
        let flows = (0..30)
            .map(|n| Flow { id: format!("f{n}"), ..asked(1, &format!("10.0.1.{n}")).remove(0) });
        let found = rule(&kit::once(flows), &Limits::default());
        assert_eq!((found.len(), found[0].scope.name.as_str()), (1, "4026532177"));
    }

    #[test]
    fn wording() {
        let watched = kit::once(asked(30, "10.0.0.2"));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
