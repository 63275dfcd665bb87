//! Segments that are too large for a hop get lost, and nobody tells the sender.

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{events, inside},
    stalled::{LARGE_BYTES, is_too_large},
};
use crate::watched::{Group, Peer, Watched};

const STALL: Threshold = Threshold {
    name: "stall",
    value: 2.0,
    unit: Unit::S,
    help: "time in which full segments were sent again and again in vain",
    source: "three retransmission timeouts of a short path (RFC 6298: 0.2, 0.4 and 0.8 s on Linux)",
};
const CRITICAL: Threshold = Threshold {
    name: "critical_connections",
    value: 3.0,
    unit: Unit::Count,
    help: "connections that hang so, from which on it is no accident",
    source: "each large transfer to the peer hangs",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "pmtu-black-hole",
    help: "full segments to a peer get lost where small ones pass, and nobody tells the sender",
    thresholds: &[&STALL, &CRITICAL],
    needs: &[Signal::Retransmit, Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[Packets::of("retransmits.rto")],
    causes: &["mtu-mismatch", "firewall-drop"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    peers.iter().filter_map(|(peer, group)| of_peer(watched, limits, *peer, group)).collect()
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    peer: &Group<'_>,
) -> Option<Finding> {
    let hangs = peer.only(|flow| {
        is_too_large(flow, peer) && flow.course.longest_stall().at_least_s() >= limits.of(&STALL)
    })?;
    let stalls = hangs.flows.iter().map(|flow| flow.course.longest_stall());
    let worst =
        stalls.clone().max_by(|one, other| one.at_least_s().total_cmp(&other.at_least_s()))?;
    let (timeouts, again, bytes) = stalls.fold((0, 0, 0), |(timeouts, again, bytes), stall| {
        (timeouts + stall.timeouts, again + stall.again, bytes + stall.again_bytes)
    });
    let size = bytes / again.max(1);
    let count = hangs.flows.len();
    let (severity, threshold) = if count as f64 >= limits.of(&CRITICAL) {
        (Severity::Critical, &CRITICAL)
    } else {
        (Severity::Warning, &CRITICAL)
    };
    let title = format!(
        "segments of {size} bytes to {ip} never arrive, small ones do: {}",
        if count == 1 {
            "1 connection hangs".to_owned()
        } else {
            format!("{count} connections hang")
        }
    );
    let rest = peer.flows.len() - count;
    let longest = match worst.at_least_s() > worst.seconds {
        true => "longest stall, by timeouts in a row",
        false => "longest stall",
    };
    Some(
        Finding::new(watched, severity, Scope::peer(netns, ip).by(&hangs.owner()), title)
            .confidence(if count > 1 || rest > 0 { 0.9 } else { 0.7 })
            .because(
                "The connection is established and small segments pass, but each full one is lost however \
                 often it is sent: a hop has a smaller MTU and drops it, and its ICMP message that says so \
                 is not sent or is filtered.",
            )
            .beyond(watched, longest, worst.at_least_s(), &STALL, limits)
            .beyond(watched, "connections that hang", count as f64, threshold, limits)
            .with(watched, "payload of a segment sent again", size as f64, Unit::Bytes)
            .with(watched, "segments sent again after a timeout", timeouts as f64, Unit::Count)
            .ruling_out("a peer that is gone: segments of its own came meanwhile")
            .ruling_out(format!(
                "loss of every kind of segment: none of {LARGE_BYTES} bytes or more was acknowledged"
            ))
            .not_seeing("which hop drops them, and what ICMP messages were filtered before this node")
            .advise("let ICMP type 3 code 4 (IPv6: type 2, packet too big) through every firewall on the path")
            .advise("set the MTU of the tunnel or overlay right on this side, or clamp the MSS on the router")
            .advise("until then net.ipv4.tcp_mtu_probing=1 here: TCP finds the size by itself")
            .confirm_by(inside(&hangs, &probe(ip, size)))
            .confirm_by(inside(&hangs, &format!("tracepath -n {ip}")))
            .confirm_by(events("retransmit", netns, ip)),
    )
}

/// A ping as large as the segment with its TCP header, of 12 bytes of options.
fn probe(ip: std::net::IpAddr, payload: u64) -> String {
    // An ICMP echo has 8 bytes before its payload, a segment with timestamps 32.
    format!("ping -M do -c 3 -s {} {ip}", payload + 32 - 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{stalled::kit::*, tests::check},
        watched::kit,
    };

    /// So many connections hang with segments of that size, one is sound.
    fn of(count: usize, bytes: u64) -> Watched {
        let hang = (0..count).map(|n| stalled(&format!("f{n}"), bytes, 0));
        kit::watched(&hang.chain([sound("pings")]).collect::<Vec<_>>())
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(1, 1_000), Some(Severity::Warning));
        check(&DEFINITION, &of(1, 999), None);
        check(&DEFINITION, &of(2, 1_448), Some(Severity::Warning));
        check(&DEFINITION, &of(3, 1_448), Some(Severity::Critical));
    }

    #[test]
    fn a_short_stall_is_an_accident() {
        let stalls = |seconds: u64, timeouts: u64| {
            kit::series(|second| {
                let one = if second < seconds {
                    stalled("f1", 1_448 * timeouts, 0).count("retransmits.rto", timeouts)
                } else {
                    sound("f1").count("bytes_acked", 50)
                };
                vec![one, sound("pings")]
            })
        };
        check(&DEFINITION, &stalls(1, 5), None);
        check(&DEFINITION, &stalls(2, 1), None);
        check(&DEFINITION, &stalls(2, 2), Some(Severity::Warning));
    }

    /// What began before it was watched is as old as its timeouts make it.
    #[test]
    fn a_stall_is_watched_or_said_to_be_reckoned() {
        let hangs = |seconds: std::ops::Range<u64>, in_a_row: u64| {
            kit::series(move |second| {
                let hangs = stalled("f1", 1_448, 0).count("timeouts_in_a_row", in_a_row);
                let hangs = seconds.contains(&second).then_some(hangs);
                hangs.into_iter().chain([sound("pings")]).collect()
            })
        };
        let longest = |watched: &Watched| {
            let found = rule(watched, &Limits::default());
            found.first().map(|one| (one.evidence[0].metric.clone(), one.evidence[0].value))
        };
        let reckoned = "longest stall, by timeouts in a row".to_owned();
        let known = longest(&hangs(8..9, 4)).expect("a finding");
        assert_eq!(known.0, reckoned);
        assert!((known.1 - 3.0).abs() < 1e-6, "0.2 + 0.4 + 0.8 + 1.6 s, not {} s", known.1);
        assert_eq!(longest(&hangs(4..8, 4)), Some(("longest stall".to_owned(), 4.0)));
    }

    #[test]
    fn a_peer_that_is_gone_or_loses_all_is_another_thing() {
        check(&DEFINITION, &kit::watched(&[stalled("f1", 1_448, 0)]), None);
        // It got large ones before.
        let died = kit::series(|second| {
            let before = sound("f1").count("bytes_acked", 28_960);
            vec![if second < 3 { before } else { stalled("f1", 1_448, 0) }, sound("f2")]
        });
        check(&DEFINITION, &died, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(6, 1_448)));
    }
}
