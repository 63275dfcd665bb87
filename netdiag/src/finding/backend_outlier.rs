//! One of several servers of the same service answers much later than the others.

use std::{collections::BTreeMap, net::SocketAddr};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{host, ss_by},
};
use crate::{
    format,
    snapshot::Endpoint,
    watched::{Group, Seen, Watched},
};

const TIMES: Threshold = Threshold {
    name: "times",
    value: 3.0,
    unit: Unit::Times,
    help: "response of one server, compared with the median of the others",
    source: "servers of one service differ by less than that under the same load",
};
const MORE: Threshold = Threshold {
    name: "more",
    value: 20e6,
    unit: Unit::Ns,
    help: "by how much its response is longer than theirs",
    source: "less is noise of a busy node",
};
const OTHERS: Threshold = Threshold {
    name: "least_others",
    value: 2.0,
    unit: Unit::Count,
    help: "other servers of the same service, fewer say nothing",
    source: "of two that differ, neither is the odd one",
};
const LEAST: Threshold = Threshold {
    name: "least_responses",
    value: 20.0,
    unit: Unit::Count,
    help: "responses of each in a window, fewer say nothing",
    source: "the slowest tenth of fewer is one or two of them",
};
const PATH: Threshold = Threshold {
    name: "path",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the difference that a longer path explains, from which on it is no outlier",
    source: "a server that is farther away is as quick as the others",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "backend-outlier",
    help: "one of several servers of a service answers much later than the others",
    thresholds: &[&TIMES, &MORE, &OTHERS, &LEAST, &PATH],
    needs: &[Signal::Turn],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[
        "packet-loss",
        "bufferbloat",
        "high-rtt",
        "peer-not-reading",
        "cpu-starved",
        "periodic-latency",
    ],
    rule,
};

/// The servers of one service: what the same program asks at the same port.
type Service = (Option<u32>, Option<String>, u16);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut services: BTreeMap<Service, BTreeMap<SocketAddr, Vec<&Seen>>> = BTreeMap::new();
    for flow in watched.flows.values() {
        let tcp = flow.protocol.as_deref() == Some("tcp");
        let (Some(port), true) = (flow.peer.port, tcp && flow.is_client()) else { continue };
        let &Endpoint { ip: Some(ip), port: Some(at) } = flow.server() else { continue };
        let service = services.entry((flow.netns, flow.owner.comm.clone(), port)).or_default();
        service.entry(SocketAddr::new(ip, at)).or_default().push(flow);
    }
    services
        .into_iter()
        .flat_map(|(of, servers)| of_service(watched, limits, &of, servers))
        .collect()
}

/// One server with what it takes.
struct Server<'a> {
    at: SocketAddr,
    group: Group<'a>,
    p50: u64,
    p90: u64,
}

fn of_service(
    watched: &Watched,
    limits: &Limits,
    (netns, program, port): &Service,
    servers: BTreeMap<SocketAddr, Vec<&Seen>>,
) -> Vec<Finding> {
    let least = limits.of(&LEAST) as u64;
    let of = |(at, flows)| {
        let group = Group::of(flows);
        let latency = |quantile| group.sums.quantile("response", quantile, least);
        let (p50, p90) = (latency(0.5)?, latency(0.9)?);
        Some(Server { at, group, p50, p90 })
    };
    let servers: Vec<Server<'_>> = servers.into_iter().filter_map(of).collect();
    let found: Vec<_> = (0..servers.len())
        .filter_map(|at| {
            let (before, rest) = servers.split_at(at);
            let (one, after) = rest.split_first()?;
            let others: Vec<_> = before.iter().chain(after).collect();
            let found = outlier(watched, limits, (*netns, *port), one, &others)?;
            Some(found.about(program.as_deref().unwrap_or_default()))
        })
        .collect();
    // Where half of them differ there is nothing that they differ from.
    if found.len() * 2 < servers.len() { found } else { Vec::new() }
}

fn outlier(
    watched: &Watched,
    limits: &Limits,
    (netns, port): (Option<u32>, u16),
    one: &Server<'_>,
    others: &[&Server<'_>],
) -> Option<Finding> {
    if (others.len() as f64) < limits.of(&OTHERS) {
        return None;
    }
    let beyond = |value: fn(&Server<'_>) -> u64| {
        let usual = upper_median(others.iter().map(|other| value(other)))?;
        let (mine, usual) = (value(one) as f64, usual as f64);
        let is_out = mine >= limits.of(&TIMES) * usual && mine - usual >= limits.of(&MORE);
        is_out.then_some((mine, usual))
    };
    let p50 = beyond(|server| server.p50).map(|(mine, usual)| ("p50", mine, usual));
    let found =
        p50.or_else(|| beyond(|server| server.p90).map(|(mine, usual)| ("p90", mine, usual)));
    let (which, mine, usual) = found?;
    let path = one.group.rtt_min_ns();
    let paths = upper_median(others.iter().filter_map(|other| other.group.rtt_min_ns()));
    let farther = path.zip(paths).map(|(mine, theirs)| mine.saturating_sub(theirs) as f64);
    if farther.is_some_and(|farther| farther >= limits.of(&PATH) * (mine - usual)) {
        return None;
    }
    let owner = one.group.owner();
    // What sockets say, also of a service that is translated; the name is that of who answers.
    let asked = one.group.first().peer.ip?;
    let scope = Scope { name: one.at.to_string(), ..Scope::backend(netns, asked, port) }.by(&owner);
    let (at, times) = (one.at, mine / usual.max(1.0));
    let title = format!(
        "{at} takes {} to answer ({which}), the {} others of port {port} {}",
        format::duration(mine as u64),
        others.len(),
        format::duration(usual as u64)
    );
    let finding = Finding::new(watched, Severity::Warning, scope, title)
        .confidence(if which == "p50" { 0.95 } else { 0.8 })
        .done_by(one.group.peer_owner())
        .because(
            "The same program asks all of them at the same port, so what differs is that server or what is \
             asked of it. Whoever is sent there waits; averages over all servers hide it.",
        )
        .beyond(watched, &format!("response {which} over that of the others"), times, &TIMES, limits)
        .beyond(watched, "longer by", mine - usual, &MORE, limits)
        .with(watched, "its responses", one.group.sums.samples("response") as f64, Unit::Count)
        .with(watched, "other servers", others.len() as f64, Unit::Count)
        .not_seeing("whether it is asked for something else than the others are")
        .advise(format!("take {at} out of the balancer, or let it drain, and see whether that helps"))
        .advise("compare that node with its siblings: CPU quota, disk, cache, version, neighbours")
        .advise("let the balancer choose by requests under way or by latency instead of by turns")
        .confirm_by(format!("netdiag live --peer-port {port} --sort response.p50"))
        .confirm_by(ss_by(owner.pid, &format!("dst {} dport = :{port}", host(asked))));
    Some(match farther {
        Some(farther) => finding.ruling_out(format!(
            "its path: it is longer than those of the others by {} at its best",
            format::duration(farther as u64)
        )),
        None => finding.not_seeing("how long the paths are (rtt_min)"),
    })
}

/// Of two in the middle the larger: who takes longer than that one does so by either.
fn upper_median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// So many responses of so many microseconds an interval.
    fn server(host: u8, count: u64, us: u64) -> Flow {
        kit::flow(&format!("f{host}"))
            .to(&format!("10.0.0.{host}"), 443)
            .latency("response", count, us * 1_000)
            .path(500_000)
    }

    /// One beside others.
    fn beside(us: u64, others: &[u64]) -> Watched {
        let mut flows = vec![server(9, 2, us)];
        flows.extend((10..).zip(others).map(|(host, us)| server(host, 2, *us)));
        kit::watched(&flows)
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &beside(61_000, &[20_000, 20_000, 20_000]), Some(Severity::Warning));
        check(&DEFINITION, &beside(58_000, &[20_000, 20_000, 20_000]), None);
        check(&DEFINITION, &beside(25_500, &[5_000, 5_000, 5_000]), Some(Severity::Warning));
        check(&DEFINITION, &beside(24_500, &[5_000, 5_000, 5_000]), None);
        check(&DEFINITION, &beside(100_000, &[5_000, 6_000]), Some(Severity::Warning));
        check(&DEFINITION, &beside(100_000, &[5_000]), None);
    }

    #[test]
    fn few_responses_say_nothing() {
        let window = |count| {
            let mut flows: Vec<_> = (10..14).map(|host| server(host, 20, 5_000)).collect();
            flows.push(server(9, count, 100_000));
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, flows));
            watched
        };
        check(&DEFINITION, &window(20), Some(Severity::Warning));
        check(&DEFINITION, &window(19), None);
    }

    #[test]
    fn half_of_them_or_one_farther_away_or_of_another_program_is_none() {
        check(&DEFINITION, &beside(100_000, &[100_000, 5_000, 5_000]), None);
        let with = |bad: Flow| {
            let mut flows: Vec<_> = (10..14).map(|host| server(host, 2, 5_000)).collect();
            flows.push(bad);
            kit::watched(&flows)
        };
        check(&DEFINITION, &with(server(9, 2, 80_000).path(80_000_000)), None);
        check(&DEFINITION, &with(server(9, 2, 80_000).path(20_000_000)), Some(Severity::Warning));
        check(&DEFINITION, &with(server(9, 2, 80_000).of(9, "report")), None);
    }

    #[test]
    fn servers_behind_one_address_are_told_apart() {
        let behind = |host: u8, us| {
            server(host, 2, us).to("10.96.0.1", 80).behind(&format!("10.0.0.{host}"), 8080)
        };
        let watched = kit::watched(&[behind(9, 90_000), behind(10, 5_000), behind(11, 6_000)]);
        let found = (DEFINITION.rule)(&watched, &Limits::default());
        let scopes: Vec<_> = found
            .iter()
            .map(|one| (one.scope.name.as_str(), one.scope.peer, one.scope.port))
            .collect();
        assert_eq!(scopes, [("10.0.0.9:8080", "10.96.0.1".parse().ok(), Some(80))]);
    }

    #[test]
    fn wording() {
        let watched = beside(120_000, &[12_000, 10_000, 11_000]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
