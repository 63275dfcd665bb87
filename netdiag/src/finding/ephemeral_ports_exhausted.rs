//! Local ports towards one destination run out.

use std::net::{IpAddr, SocketAddr};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::many,
    node::{graded, inside, is_given_again, name},
};
use crate::{
    format,
    snapshot::node::{OLD_NS, PortUse, Ports},
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

/// Connects that found no port.
const NO_PORT: &str = "connects_failed.EADDRNOTAVAIL";

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "ephemeral-ports-exhausted",
    help: "local ports towards a destination run out, connects fail",
    thresholds: &[&PRESSURE, &EXHAUSTED, &FAILED],
    needs: &[],
    // Connects that find no port.
    parts: &[Signal::Socket],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["connection-churn", "time-wait-buildup"],
    rule,
};

/// Ports towards a destination, at one time.
#[derive(Clone, Copy)]
struct Use<'a> {
    ports: &'a Ports,
    to: &'a PortUse,
}

impl Use<'_> {
    /// So many of those that may be given.
    fn part(&self, ports: u64) -> f64 {
        ports as f64 / self.ports.available.unwrap_or(0).max(1) as f64
    }

    /// Those that are not in TIME_WAIT.
    const fn held(&self) -> u64 {
        self.to.taken.saturating_sub(self.to.time_wait)
    }
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let worst = |times: &[Use<'_>; 2]| {
        let found = times.iter().filter_map(|one| of_destination(watched, limits, one));
        found.min_by(Finding::rank)
    };
    worst_times(watched).iter().filter_map(worst).collect()
}

/// When most ports of every destination were taken, and when most were held: which of the two is worse depends on
/// whether those in TIME_WAIT are gone. A destination has ports for each local address.
fn worst_times(watched: &Watched) -> Vec<[Use<'_>; 2]> {
    let mut worst: Vec<[Use<'_>; 2]> = Vec::new();
    for ports in watched.intervals.iter().flat_map(|interval| &interval.node.ports) {
        if ports.available.unwrap_or(0) == 0 {
            continue;
        }
        for to in &ports.destinations {
            let one = Use { ports, to };
            let same = |times: &&mut [Use<'_>; 2]| {
                let known = times[0];
                (known.ports.netns, known.to.local_ip, &known.to.peer)
                    == (ports.netns, to.local_ip, &to.peer)
            };
            let Some([taken, held]) = worst.iter_mut().find(same) else {
                worst.push([one; 2]);
                continue;
            };
            if taken.part(taken.to.taken) <= one.part(to.taken) {
                *taken = one;
            }
            if held.part(held.held()) <= one.part(one.held()) {
                *held = one;
            }
        }
    }
    worst
}

/// Connects to it that found no port; none where they may be among those of which only the sum is known, or nothing
/// tells of connects at all.
fn failed(watched: &Watched, netns: u32, to: &PortUse) -> Option<u64> {
    let of_it = watched.flows.values().filter(|flow| {
        (flow.netns, &flow.peer) == (Some(netns), &to.peer)
            && flow.local.ip.is_none_or(|ip| ip == to.local_ip)
    });
    let told: u64 = of_it.map(|flow| flow.sums.at_least(NO_PORT)).sum();
    let is_told = watched.other.count("connects_failed").is_some();
    let is_lost = watched.lost.get(Signal::Socket.name()).is_some_and(|lost| *lost > 0);
    (told > 0 || is_told && !is_lost && watched.other.at_least(NO_PORT) == 0).then_some(told)
}

fn of_destination(watched: &Watched, limits: &Limits, worst: &Use<'_>) -> Option<Finding> {
    let Use { ports, to } = *worst;
    let (ip, port) = (to.peer.ip?, to.peer.port?);
    let failed = failed(watched, ports.netns, to);
    let is_given_again = is_given_again(watched, ports.netns, ip);
    let held = worst.held();
    // As long as connects get one, ports that are given out again are none that are gone. Where nobody knows whether
    // they do it is open, unless too many are held besides.
    let (gone, is_open) = match (is_given_again, failed) {
        (true, Some(0)) => (held, false),
        (true, None) if worst.part(held) >= limits.of(&PRESSURE) => (held, false),
        (true, None) => (to.taken, true),
        _ => (to.taken, false),
    };
    let fill = worst.part(gone);
    if fill < limits.of(&PRESSURE) {
        return None;
    }
    let exhausted = graded(fill, limits, &[(Severity::Critical, &EXHAUSTED)]);
    let refused = graded(failed.unwrap_or(0) as f64, limits, &[(Severity::Critical, &FAILED)]);
    // Whether those in TIME_WAIT are gone show connects alone, and of one that failed it may not be known where to.
    let is_shown = watched.other.at_least(NO_PORT) > 0;
    let severity = match exhausted.filter(|_| !is_open).or(refused) {
        Some((severity, _)) => severity,
        // Nothing shows that any failed.
        None if is_open && !is_shown => Severity::Info,
        None => Severity::Warning,
    };
    let scope = Scope::backend(Some(ports.netns), ip, port).by(&to.owner);
    let available = ports.available.unwrap_or(0);
    let title = match failed.unwrap_or(0) {
        0 if gone >= available && !is_open => format!(
            "no local port is left for connections to {}: {gone} of {available} are taken",
            scope.name
        ),
        0 => format!(
            "local ports for connections to {} run out: {gone} of {available} are taken",
            scope.name
        ),
        n => format!(
            "{} to {} found no local port: {gone} of {available} are taken",
            many(n as usize, "connect"),
            scope.name
        ),
    };
    let finding = Finding::new(watched, severity, scope, title)
        .about(to.local_ip.to_string())
        .confidence(if is_open { 0.6 } else { 0.95 })
        .because(
            "A connection to one address and port needs a local port that no other one to it has; one that \
             this end closed first keeps its port for 60 s more (TIME_WAIT). Without one connect fails with \
             EADDRNOTAVAIL, and before that it searches for long.",
        );
    let by = if exhausted.is_some() { &EXHAUSTED } else { &PRESSURE };
    let full = |finding: Finding| {
        finding.beyond(watched, "part of the local ports taken, at most", fill, by, limits)
    };
    let without = |finding: Finding, n: u64| {
        finding.beyond(watched, "connects without a port", n as f64, &FAILED, limits)
    };
    let finding = match failed {
        Some(0) => without(full(finding), 0),
        Some(n) => full(without(finding, n)),
        None => full(finding).not_seeing(match watched.sees(Signal::Socket.name()) {
            true => "how many connects found no port: not all of them are told apart by where to",
            false => "how many connects found no port: the signal `socket` is off",
        }),
    };
    let finding = finding
        .with(watched, "ports taken", to.taken as f64, Unit::Count)
        .with(watched, "of these in TIME_WAIT", to.time_wait as f64, Unit::Count)
        .with(watched, "ports that may be given", available as f64, Unit::Count);
    let finding = if is_open {
        finding.not_seeing(
            "whether ports in TIME_WAIT are gone: net.ipv4.tcp_tw_reuse gives them out again to peers with \
             timestamps alone",
        )
    } else {
        finding
    };
    Some(advised(finding, watched, worst, (ip, port), failed))
}

fn advised(
    finding: Finding,
    watched: &Watched,
    worst: &Use<'_>,
    (ip, port): (IpAddr, u16),
    failed: Option<u64>,
) -> Finding {
    let (Use { ports, to }, held) = (*worst, worst.held());
    let (who, server) = (name(&to.owner), SocketAddr::new(ip, port));
    let finding = if to.time_wait > held {
        finding.advise(format!(
            "pool connections: keep some to {server} open and reuse them; most of the ports wait for the \
             last segments of ones that were closed"
        ))
    } else {
        finding.advise(format!(
            "pool connections: {who} holds most of {held} open ones to {server}; bound its pool, look for ones \
             that it forgot"
        ))
    };
    let finding = match (is_given_again(watched, ports.netns, ip), failed) {
        (true, Some(0)) => finding
            .ruling_out("ports kept back for nothing: by net.ipv4.tcp_tw_reuse they are given out again after 1 s"),
        (true, None) => finding,
        (true, Some(_)) => finding.advise(
            "look for net.ipv4.tcp_timestamps=0 here or at the peer: net.ipv4.tcp_tw_reuse is on, and gives out \
             no port of a connection without timestamps",
        ),
        (false, _) => finding.advise(
            "net.ipv4.tcp_tw_reuse=1 lets new connections have ports in TIME_WAIT (with timestamps, from \
             this end)",
        ),
    };
    let range = match (ports.first, ports.last) {
        (Some(first), Some(last)) => format!(", here {first} to {last}"),
        _ => String::new(),
    };
    let finding = if ports.known_ns() > OLD_NS {
        finding.not_seeing(format!(
            "how it is now: what is known of the sockets is {} old",
            format::duration(ports.known_ns())
        ))
    } else {
        finding
    };
    finding
        .advise(format!(
            "widen net.ipv4.ip_local_port_range{range}; 1024 to 65535 is the most, with what services listen on in \
             net.ipv4.ip_local_reserved_ports"
        ))
        .advise("more addresses at either end: each pair has ports of its own")
        .confirm_by(inside(watched, ports.netns, &to.owner, &format!("ss -tanp dst {server}")))
        .confirm_by(inside(
            watched,
            ports.netns,
            &to.owner,
            "sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse",
        ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{CountValue, Endpoint, Flow, node::Settings},
        watched::kit::{self, NETNS, end},
    };

    /// So many of a thousand ports taken towards a peer, three quarters of them in TIME_WAIT, with that
    /// `net.ipv4.tcp_tw_reuse`. Once these flows are told of, and so many connects without a port of which nobody
    /// knows where to.
    fn with(taken: u64, (reuse, peer): (u64, &str), flows: &[Flow], other: Option<u64>) -> Watched {
        let mut watched = Watched::default();
        for second in 0..10 {
            let flows = if second == 0 { flows.to_vec() } else { vec![] };
            let mut snapshot = kit::snapshot(second, flows);
            if let Some(n) = other {
                let n = if second == 0 { n } else { 0 };
                let failed = BTreeMap::from([("EADDRNOTAVAIL".to_owned(), Some(n))]);
                let told = CountValue::Group(failed);
                snapshot.other.counts.insert("connects_failed".to_owned(), told);
            }
            snapshot.node.settings.push(Settings {
                netns: NETNS,
                tcp_tw_reuse: Some(reuse),
                ..Settings::default()
            });
            snapshot.node.ports.push(Ports {
                netns: NETNS,
                age_ns: 1_000_000,
                unchanged_ns: None,
                first: Some(40_000),
                last: Some(40_999),
                available: Some(1_000),
                taken,
                destinations: vec![PortUse {
                    local_ip: "10.0.0.1".parse().expect("an address"),
                    peer: end(peer, 3306),
                    taken,
                    time_wait: taken * 3 / 4,
                    owner: kit::owner("worker"),
                }],
            });
            watched.take(&snapshot);
        }
        watched
    }

    fn of(taken: u64, flows: &[Flow]) -> Watched {
        with(taken, (0, "10.0.0.2"), flows, Some(0))
    }

    /// So many connects that found no port: the row of all of them.
    fn refused(n: u64) -> Flow {
        Flow {
            local: Endpoint { port: None, ..end("10.0.0.1", 0) },
            owner: crate::snapshot::Owner::default(),
            ..kit::flow("f1").to("10.0.0.2", 3306).count("connects_failed.EADDRNOTAVAIL", n)
        }
    }

    fn told(watched: &Watched) -> Finding {
        rule(watched, &Limits::default()).remove(0)
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(799, &[]), None);
        check(&DEFINITION, &of(800, &[]), Some(Severity::Warning));
        check(&DEFINITION, &of(999, &[]), Some(Severity::Warning));
        check(&DEFINITION, &of(1_000, &[]), Some(Severity::Critical));
        check(&DEFINITION, &of(900, &[refused(2)]), Some(Severity::Warning));
        check(&DEFINITION, &of(900, &[refused(3)]), Some(Severity::Critical));
    }

    #[test]
    fn only_what_has_no_room_is_full() {
        let title = |taken, failed: &[Flow]| told(&of(taken, failed)).title;
        let to = "10.0.0.2:3306";
        assert_eq!(
            title(900, &[]),
            format!("local ports for connections to {to} run out: 900 of 1000 are taken")
        );
        assert_eq!(
            title(1_000, &[]),
            format!("no local port is left for connections to {to}: 1000 of 1000 are taken")
        );
        assert_eq!(
            title(900, &[refused(1)]),
            format!("1 connect to {to} found no local port: 900 of 1000 are taken")
        );
    }

    /// Three quarters of the ports wait.
    #[test]
    fn ports_that_are_given_out_again_are_not_gone() {
        let at = |reuse, peer, flows: &[Flow]| with(1_000, (reuse, peer), flows, Some(0));
        check(&DEFINITION, &at(0, "10.0.0.2", &[]), Some(Severity::Critical));
        check(&DEFINITION, &at(1, "10.0.0.2", &[]), None);
        check(&DEFINITION, &at(2, "10.0.0.2", &[]), Some(Severity::Critical));
        check(&DEFINITION, &at(2, "127.0.0.1", &[]), None);
        // A peer without timestamps.
        check(&DEFINITION, &at(1, "10.0.0.2", &[refused(1)]), Some(Severity::Critical));
        // Connects from another address, or to another peer.
        let elsewhere = Flow { local: Endpoint { port: None, ..end("10.0.0.9", 0) }, ..refused(9) };
        check(&DEFINITION, &at(1, "10.0.0.2", &[elsewhere]), None);
        check(&DEFINITION, &at(1, "10.0.0.2", &[refused(9).to("10.0.0.3", 3306)]), None);
    }

    /// Whether connects find a port is what tells whether those that wait are gone.
    #[test]
    fn connects_that_nobody_saw_are_not_0() {
        let at = |reuse, other| with(1_000, (reuse, "10.0.0.2"), &[], other);
        for (other, expected) in [(None, Severity::Info), (Some(1), Severity::Warning)] {
            check(&DEFINITION, &at(1, other), Some(expected));
            check(&DEFINITION, &at(0, other), Some(Severity::Critical));
            let told = told(&at(1, other));
            assert!(told.title.starts_with("local ports for"), "{}", told.title);
            assert!(told.evidence.iter().all(|one| one.metric != "connects without a port"));
            assert!(told.not_observable[0].starts_with("how many connects found no port"));
        }
        let mut lossy = at(1, Some(0));
        check(&DEFINITION, &lossy, None);
        lossy.lost.insert("socket".to_owned(), 1);
        check(&DEFINITION, &lossy, Some(Severity::Info));
    }

    /// However little is known of connects.
    #[test]
    fn ports_that_are_held_are_gone() {
        let with = |time_wait: u64, other| {
            let mut watched = with(1_000, (1, "10.0.0.2"), &[], other);
            let nodes = watched.intervals.iter_mut().map(|interval| &mut interval.node);
            for ports in nodes.flat_map(|node| &mut node.ports) {
                ports.destinations[0].time_wait = time_wait;
            }
            watched
        };
        for other in [None, Some(0)] {
            check(&DEFINITION, &with(0, other), Some(Severity::Critical));
            check(&DEFINITION, &with(1, other), Some(Severity::Warning));
            check(&DEFINITION, &with(200, other), Some(Severity::Warning));
        }
        check(&DEFINITION, &with(201, Some(0)), None);
        check(&DEFINITION, &with(201, None), Some(Severity::Info));
        let told = told(&with(200, None));
        assert!(told.title.ends_with("run out: 800 of 1000 are taken"), "{}", told.title);
        assert!(told.not_observable[0].starts_with("how many connects found no port"));
    }

    /// At one time most were taken, nearly all in TIME_WAIT, and at another one fewer, nearly all of them held.
    #[test]
    fn the_time_at_which_most_were_held_counts_as_well() {
        let at = |reuse, held: u64, other| {
            let mut watched = with(1_000, (reuse, "10.0.0.2"), &[], other);
            let ports = &mut watched.intervals[4].node.ports[0];
            (ports.destinations[0].taken, ports.destinations[0].time_wait) = (held + 1, 1);
            watched
        };
        check(&DEFINITION, &at(1, 799, Some(0)), None);
        check(&DEFINITION, &at(1, 800, Some(0)), Some(Severity::Warning));
        check(&DEFINITION, &at(1, 799, None), Some(Severity::Info));
        check(&DEFINITION, &at(1, 800, None), Some(Severity::Warning));
        assert!(told(&at(1, 800, Some(0))).title.ends_with("run out: 800 of 1000 are taken"));
        // Where those that wait are gone, most taken is worst.
        check(&DEFINITION, &at(0, 800, Some(0)), Some(Severity::Critical));
        assert!(told(&at(0, 800, Some(0))).title.ends_with(": 1000 of 1000 are taken"));
    }

    /// EADDRNOTAVAIL has other reasons: an address that is not of this node, a family that is switched off.
    #[test]
    fn other_reasons() {
        check(&DEFINITION, &of(100, &[refused(20)]), None);
        check(&DEFINITION, &kit::watched(&[refused(20)]), None);
    }

    #[test]
    fn wording() {
        let watched = of(1_000, &[refused(20)]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
