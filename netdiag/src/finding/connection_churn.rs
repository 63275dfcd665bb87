//! A process opens a new connection for about each request.

use std::{collections::BTreeMap, net::IpAddr};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::{host, ss_by},
};
use crate::{
    snapshot::Owner,
    watched::{Group, Seen, Watched},
};

const RATE: Threshold = Threshold {
    name: "rate",
    value: 100.0,
    unit: Unit::PerSecond,
    help: "connections a second of one program to one destination",
    source: "with 60 s of TIME_WAIT that holds 6,000 of some 28,000 ports; pools open a few a second",
};
const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 50.0,
    unit: Unit::PerSecond,
    help: "the same, for an info",
    source: "half of that",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 450.0,
    unit: Unit::PerSecond,
    help: "the same, from which on ports run out",
    source: "500 a second with 60 s of TIME_WAIT exhaust the default range in about 56 s",
};
const SHORT: Threshold = Threshold {
    name: "short",
    value: 1e9,
    unit: Unit::Ns,
    help: "how long a connection lives that is short-lived",
    source: "one request takes less",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the connections that are short-lived",
    source: "the larger part",
};
const LEAST: Threshold = Threshold {
    name: "least",
    value: 50.0,
    unit: Unit::Count,
    help: "connections in a window, fewer say nothing; fewer told apart or tracked, an info at most",
    source: "a pool that is filled opens that many at once",
};

/// Ports of the default `ip_local_port_range`.
const PORTS: f64 = 28_232.0;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "connection-churn",
    help: "a process opens a connection for about each request instead of keeping some",
    thresholds: &[&RATE, &NOTICED, &CRITICAL, &SHORT, &SHARE, &LEAST],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[Part::Tcp],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

/// Namespace, program and destination.
type Asks = (Option<u32>, Option<String>, IpAddr, u16);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let asks = |flow: &Seen| flow.is_tcp() && flow.is_client();
    let groups = watched.by(|flow| {
        let to = asks(flow).then_some((flow.peer.ip?, flow.peer.port?))?;
        Some((flow.netns, flow.owner.comm.clone(), to.0, to.1))
    });
    let opened = opened(&groups);
    groups
        .iter()
        .filter_map(|(asks, group)| {
            let of_all = opened.get(&asks.0).copied().unwrap_or(0);
            of_program(watched, limits, asks, group, of_all)
        })
        .collect()
}

/// Connections that were opened, as far as they are told apart, by namespace.
fn opened(groups: &BTreeMap<Asks, Group<'_>>) -> BTreeMap<Option<u32>, u64> {
    let mut opened = BTreeMap::new();
    for ((netns, ..), group) in groups {
        *opened.entry(*netns).or_default() += group.sums.samples("connect");
    }
    opened
}

fn of_program(
    watched: &Watched,
    limits: &Limits,
    (netns, comm, ip, port): &Asks,
    group: &Group<'_>,
    of_all: u64,
) -> Option<Finding> {
    let seen = group.sums.samples("connect");
    let owner = group.owner();
    // Of those that are not told apart the same part is its own.
    let all = netns.and_then(|netns| watched.tcp(netns, "ActiveOpens")).unwrap_or(0);
    let failed = netns.and_then(|netns| watched.tcp(netns, "AttemptFails")).unwrap_or(0);
    let all = all.saturating_sub(failed);
    // Where filters leave some out, those are not its own.
    let is_part = all > of_all && of_all > 0 && !watched.filtered;
    let scale = if is_part { all as f64 / of_all as f64 } else { 1.0 };
    let tracked = tracked(watched, *netns, comm.as_deref(), *ip, *port);
    let estimate = seen as f64 * scale;
    let count = estimate.max(tracked as f64);
    let rate = count / watched.seconds.max(1e-9);
    let share = short(limits, group)?;
    if rate < limits.of(&NOTICED) || count < limits.of(&LEAST) || share < limits.of(&SHARE) {
        return None;
    }
    // What is put down to it by its part of the others is as sure as that part is. Of each entry of connection tracking
    // it is known who made it, and where to.
    let is_few = (seen as f64) < limits.of(&LEAST);
    let is_estimate = estimate > tracked as f64;
    let is_guess = is_few && is_estimate;
    let sure = if is_guess { tracked as f64 } else { count };
    let (severity, threshold) = match sure / watched.seconds.max(1e-9) {
        _ if sure < limits.of(&LEAST) => (Severity::Info, &NOTICED),
        rate if rate >= limits.of(&CRITICAL) => (Severity::Critical, &CRITICAL),
        rate if rate >= limits.of(&RATE) => (Severity::Warning, &RATE),
        _ => (Severity::Info, &NOTICED),
    };
    let scope = Scope::backend(*netns, *ip, *port).by(&owner);
    let name = comm.clone().unwrap_or_else(|| "a process".to_owned());
    let opens = if is_guess { "may open about" } else { "opens" };
    let title = format!("{name} {opens} {rate:.0} connections a second to {}", scope.name);
    let finding = Finding::new(watched, severity, scope, title)
        .about(comm.as_deref().unwrap_or_default())
        .because(format!(
            "Each takes a handshake, a local port and, where this end closes first, 60 s of TIME_WAIT: the \
             default range of ports is used up after {:.0} s. Connection tracking holds each for 120 s.",
            (PORTS / rate).max(1.0)
        ))
        .beyond(watched, "connections", rate, threshold, limits)
        .beyond(watched, "short-lived ones", share, &SHARE, limits)
        .with(watched, "connections told apart", seen as f64, Unit::Count);
    let finding = evidence(finding, watched, group, seen);
    let finding = match tracked {
        0 => finding,
        _ => finding.with(
            watched,
            "entries of connection tracking made",
            tracked as f64,
            Unit::Count,
        ),
    };
    let finding = if is_estimate && scale > 1.05 {
        finding.confidence(0.8).not_seeing(format!(
            "{all} connections were begun in the namespace and {of_all} told apart: its part of the others is \
             taken to be the same"
        ))
    } else {
        finding
    };
    let finding = if is_few {
        let what = if is_guess { "that many and short-lived" } else { "short-lived" };
        finding.no_surer_than(if is_guess { 0.5 } else { 0.8 }).not_seeing(format!(
            "whether its connections are {what}: {seen} are told apart, which are few to conclude from; narrow it by \
             filters"
        ))
    } else {
        finding
    };
    Some(told(finding, &owner, &name, *ip, *port))
}

fn evidence(finding: Finding, watched: &Watched, group: &Group<'_>, seen: u64) -> Finding {
    let finding = match group.sums.quantile("connect", 0.5, 1) {
        Some(connect) => finding.with(watched, "connect p50", connect as f64, Unit::Ns),
        None => finding,
    };
    let answers = group.sums.samples("response");
    if answers == 0 || seen == 0 || watched.left_out(Signal::Turn.name()) > 0 {
        return finding;
    }
    let each = answers as f64 / seen as f64;
    finding.with(watched, "answers per connection", each, Unit::Count)
}

fn told(finding: Finding, owner: &Owner, name: &str, ip: IpAddr, port: u16) -> Finding {
    finding
        .advise(format!("let {name} keep connections: a pool, HTTP keep-alive, or one client object for all requests"))
        .advise("if it has a pool: its idle limit may be below the number of requests under way at once")
        .advise("if the server closes: look for Connection: close, or its limits of requests or idle time")
        .advise("only then think of net.ipv4.ip_local_port_range, tcp_tw_reuse or nf_conntrack_max")
        .confirm_by(ss_by(owner.pid, &format!("state time-wait dst {} dport = :{port} | wc -l", host(ip))))
        .confirm_by(format!("netdiag events --kind connect --peer {ip} --peer-port {port}"))
}

/// Part of its connections that are over and lived shortly; none where none is over.
fn short(limits: &Limits, group: &Group<'_>) -> Option<f64> {
    let lifetimes: Vec<_> =
        group.flows.iter().filter_map(|flow| flow.sums.count("lifetime_ns")).collect();
    let short = lifetimes.iter().filter(|&&ns| (ns as f64) < limits.of(&SHORT)).count();
    (!lifetimes.is_empty()).then(|| short as f64 / lifetimes.len() as f64)
}

/// Entries of connection tracking that a program made to a destination.
fn tracked(
    watched: &Watched,
    netns: Option<u32>,
    comm: Option<&str>,
    ip: IpAddr,
    port: u16,
) -> u64 {
    let made = watched.creators.iter().filter(|one| {
        let by = one.creator.as_ref().and_then(|owner| owner.comm.as_deref());
        one.netns == netns
            && one.protocol.as_deref() == Some("tcp")
            && (one.destination.ip, one.destination.port) == (Some(ip), Some(port))
            && comm.is_some()
            && by == comm
    });
    made.filter_map(|one| one.new.or(one.confirmed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Conntrack, Flow, Snapshot, TopCreator},
        watched::kit,
    };

    /// So many connections in each of two seconds, each of which lives for so long.
    fn flows(second: u64, each: u64, lived_ms: u64) -> Vec<Flow> {
        let flow = |n| Flow {
            closed: true,
            ..kit::flow(&format!("f{second}.{n}"))
                .of(9, "php")
                .latency("connect", 1, 300_000)
                .latency("response", 1, 2_000_000)
                .count("lifetime_ns", lived_ms * 1_000_000)
        };
        (0..each).map(flow).collect()
    }

    fn of(each: u64, lived_ms: u64) -> Watched {
        let mut watched = Watched::default();
        for second in 0..2 {
            watched.take(&kit::snapshot(second, flows(second, each, lived_ms)));
        }
        watched
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(100, 10), Some(Severity::Warning));
        check(&DEFINITION, &of(99, 10), Some(Severity::Info));
        check(&DEFINITION, &of(50, 10), Some(Severity::Info));
        check(&DEFINITION, &of(49, 10), None);
        check(&DEFINITION, &of(450, 10), Some(Severity::Critical));
        check(&DEFINITION, &of(449, 10), Some(Severity::Warning));
        check(&DEFINITION, &of(200, 1_000), None);
        check(&DEFINITION, &of(200, 999), Some(Severity::Warning));
    }

    #[test]
    fn half_of_them_are_short_lived_and_fifty_are_many() {
        let mixed = |long: u64| {
            let mut watched = Watched::default();
            let mut all = flows(0, 200 - long, 10);
            all.extend(flows(1, long, 9_000));
            watched.take(&kit::snapshot(0, all));
            watched
        };
        check(&DEFINITION, &mixed(100), Some(Severity::Warning));
        check(&DEFINITION, &mixed(101), None);
        let once = |n| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, flows(0, n, 10)));
            watched
        };
        check(&DEFINITION, &once(50), Some(Severity::Info));
        check(&DEFINITION, &once(49), None);
    }

    /// A second in which so many are told apart, that many were begun in the namespace, and connection tracking tells
    /// of so many.
    fn second(at: u64, told: u64, opens: u64, tracked: u64) -> Snapshot {
        let mut snapshot = kit::snapshot(at, flows(at, told, 10));
        kit::tcp(&mut snapshot.node, "ActiveOpens", opens);
        let creator = TopCreator {
            netns: Some(kit::NETNS),
            protocol: Some("tcp".to_owned()),
            destination: kit::end("10.0.0.2", 443),
            creator: Some(Owner { comm: Some("php".to_owned()), ..Owner::default() }),
            new: Some(tracked),
            confirmed: None,
            table_full: None,
        };
        let conntrack = Conntrack { creators: vec![creator], ..Conntrack::default() };
        snapshot.conntrack = Some(conntrack);
        snapshot
    }

    #[test]
    fn what_is_not_told_apart_counts_by_its_part() {
        let window = |opens: u64, tracked: u64| {
            let mut watched = Watched::default();
            for at in 0..2 {
                watched.take(&second(at, 30, opens, tracked));
            }
            watched
        };
        check(&DEFINITION, &window(30, 0), None);
        check(&DEFINITION, &window(120, 0), Some(Severity::Warning));
        check(&DEFINITION, &window(30, 120), Some(Severity::Warning));
    }

    /// By what the namespace opened there are enough.
    #[test]
    fn a_handful_that_is_told_apart_is_an_info() {
        let window = |told: u64, tracked: u64| {
            let mut watched = Watched::default();
            watched.take(&second(0, told, 600, tracked));
            watched
        };
        check(&DEFINITION, &window(49, 0), Some(Severity::Info));
        check(&DEFINITION, &window(50, 0), Some(Severity::Critical));
        // By as many entries as it made it is known.
        check(&DEFINITION, &window(3, 99), Some(Severity::Info));
        check(&DEFINITION, &window(3, 100), Some(Severity::Warning));
        check(&DEFINITION, &window(3, 599), Some(Severity::Critical));
        check(&DEFINITION, &window(3, 600), Some(Severity::Critical));
        for (tracked, opens, confidence) in [
            (0, "may open about 600", 0.5),
            (100, "may open about 600", 0.5),
            (600, "opens 600", 0.8),
        ] {
            let found = rule(&window(3, tracked), &Limits::default()).remove(0);
            assert!(found.title.contains(opens), "{}", found.title);
            assert!((found.confidence - confidence).abs() < 1e-9, "{}", found.confidence);
            assert!(found.not_observable.iter().any(|line| line.contains("3 are told apart")));
        }
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(300, 10)));
    }
}
