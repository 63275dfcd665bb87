//! Local ports towards one destination run out.

use std::net::IpAddr;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    node::{graded, inside, name},
};
use crate::{
    format,
    snapshot::node::{PortUse, Ports},
    watched::Watched,
};

const PRESSURE: Threshold = Threshold {
    name: "pressure",
    value: 0.8,
    unit: Unit::Ratio,
    help: "part of the local ports that is taken towards one address and port",
    source: "field practice: above 80 % of ip_local_port_range",
};
const EXHAUSTED: Threshold = Threshold {
    name: "exhausted",
    value: 1.0,
    unit: Unit::Ratio,
    help: "the same, from which on none is left",
    source: "all of them",
};
const FAILED: Threshold = Threshold {
    name: "failed",
    value: 3.0,
    unit: Unit::Count,
    help: "connects that failed with EADDRNOTAVAIL, where ports are scarce",
    source: "one or two may have other reasons, an address that is not of this node among them",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "ephemeral-ports-exhausted",
    help: "local ports towards a destination run out, connects fail",
    thresholds: &[&PRESSURE, &EXHAUSTED, &FAILED],
    needs: &[],
    parts: &[],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["connection-churn", "time-wait-buildup"],
    rule,
};

/// Ports towards a destination, when most were taken.
struct Worst<'a> {
    ports: &'a Ports,
    to: &'a PortUse,
    fill: f64,
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let worst = worst(watched);
    worst.iter().filter_map(|one| of_destination(watched, limits, one)).collect()
}

/// Every destination at its worst; a destination has one for each local address.
fn worst(watched: &Watched) -> Vec<Worst<'_>> {
    let mut worst: Vec<Worst<'_>> = Vec::new();
    for ports in watched.intervals.iter().flat_map(|interval| &interval.node.ports) {
        let Some(available) = ports.available.filter(|available| *available > 0) else { continue };
        for to in &ports.destinations {
            let one = Worst { ports, to, fill: to.taken as f64 / available as f64 };
            let same = |known: &&mut Worst<'_>| {
                (known.ports.netns, known.to.local_ip, &known.to.peer)
                    == (ports.netns, to.local_ip, &to.peer)
            };
            match worst.iter_mut().find(same) {
                Some(known) if known.fill <= one.fill => *known = one,
                Some(_) => {}
                None => worst.push(one),
            }
        }
    }
    worst
}

/// Connects to it that found no port; none where nothing tells of its connects.
fn failed(watched: &Watched, netns: u32, ip: IpAddr, port: u16) -> Option<u64> {
    let flows = watched.flows.values().filter(|flow| {
        (flow.netns, flow.peer.ip, flow.peer.port) == (Some(netns), Some(ip), Some(port))
    });
    let told = flows.filter(|flow| flow.sums.count("connects_failed").is_some());
    let each = told.map(|flow| flow.sums.at_least("connects_failed.EADDRNOTAVAIL"));
    each.reduce(|one, other| one + other)
}

fn of_destination(watched: &Watched, limits: &Limits, worst: &Worst<'_>) -> Option<Finding> {
    let Worst { ports, to, fill } = *worst;
    let (ip, port) = (to.peer.ip?, to.peer.port?);
    let failed = failed(watched, ports.netns, ip, port);
    // As long as connects get one, ports that are given out again are none that are gone.
    let gone = match is_given_again(watched, ports.netns, ip) && failed.is_none_or(|n| n == 0) {
        true => to.taken.saturating_sub(to.time_wait),
        false => to.taken,
    };
    let fill = fill * gone as f64 / to.taken.max(1) as f64;
    if fill < limits.of(&PRESSURE) {
        return None;
    }
    let exhausted = graded(fill, limits, &[(Severity::Critical, &EXHAUSTED)]);
    let refused = graded(failed.unwrap_or(0) as f64, limits, &[(Severity::Critical, &FAILED)]);
    let severity = exhausted.or(refused).map_or(Severity::Warning, |(severity, _)| severity);
    let scope = Scope::backend(Some(ports.netns), ip, port).by(&to.owner);
    let available = ports.available.unwrap_or(0);
    let title = match severity {
        Severity::Critical => format!(
            "no local port is left for connections to {}: {gone} of {available} are taken",
            scope.name
        ),
        _ => format!(
            "local ports for connections to {} run out: {gone} of {available} are taken",
            scope.name
        ),
    };
    let finding = Finding::new(watched, severity, scope, title)
        .about(to.local_ip.to_string())
        .confidence(0.95)
        .because(
            "A connection to one address and port needs a local port that no other one to it has; one that \
             this end closed first keeps its port for 60 s more (TIME_WAIT). Without one connect fails with \
             EADDRNOTAVAIL, and before that it searches for long.",
        )
        .beyond(
            watched,
            "part of the local ports taken, at most",
            fill,
            if exhausted.is_some() { &EXHAUSTED } else { &PRESSURE },
            limits,
        );
    let finding = match failed {
        Some(n) => finding.beyond(watched, "connects without a port", n as f64, &FAILED, limits),
        None => finding.not_seeing("connects that found no port: none to it were observed"),
    };
    let finding = finding
        .with(watched, "ports taken", to.taken as f64, Unit::Count)
        .with(watched, "of these in TIME_WAIT", to.time_wait as f64, Unit::Count)
        .with(watched, "ports that may be given", available as f64, Unit::Count);
    Some(advised(finding, watched, worst, ip, port))
}

/// Whether ports in TIME_WAIT are given to new connections after a second: 1 for all, 2 on the loopback
/// (`net.ipv4.tcp_tw_reuse`, Documentation/networking/ip-sysctl.rst, Linux 6.12).
fn is_given_again(watched: &Watched, netns: u32, ip: IpAddr) -> bool {
    match watched.settings(netns).and_then(|settings| settings.tcp_tw_reuse) {
        Some(1) => true,
        Some(2) => ip.is_loopback(),
        _ => false,
    }
}

fn advised(
    finding: Finding,
    watched: &Watched,
    worst: &Worst<'_>,
    ip: IpAddr,
    port: u16,
) -> Finding {
    let Worst { ports, to, .. } = *worst;
    let held = to.taken - to.time_wait.min(to.taken);
    let who = name(&to.owner);
    let finding = if to.time_wait > held {
        finding.advise(format!(
            "pool connections: keep some to {ip}:{port} open and reuse them; most of the ports wait for the \
             last segments of ones that were closed"
        ))
    } else {
        finding.advise(format!(
            "pool connections: {who} holds most of {held} open ones to {ip}:{port}; bound its pool, look for ones \
             that it forgot"
        ))
    };
    let finding = match is_given_again(watched, ports.netns, ip) {
        true => finding
            .ruling_out("ports kept back for nothing: by net.ipv4.tcp_tw_reuse they are given out again after 1 s"),
        false => finding.advise(
            "net.ipv4.tcp_tw_reuse=1 lets new connections have ports in TIME_WAIT (with timestamps, from \
             this end)",
        ),
    };
    let range = match (ports.first, ports.last) {
        (Some(first), Some(last)) => format!(", here {first} to {last}"),
        _ => String::new(),
    };
    let finding = if ports.known_ns() > 2_000_000_000 {
        finding.not_seeing(format!(
            "how it is now: what is known of the sockets is {} old",
            format::duration(ports.known_ns())
        ))
    } else {
        finding
    };
    let dst = if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    finding
        .advise(format!(
            "widen net.ipv4.ip_local_port_range{range}; 1024 to 65535 is the most, with what services listen on in \
             net.ipv4.ip_local_reserved_ports"
        ))
        .advise("more addresses at either end: each pair has ports of its own")
        .confirm_by(inside(watched, ports.netns, &to.owner, &format!("ss -tanp dst {dst}")))
        .confirm_by(inside(
            watched,
            ports.netns,
            &to.owner,
            "sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Flow, node::Settings},
        watched::kit::{self, NETNS, end},
    };

    /// So many of a thousand ports taken, most of them in TIME_WAIT.
    fn of(taken: u64, flows: &[Flow]) -> Watched {
        kit::with_node(flows, |node| {
            node.ports.push(Ports {
                netns: NETNS,
                age_ns: 1_000_000,
                unchanged_ns: None,
                first: Some(40_000),
                last: Some(40_999),
                available: Some(1_000),
                taken,
                destinations: vec![PortUse {
                    local_ip: "10.0.0.1".parse().expect("an address"),
                    peer: end("10.0.0.2", 3306),
                    taken,
                    time_wait: taken * 3 / 4,
                    owner: kit::owner("worker"),
                }],
            });
        })
    }

    fn refused() -> Flow {
        kit::flow("f1").to("10.0.0.2", 3306).count("connects_failed.EADDRNOTAVAIL", 2)
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(799, &[]), None);
        check(&DEFINITION, &of(800, &[]), Some(Severity::Warning));
        check(&DEFINITION, &of(999, &[]), Some(Severity::Warning));
        check(&DEFINITION, &of(1_000, &[]), Some(Severity::Critical));
        check(&DEFINITION, &of(900, &[refused()]), Some(Severity::Critical));
    }

    /// Three quarters of the ports wait.
    #[test]
    fn ports_that_are_given_out_again_are_not_gone() {
        let with = |reuse: u64, peer: &str, flows: &[Flow]| {
            let mut watched = of(1_000, flows);
            for interval in &mut watched.intervals {
                let node = &mut interval.node;
                node.settings = vec![Settings {
                    netns: NETNS,
                    tcp_tw_reuse: Some(reuse),
                    ..Settings::default()
                }];
                for to in node.ports.iter_mut().flat_map(|ports| &mut ports.destinations) {
                    to.peer = end(peer, 3306);
                }
            }
            watched
        };
        check(&DEFINITION, &with(0, "10.0.0.2", &[]), Some(Severity::Critical));
        check(&DEFINITION, &with(1, "10.0.0.2", &[]), None);
        check(&DEFINITION, &with(2, "10.0.0.2", &[]), Some(Severity::Critical));
        check(&DEFINITION, &with(2, "127.0.0.1", &[]), None);
        check(&DEFINITION, &with(1, "10.0.0.2", &[refused()]), Some(Severity::Critical));
    }

    #[test]
    fn connects_that_nobody_saw_are_not_0() {
        let tells = |flows: &[Flow]| {
            let found = rule(&of(900, flows), &Limits::default()).remove(0);
            found.evidence.iter().any(|one| one.metric == "connects without a port")
        };
        assert!(tells(&[refused()]) && !tells(&[]));
    }

    /// EADDRNOTAVAIL has other reasons: an address that is not of this node, a family that is switched off.
    #[test]
    fn other_reasons() {
        check(&DEFINITION, &of(100, &[refused()]), None);
        check(&DEFINITION, &kit::watched(&[refused()]), None);
    }

    #[test]
    fn wording() {
        let watched = of(1_000, &[refused()]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
