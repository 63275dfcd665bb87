//! A server of names takes long to answer.

use netdiag_common::signal::Signal;

use super::{Definition, Finding, Limits, Scope, Severity, Threshold, Unit, advice};
use crate::{
    format,
    watched::{Group, Peer, Watched},
};

const USUAL: Threshold = Threshold {
    name: "usual",
    value: 50e6,
    unit: Unit::Ns,
    help: "median of its answers",
    source: "field practice: below 10 ms is healthy, above 50 ms worth a look",
};
const SLOW: Threshold = Threshold {
    name: "slow",
    value: 200e6,
    unit: Unit::Ns,
    help: "90th percentile of its answers",
    source: "a name that is not cached takes some round trips to far servers, 20 ms to 150 ms",
};
const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 50e6,
    unit: Unit::Ns,
    help: "the same, for an info",
    source: "field practice: above 50 ms worth a look",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 2.5e9,
    unit: Unit::Ns,
    help: "median from which on resolvers give up",
    source: "half of the 5 s that resolvers wait (timeout in resolv.conf(5))",
};
const LEAST: Threshold = Threshold {
    name: "least_answers",
    value: 10.0,
    unit: Unit::Count,
    help: "answers in a window, fewer say nothing",
    source: "the slowest tenth of fewer is none",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "dns-slow",
    help: "a server of names answers late",
    thresholds: &[&USUAL, &SLOW, &NOTICED, &CRITICAL, &LEAST],
    needs: &[Signal::Dns],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[
        "packet-loss",
        "bufferbloat",
        "high-rtt",
        "cpu-starved",
        "dns-unanswered",
        "dns-failing",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let servers = watched.by_resolver();
    let found: Vec<_> =
        servers.iter().filter_map(|(at, group)| of_server(watched, limits, *at, group)).collect();
    advice::without_stubs(found)
}

fn of_server(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    group: &Group<'_>,
) -> Option<Finding> {
    let sums = &group.sums;
    let at = |quantile| sums.quantile("dns", quantile, limits.of(&LEAST) as u64);
    let (p50, p90) = (at(0.5)?, at(0.9)?);
    let (severity, which, value, threshold) = match (p50 as f64, p90 as f64) {
        (p50, _) if p50 >= limits.of(&CRITICAL) => (Severity::Critical, "p50", p50, &CRITICAL),
        (p50, _) if p50 >= limits.of(&USUAL) => (Severity::Warning, "p50", p50, &USUAL),
        (_, p90) if p90 >= limits.of(&SLOW) => (Severity::Warning, "p90", p90, &SLOW),
        (_, p90) if p90 >= limits.of(&NOTICED) => (Severity::Info, "p90", p90, &NOTICED),
        _ => return None,
    };
    let other = if which == "p50" { p90 } else { p50 } as f64;
    let title =
        format!("{ip} takes {} to answer for a name ({which})", format::duration(value as u64));
    let retried = sums.at_least("dns.retried");
    let finding = Finding::new(watched, severity, Scope::backend(netns, ip, 53), title)
        .because(
            "Whoever looks up a name waits that long before it can even connect. Programs without a cache of \
             their own do so for each connection, and once more for each domain of the search list.",
        )
        .beyond(watched, &format!("dns {which}"), value, threshold, limits)
        .with(watched, if which == "p50" { "dns p90" } else { "dns p50" }, other, Unit::Ns)
        .with(watched, "dns p99", at(0.99)? as f64, Unit::Ns)
        .with(watched, "answers", sums.samples("dns") as f64, Unit::Count)
        .with(watched, "queries sent again", retried as f64, Unit::Count)
        .not_seeing("whether the server or a server that it asks takes that long");
    let finding = match retried {
        0 => finding.ruling_out("loss of queries: none had to be sent again"),
        _ => finding,
    };
    let finding = match path(watched, netns, ip) {
        Some(path) => finding.with(watched, "path to it (rtt_min)", path as f64, Unit::Ns),
        None => finding.not_seeing("how long the path to it takes: no TCP connection goes there"),
    };
    Some(finding
        .advise("ask it for a name that it surely has in its cache: slow then is the server or the path, else what it asks")
        .advise("use a cache on the node (NodeLocal DNSCache, systemd-resolved), and names with a dot at the end where search lists are long")
        .advise("look at the server itself: CPU limit, number of clients, its own forwarders")
        .confirm_by(advice::dig(watched, netns, ip))
        .confirm_by(format!("netdiag events --kind dns --peer {ip}")))
}

/// What the path to it takes, by whatever TCP connection goes there.
fn path(watched: &Watched, netns: Option<u32>, ip: std::net::IpAddr) -> Option<u64> {
    watched.by_peer().get(&(netns, ip))?.rtt_min_ns()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Distribution, Flow},
        watched::kit,
    };

    fn flow(ip: &str, p50_ms: u64, p90_ms: u64, count: u64) -> Flow {
        let mut flow = kit::asker(ip).count("dns.queries", count).count("dns.retried", 0);
        let ms = |ms: u64| Some(ms * 1_000_000);
        let distribution = Distribution {
            count,
            min_ns: ms(p50_ms),
            p50_ns: ms(p50_ms),
            p90_ns: ms(p90_ms),
            p99_ns: ms(p90_ms),
            p999_ns: ms(p90_ms),
            max_ns: ms(p90_ms),
            out_of_range: 0,
        };
        flow.metrics.insert("dns".to_owned(), distribution);
        flow
    }

    fn of(p50_ms: u64, p90_ms: u64) -> Watched {
        kit::watched(&[flow("10.0.0.53", p50_ms, p90_ms, 20)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(51, 60), Some(Severity::Warning));
        check(&DEFINITION, &of(49, 60), Some(Severity::Info));
        check(&DEFINITION, &of(5, 51), Some(Severity::Info));
        check(&DEFINITION, &of(5, 49), None);
        check(&DEFINITION, &of(5, 201), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 198), Some(Severity::Info));
        check(&DEFINITION, &of(2_510, 2_600), Some(Severity::Critical));
        check(&DEFINITION, &of(2_470, 2_600), Some(Severity::Warning));
        let once = |count| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow("10.0.0.53", 100, 120, count)]));
            watched
        };
        check(&DEFINITION, &once(10), Some(Severity::Warning));
        check(&DEFINITION, &once(9), None);
    }

    #[test]
    fn a_stub_is_as_slow_as_the_server_that_it_asks() {
        let stub = flow("127.0.0.53", 100, 120, 20);
        let server = flow("10.0.0.53", 99, 119, 20);
        let watched = kit::watched(&[stub.clone(), server]);
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = rule(&watched, &Limits::default());
        assert_eq!(found[0].scope.name, "10.0.0.53:53");
        check(&DEFINITION, &kit::watched(&[stub]), Some(Severity::Warning));
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(180, 400)));
    }
}
