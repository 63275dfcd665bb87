//! Very many connections were closed a short time ago.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    node::{at, graded, inside},
};
use crate::{
    snapshot::{
        Owner, Role,
        node::{SocketGroup, Sockets},
    },
    watched::Watched,
};

const COUNT: Threshold = Threshold {
    name: "count",
    value: 10_000.0,
    unit: Unit::Count,
    help: "sockets of a network namespace in TIME_WAIT",
    source: "field practice: above 10,000 connections are too short-lived",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 20_000.0,
    unit: Unit::Count,
    help: "the same towards one server, from which on ports run out",
    source: "field practice: above 20,000; the default range has 28,232 ports",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "time-wait-buildup",
    help: "very many sockets wait in TIME_WAIT",
    thresholds: &[&COUNT, &CRITICAL],
    needs: &[],
    parts: &[],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["connection-churn"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let Some(node) = watched.node() else { return Vec::new() };
    node.sockets.iter().filter_map(|sockets| of_namespace(watched, limits, sockets)).collect()
}

/// Whether this end asked for the connections of a group.
const fn is_ours(group: &SocketGroup) -> bool {
    group.peer.port.is_some() && group.local.port.is_none()
}

/// The processes that had connections like these, by what was seen of them in the window.
fn who(watched: &Watched, netns: u32, group: &SocketGroup) -> Option<Owner> {
    let role = if is_ours(group) { Role::Client } else { Role::Server };
    let alike = watched.flows.values().filter(|flow| {
        let ports = if is_ours(group) {
            flow.peer.port == group.peer.port
        } else {
            flow.local.port == group.local.port
        };
        flow.netns == Some(netns)
            && flow.role == Some(role)
            && flow.peer.ip == group.peer.ip
            && ports
            && flow.owner.comm.is_some()
    });
    alike.map(|flow| flow.owner.clone()).next()
}

fn of_namespace(watched: &Watched, limits: &Limits, sockets: &Sockets) -> Option<Finding> {
    let (netns, count) = (sockets.netns, sockets.states.time_wait);
    let most = sockets.time_wait.first();
    let towards_one = most.filter(|group| is_ours(group)).map_or(0, |group| group.count);
    graded(count as f64, limits, &[(Severity::Warning, &COUNT)])?;
    let critical = graded(towards_one as f64, limits, &[(Severity::Critical, &CRITICAL)]);
    let severity = critical.map_or(Severity::Warning, |(severity, _)| severity);
    let title = match most {
        Some(group) if is_ours(group) => {
            format!("{count} connections wait in TIME_WAIT, most of them to {}", at(&group.peer))
        }
        Some(group) => format!(
            "{count} connections wait in TIME_WAIT, most of them closed by the server at {}",
            at(&group.local)
        ),
        None => format!("{count} connections wait in TIME_WAIT"),
    };
    let finding = Finding::new(watched, severity, Scope::namespace(netns), title)
        .because(
            "Who closes first keeps a connection's ports for 60 s more. So many mean that connections are closed \
             after about each request: each pays for a handshake, and a client's ports towards a server run out.",
        )
        .beyond(watched, "sockets in TIME_WAIT", count as f64, &COUNT, limits);
    let finding = match critical {
        Some(_) => {
            finding.beyond(watched, "most towards one", towards_one as f64, &CRITICAL, limits)
        }
        None => finding,
    };
    let finding = sockets.time_wait.iter().take(3).fold(finding, |finding, group| {
        let metric = if is_ours(group) {
            format!("to {}", at(&group.peer))
        } else {
            format!("of {} with {}", at(&group.local), at(&group.peer))
        };
        finding.with(watched, &metric, group.count as f64, Unit::Count)
    });
    let finding = match watched.tcp(netns, "TCPTimeWaitOverflow") {
        Some(n) => {
            let metric = "closed without it, since there was no room";
            finding.with(watched, metric, n as f64, Unit::Count)
        }
        None => finding.not_seeing("sockets closed without it for want of room"),
    };
    Some(advised(finding, watched, netns, most))
}

fn advised(finding: Finding, watched: &Watched, netns: u32, most: Option<&SocketGroup>) -> Finding {
    let owner = most.and_then(|group| who(watched, netns, group));
    let finding = match (&owner, most) {
        (Some(Owner { comm: Some(comm), .. }), Some(group)) if is_ours(group) => finding.advise(format!(
            "pool connections: {comm} should keep some to {} open and reuse them (keep-alive)",
            at(&group.peer)
        )),
        (Some(Owner { comm: Some(comm), .. }), Some(group)) => finding.advise(format!(
            "let {comm} at {} keep connections open between requests (keep-alive), and let clients close first",
            at(&group.local)
        )),
        _ => finding
            .advise("pool connections: keep some open and reuse them (keep-alive)")
            .not_seeing("whose they were: no process holds a socket in TIME_WAIT"),
    };
    let finding = match most {
        Some(group) if is_ours(group) => finding.advise(
            "net.ipv4.tcp_tw_reuse=1 lets new connections have their ports (with timestamps)",
        ),
        _ => finding.ruling_out("ports of this node: a server's sockets in TIME_WAIT take none"),
    };
    finding
        .advise("never make TIME_WAIT shorter by net.ipv4.tcp_max_tw_buckets: old segments get into new connections")
        .confirm_by(inside(
            watched,
            netns,
            &owner.unwrap_or_default(),
            "ss -tan state time-wait",
        ))
        .confirm_by(format!("netdiag events --kind close --netns {netns}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Endpoint, node::States},
        watched::kit::{self, NETNS, end},
    };

    fn any_port(ip: &str) -> Endpoint {
        Endpoint { port: None, ..end(ip, 1) }
    }

    /// So many, of which so many are of one group.
    fn of(time_wait: u64, local: &Endpoint, peer: &Endpoint, count: u64) -> Watched {
        kit::with_node(&[kit::flow("f1")], |node| {
            let states = States { time_wait, ..States::default() };
            let group = SocketGroup { local: local.clone(), peer: peer.clone(), count };
            let time_wait = vec![group];
            node.sockets.push(Sockets { netns: NETNS, states, time_wait, ..Sockets::default() });
        })
    }

    fn asking(time_wait: u64) -> Watched {
        of(time_wait, &any_port("10.0.0.1"), &end("10.0.0.2", 443), time_wait - 10)
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &asking(9_999), None);
        check(&DEFINITION, &asking(10_000), Some(Severity::Warning));
        check(&DEFINITION, &asking(20_009), Some(Severity::Warning));
        check(&DEFINITION, &asking(20_010), Some(Severity::Critical));
    }

    #[test]
    fn a_server_has_ports_enough() {
        let watched = of(30_000, &end("10.0.0.1", 443), &any_port("10.0.0.2"), 29_000);
        check(&DEFINITION, &watched, Some(Severity::Warning));
    }

    #[test]
    fn several_namespaces_are_no_sum() {
        let watched = kit::with_node(&[], |node| {
            for netns in [NETNS, NETNS + 1] {
                let states = States { time_wait: 6_000, ..States::default() };
                node.sockets.push(Sockets { netns, states, ..Sockets::default() });
            }
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &asking(23_000)));
    }
}
