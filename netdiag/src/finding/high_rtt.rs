//! The path to a peer is long, or takes long.

use std::net::IpAddr;

use netdiag_common::signal::Signal;

use super::{
    DELAYED_ACK_NS, Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{inside, is_private, ss_of},
};
use crate::{
    format,
    snapshot::Role,
    watched::{Group, Peer, Watched},
};

const SAME_NODE: Threshold = Threshold {
    name: "same_node",
    value: 1e6,
    unit: Unit::Ns,
    help: "smallest round trip between two ends of this node, for an info",
    source: "field practice: below 0.1 ms, above 1 ms worth a look",
};
const PRIVATE_NOTICED: Threshold = Threshold {
    name: "private_noticed",
    value: 10e6,
    unit: Unit::Ns,
    help: "smallest round trip to a private address, for an info",
    source: "field practice: above 10 ms is not within a datacenter; a line between sites may be so long",
};
const PRIVATE: Threshold = Threshold {
    name: "private",
    value: 150e6,
    unit: Unit::Ns,
    help: "the same, for a warning",
    source: "field practice: continent to continent takes 50 to 150 ms",
};
const PUBLIC: Threshold = Threshold {
    name: "public",
    value: 200e6,
    unit: Unit::Ns,
    help: "smallest round trip to a server at a public address",
    source: "field practice: above 200 ms is worth a look even between continents",
};
const LEAST_SAMPLES: Threshold = Threshold {
    name: "least_samples",
    value: 5.0,
    unit: Unit::Count,
    help: "round trips and handshakes in a window, fewer say nothing",
    source: "a smallest value of fewer may be an accident",
};
/// Round trips without a delay of the peer's, or handshakes, that show the path: as many as the kernel keeps for its
/// own smallest one of late (lib/win_minmax.c).
const PROMPT: u64 = 3;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "high-rtt",
    help: "the path to a peer takes long, whatever is on it",
    thresholds: &[&SAME_NODE, &PRIVATE_NOTICED, &PRIVATE, &PUBLIC, &LEAST_SAMPLES],
    needs: &[Signal::Rtt],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["bufferbloat", "interface-saturated", "qdisc-drop"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    peers.iter().filter_map(|(peer, group)| of_peer(watched, limits, *peer, group)).collect()
}

/// Where a peer is, as far as its address tells.
fn class(
    ip: IpAddr,
    group: &Group<'_>,
    rtt_ns: u64,
    limits: &Limits,
) -> (&'static str, &'static Threshold) {
    let is_here = group.is_local() || group.flows.iter().all(|flow| flow.local.ip == Some(ip));
    match ip {
        // A link may be made long on purpose between two ends of a node.
        _ if is_here && (rtt_ns as f64) < limits.of(&PRIVATE) => ("on this node", &SAME_NODE),
        ip if is_private(ip) => {
            let is_far = rtt_ns as f64 >= limits.of(&PRIVATE);
            ("at a private address", if is_far { &PRIVATE } else { &PRIVATE_NOTICED })
        }
        _ => ("at a public address", &PUBLIC),
    }
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    group: &Group<'_>,
) -> Option<Finding> {
    let rtt_ns = group.rtt_min_ns()?;
    let sums = &group.sums;
    let (samples, handshakes) = (sums.samples("rtt"), sums.samples("connect"));
    let (place, threshold) = class(ip, group, rtt_ns, limits);
    if (samples + handshakes) < limits.of(&LEAST_SAMPLES) as u64
        || (rtt_ns as f64) < limits.of(threshold)
    {
        return None;
    }
    let prompt = samples.saturating_sub(sums.count("rtt_delayed").unwrap_or(samples));
    let is_path = rtt_ns > DELAYED_ACK_NS || prompt >= PROMPT || handshakes >= PROMPT;
    // Where clients are is theirs.
    let are_clients = group.flows.iter().all(|flow| flow.role == Some(Role::Server));
    let is_far = [&PRIVATE, &PUBLIC].contains(&threshold);
    let severity =
        if is_far && is_path && !are_clients { Severity::Warning } else { Severity::Info };
    let title = format!("{} at best to {ip}, {place}", format::duration(rtt_ns));
    let finding = Finding::new(watched, severity, Scope::peer(netns, ip), title)
        .confidence(if is_path { 0.9 } else { 0.5 })
        .because(
            "This is the smallest round trip of late, so neither queues nor loss are in it. Each request \
             waits for it once at least, a new connection with TLS three times.",
        )
        .beyond(watched, "round trip at best (rtt_min)", rtt_ns as f64, threshold, limits)
        .with(watched, "round trips measured", samples as f64, Unit::Count)
        .with(watched, "of these without the peer's delay", prompt as f64, Unit::Count)
        .advise(format!(
            "find out where {ip} is and which way packets take: mtr -T -P PORT {ip}; a detour or a VPN shows"
        ))
        .advise("use a replica that is nearer, keep connections open, and ask for several things at once")
        .confirm_by(inside(group, &ss_of(ip)))
        .confirm_by(format!("mtr -rwbc 20 {ip}"));
    let finding = match sums.quantile("rtt", 0.5, 1) {
        Some(p50) => finding.with(watched, "rtt p50", p50 as f64, Unit::Ns).ruling_out(format!(
            "queues: a smallest round trip has none; the median is {:.1} times as long",
            p50 as f64 / rtt_ns.max(1) as f64
        )),
        None => finding,
    };
    Some(if is_path {
        finding.ruling_out(
            "delayed ACKs: handshakes or full segments took no less, or it is beyond any delay",
        )
    } else {
        finding.not_seeing("a round trip without the peer's delayed ACK: the path may be shorter")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    fn of(ip: &str, us: u64) -> Flow {
        let ns = us * 1_000;
        kit::flow("f1").to(ip, 443).path(ns).latency("rtt", 1, ns).count("rtt_delayed", 0)
    }

    #[track_caller]
    fn check_of(flow: Flow, expected: Option<Severity>) {
        check(&DEFINITION, &kit::watched(&[flow]), expected);
    }

    #[test]
    fn thresholds() {
        check_of(of("10.0.0.2", 9_900), None);
        check_of(of("10.0.0.2", 10_000), Some(Severity::Info));
        check_of(of("10.0.0.2", 149_000), Some(Severity::Info));
        check_of(of("10.0.0.2", 150_000), Some(Severity::Warning));
        check_of(of("8.8.8.8", 199_000), None);
        check_of(of("8.8.8.8", 200_000), Some(Severity::Warning));
        check_of(of("10.0.0.1", 990), None);
        check_of(of("10.0.0.1", 1_000), Some(Severity::Info));
    }

    #[test]
    fn few_samples_say_nothing() {
        let of_samples = |n| {
            kit::series(|second| {
                let flow = of("8.8.8.8", 300_000);
                vec![if second < n { flow } else { kit::flow("f1").to("8.8.8.8", 443) }]
            })
        };
        check(&DEFINITION, &of_samples(4), None);
        check(&DEFINITION, &of_samples(5), Some(Severity::Warning));
    }

    #[test]
    fn delayed_acks_and_far_clients_alarm_nobody() {
        let delayed = |ms: u64| of("10.0.0.2", ms * 1_000).count("rtt_delayed", 1);
        check_of(delayed(160), Some(Severity::Info));
        check_of(delayed(160).latency("connect", 1, 160_000_000), Some(Severity::Warning));
        check_of(delayed(260), Some(Severity::Warning));
        let handshakes = |n| {
            kit::series(|second| {
                let connects = u64::from(second < n);
                vec![delayed(160).latency("connect", connects, 160_000_000)]
            })
        };
        check(&DEFINITION, &handshakes(2), Some(Severity::Info));
        check(&DEFINITION, &handshakes(3), Some(Severity::Warning));
        let client = of("8.8.8.8", 300_000).serving(443);
        check_of(Flow { peer: kit::end("8.8.8.8", 50_000), ..client }, Some(Severity::Info));
    }

    #[test]
    fn what_a_queue_adds_is_no_path() {
        check_of(of("10.0.0.2", 500_000).path(2_000_000), None);
    }

    #[test]
    fn wording() {
        let watched = kit::watched(&[of("10.0.0.2", 262_000)]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
