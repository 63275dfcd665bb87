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
    watched::{Seen, Watched},
};

mod kin;

use kin::{Departure, Kin, Server, Service, upper_median};

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
const SIBLINGS: Threshold = Threshold {
    name: "least_siblings",
    value: 3.0,
    unit: Unit::Count,
    help: "the same where no translation says of which service they are; with fewer it is an info",
    source: "of what one program asks at one port, two take the same by chance",
};
const ALIKE: Threshold = Threshold {
    name: "alike",
    value: 3.0,
    unit: Unit::Times,
    help: "bytes of a request, and of an answer, in the mean, compared with another server's; above, they are of \
           different services",
    source: "one service is asked for the same things, wherever they go",
};
const SPREAD: Threshold = Threshold {
    name: "spread",
    value: 2.0,
    unit: Unit::Times,
    help: "response of the slowest of the others, compared with the quickest; above, it is an info",
    source: "servers of one service take about the same under the same load",
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
    thresholds: &[&TIMES, &MORE, &OTHERS, &SIBLINGS, &ALIKE, &SPREAD, &LEAST, &PATH],
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

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut services: BTreeMap<Service, BTreeMap<SocketAddr, Vec<&Seen>>> = BTreeMap::new();
    for flow in watched.flows.values() {
        let asks = flow.is_tcp() && flow.is_client();
        let (Some(port), true) = (flow.peer.port, asks) else { continue };
        let Some(server) = address(flow.server()) else { continue };
        let service = Service {
            netns: flow.netns,
            comm: flow.owner.comm.clone(),
            port,
            at: flow.service.as_ref().and_then(address),
        };
        services.entry(service).or_default().entry(server).or_default().push(flow);
    }
    services
        .into_iter()
        .flat_map(|(of, servers)| of_service(watched, limits, &of, servers))
        .collect()
}

fn address(end: &Endpoint) -> Option<SocketAddr> {
    Some(SocketAddr::new(end.ip?, end.port?))
}

fn of_service(
    watched: &Watched,
    limits: &Limits,
    service: &Service,
    servers: BTreeMap<SocketAddr, Vec<&Seen>>,
) -> Vec<Finding> {
    let least = limits.of(&LEAST) as u64;
    let servers: Vec<_> =
        servers.into_iter().filter_map(|(at, flows)| Server::of(at, flows, least)).collect();
    let found: Vec<_> = (0..servers.len())
        .filter_map(|at| {
            let (before, rest) = servers.split_at(at);
            let (one, after) = rest.split_first()?;
            let others = before.iter().chain(after);
            // Who is asked for other things is of another service, unless a translation knows better.
            let others = others.filter(|other| {
                service.at.is_some() || one.is_asked_like(other, limits) != Some(false)
            });
            outlier(watched, limits, service, one, &others.collect::<Vec<_>>())
        })
        .collect();
    // Where half of them differ there is nothing that they differ from.
    if found.len() * 2 < servers.len() { found } else { Vec::new() }
}

fn outlier(
    watched: &Watched,
    limits: &Limits,
    service: &Service,
    one: &Server<'_>,
    others: &[&Server<'_>],
) -> Option<Finding> {
    if (others.len() as f64) < limits.of(&OTHERS) {
        return None;
    }
    let Departure { which, mine, usual, kin } = Departure::of(limits, service, one, others)?;
    let longer = mine - usual;
    let path = one.group.rtt_min_ns();
    let paths = upper_median(others.iter().filter_map(|other| other.group.rtt_min_ns()));
    let farther = path.zip(paths).map(|(mine, theirs)| mine.saturating_sub(theirs));
    if farther.is_some_and(|farther| farther as f64 >= limits.of(&PATH) * longer as f64) {
        return None;
    }
    let owner = one.group.owner();
    // What sockets say, also of a service that is translated; the name is that of who answers.
    let (asked, port) = (one.group.first().peer.ip?, service.port);
    let scope = Scope::backend(service.netns, asked, port).by(&owner);
    let scope = Scope { name: one.at.to_string(), ..scope };
    let times = mine as f64 / usual.max(1) as f64;
    let severity = if kin == Kin::Port { Severity::Info } else { Severity::Warning };
    let of = match kin {
        Kin::Service(at) => at.to_string(),
        Kin::Likeness | Kin::Port => format!("port {port}"),
    };
    let title = format!(
        "{} takes {} to answer ({which}), the {} others of {of} {}",
        one.at,
        format::duration(mine),
        others.len(),
        format::duration(usual)
    );
    let finding = Finding::new(watched, severity, scope, title)
        .about(service.comm.as_deref().unwrap_or_default())
        .done_by(one.group.peer_owner())
        .beyond(
            watched,
            &format!("response {which} over that of the others"),
            times,
            &TIMES,
            limits,
        )
        .beyond(watched, "longer by", longer as f64, &MORE, limits)
        .with(watched, "its responses", one.group.sums.samples("response") as f64, Unit::Count)
        .with(watched, "other servers", others.len() as f64, Unit::Count);
    let finding = told(finding, watched, one, kin, which == "p50")
        .confirm_by(format!("netdiag live --peer-port {port} --sort response.p50"))
        .confirm_by(ss_by(owner.pid, &format!("dst {} dport = :{port}", host(asked))));
    Some(match farther {
        Some(farther) => finding.ruling_out(format!(
            "its path: it is longer than those of the others by {} at its best",
            format::duration(farther)
        )),
        None => finding.not_seeing("how long the paths are (rtt_min)"),
    })
}

/// How sure it is, why, and what to do.
fn told(
    finding: Finding,
    watched: &Watched,
    one: &Server<'_>,
    kin: Kin,
    is_usual: bool,
) -> Finding {
    let at = one.at;
    let [sure, less_sure] = match kin {
        Kin::Service(_) => [0.95, 0.8],
        Kin::Likeness => [0.75, 0.6],
        Kin::Port => [0.4, 0.3],
    };
    let finding = finding.confidence(if is_usual { sure } else { less_sure });
    let finding = match (kin, one.bytes) {
        (Kin::Likeness, Some([request, answer])) => finding
            .with(watched, "a request, mean", request, Unit::Bytes)
            .with(watched, "an answer, mean", answer, Unit::Bytes),
        _ => finding,
    };
    let finding = match kin {
        Kin::Service(service) => finding
            .because(format!(
                "All of them answer for {service}, so what differs is that server or what is asked of it. Whoever \
                 is sent there waits; averages over all servers hide it."
            ))
            .not_seeing("whether it is asked for something else than the others are"),
        Kin::Likeness => finding
            .because(
                "The same program asks all of them at the same port, for about as much and with about as much in \
                 answer, and the others take about the same. So they are of one service, by all that is seen, and \
                 that server differs. Whoever is sent there waits; averages over all servers hide it.",
            )
            .not_seeing("whether they really are of one service: no translation of addresses says so"),
        Kin::Port => {
            return finding
                .because(
                    "The same program asks all of them at the same port, and that is all that they are known to \
                     have in common. If they are of one service, that server is slow, and whoever is sent there \
                     waits. If not, it may be as quick as ever.",
                )
                .not_seeing("whether they are of one service: no translation of addresses says so")
                .advise(format!(
                    "see whether they are of one service; if not, hold {at} against what it took before"
                ))
                .advise("if they are, compare that node with its siblings: CPU quota, disk, cache, version");
        }
    };
    finding
        .advise(format!(
            "take {at} out of the balancer, or let it drain, and see whether that helps"
        ))
        .advise("compare that node with its siblings: CPU quota, disk, cache, version, neighbours")
        .advise("let the balancer choose by requests under way or by latency instead of by turns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// So many responses of so many microseconds an interval, all to the same request.
    fn server(host: u8, count: u64, us: u64) -> Flow {
        kit::flow(&format!("f{host}"))
            .to(&format!("10.0.0.{host}"), 443)
            .latency("response", count, us * 1_000)
            .count("bytes_sent", 200 * count)
            .count("bytes_received", 1_000 * count)
            .path(500_000)
    }

    /// One that answers for a service.
    fn behind(host: u8, us: u64) -> Flow {
        server(host, 2, us).to("10.96.0.1", 80).behind(&format!("10.0.0.{host}"), 8080)
    }

    /// Servers that are asked with so many bytes, and answer with so many in so many milliseconds.
    fn asked(servers: &[(u64, u64, u64)]) -> Watched {
        let of = |(host, &(sent, received, ms)): (u8, &(u64, u64, u64))| {
            let server = server(host, 2, ms * 1_000);
            server.count("bytes_sent", 2 * sent).count("bytes_received", 2 * received)
        };
        kit::watched(&(9..).zip(servers).map(of).collect::<Vec<_>>())
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
        check(&DEFINITION, &beside(100_000, &[5_000, 6_000, 5_000]), Some(Severity::Warning));
        check(&DEFINITION, &beside(100_000, &[5_000, 6_000]), Some(Severity::Info));
        check(&DEFINITION, &beside(100_000, &[5_000]), None);
    }

    #[test]
    fn who_is_asked_for_other_things_is_of_another_service() {
        // An API for payments, a store of objects and an API of one's own.
        let unlike = asked(&[(600, 4_000, 400), (400, 100_000, 30), (1_500, 900, 25)]);
        check(&DEFINITION, &unlike, None);
        let beside = |sent, received| {
            let other = (sent, received, 5);
            asked(&[(200, 1_000, 100), other, other, other])
        };
        check(&DEFINITION, &beside(600, 3_000), Some(Severity::Warning));
        check(&DEFINITION, &beside(610, 1_000), None);
        check(&DEFINITION, &beside(200, 3_010), None);
        let mut unknown =
            [(9, 100_000), (10, 5_000), (11, 5_000)].map(|(host, us)| server(host, 2, us));
        unknown.iter_mut().for_each(|flow| flow.counts.clear());
        check(&DEFINITION, &kit::watched(&unknown), Some(Severity::Info));
    }

    /// A connection to the first of them over which so much was asked, and given up with it.
    fn in_vain(flow: Flow, asked: u64) -> Flow {
        let flow = Flow { closed: true, metrics: BTreeMap::new(), ..flow.to("10.0.0.9", 443) };
        flow.count("bytes_sent", asked).count("bytes_received", 0)
    }

    /// The slower a server is, the more of its clients do not wait.
    #[test]
    fn requests_that_are_given_up_were_asked_all_the_same() {
        let with = |asked: u64| {
            let others = (10..13).map(|host| server(host, 80, 5_000));
            let given_up = (0..60).map(|n| in_vain(kit::flow(&format!("g{n}")), asked));
            let answered = server(9, 20, 100_000);
            kit::once(others.chain(given_up).chain([answered]))
        };
        check(&DEFINITION, &with(200), Some(Severity::Warning));
        // That is 612 bytes in the mean, and the others are asked with 200.
        check(&DEFINITION, &with(750), None);
        // Connections that are kept until there is no answer.
        let kept = |second: u64, asked: u64| -> Vec<Flow> {
            let others = (10..13).map(|host| server(host, 20, 5_000));
            let slow = (0..20).map(|n| Flow { id: format!("k{n}"), ..server(9, 1, 100_000) });
            match second {
                0 => others.chain(slow).collect(),
                1 => slow.map(|flow| in_vain(flow, asked)).collect(),
                _ => vec![],
            }
        };
        check(&DEFINITION, &kit::series(|second| kept(second, 900)), Some(Severity::Warning));
        check(&DEFINITION, &kit::series(|second| kept(second, 1_100)), None);
    }

    #[test]
    fn servers_of_one_service_take_about_the_same() {
        let beside = |ms: u64, others: [u64; 3]| beside(ms * 1_000, &others.map(|ms| ms * 1_000));
        check(&DEFINITION, &beside(250, [30, 40, 59]), Some(Severity::Warning));
        check(&DEFINITION, &beside(250, [29, 40, 60]), Some(Severity::Info));
        // However the others differ, it is far from all of them.
        check(&DEFINITION, &beside(400, [20, 40, 50]), Some(Severity::Warning));
        // Nor does it stand alone.
        check(&DEFINITION, &beside(250, [5, 45, 120]), Some(Severity::Info));
        check(&DEFINITION, &beside(250, [5, 45, 130]), None);
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
        let watched = kit::watched(&[behind(9, 90_000), behind(10, 5_000), behind(11, 6_000)]);
        let found = (DEFINITION.rule)(&watched, &Limits::default());
        let scopes: Vec<_> = found
            .iter()
            .map(|one| (one.scope.name.as_str(), one.scope.peer, one.scope.port))
            .collect();
        assert_eq!(scopes, [("10.0.0.9:8080", "10.96.0.1".parse().ok(), Some(80))]);
    }

    #[test]
    fn a_translation_says_of_which_service_they_are() {
        let three = || {
            let other = behind(9, 90_000).count("bytes_received", 90_000);
            [other, behind(10, 5_000), behind(11, 6_000)]
        };
        check(&DEFINITION, &kit::watched(&three()), Some(Severity::Warning));
        let [other, ..] = three();
        let elsewhere = other.to("10.96.0.2", 80).behind("10.0.0.9", 8080);
        let [_, one, two] = three();
        check(&DEFINITION, &kit::watched(&[elsewhere, one, two]), None);
    }

    #[test]
    fn wording() {
        let wording = |watched: &Watched| crate::finding::tests::wording(&DEFINITION, watched);
        insta::assert_snapshot!("likeness", wording(&beside(120_000, &[12_000, 10_000, 11_000])));
        insta::assert_snapshot!("port", wording(&beside(120_000, &[12_000, 10_000])));
        let service = [behind(9, 120_000), behind(10, 10_000), behind(11, 11_000)];
        insta::assert_snapshot!("service", wording(&kit::watched(&service)));
    }
}
