//! A peer went without a word, and connections to it stand.

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{events, inside, many, ss_of},
    stalled::{TIMEOUTS, is_too_large},
};
use crate::{
    format,
    watched::{Group, Peer, Seen, Watched},
};

const SILENCE: Threshold = Threshold {
    name: "silence",
    value: 3.0,
    unit: Unit::S,
    help: "time in which nothing came from a peer that has to acknowledge data",
    source: "four retransmission timeouts in a row (RFC 6298: 0.2, 0.4, 0.8 and 1.6 s on Linux)",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 8.0,
    unit: Unit::S,
    help: "the same, where no connection to the peer gets an answer any more",
    source: "a reboot of a switch, or a new route, takes less; most clients have given up by then",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "half-open-peer",
    help: "a peer went without a word: connections to it stand, and get no answer",
    thresholds: &[&SILENCE, &CRITICAL],
    needs: &[Signal::Retransmit, Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[Packets::of("retransmits.rto")],
    causes: &[
        "firewall-drop",
        "conntrack-full",
        "interface-errors",
        "qdisc-drop",
        "softnet-drop",
        "pmtu-black-hole",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    peers.iter().filter_map(|(peer, group)| of_peer(watched, limits, *peer, group)).collect()
}

/// Whether a connection gets no answer since then.
fn is_silent(flow: &Seen, limits: &Limits) -> bool {
    let stall = flow.course.stall;
    stall.in_vain() >= TIMEOUTS && stall.silence_s() >= limits.of(&SILENCE)
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    peer: &Group<'_>,
) -> Option<Finding> {
    let silent = peer.only(|flow| is_silent(flow, limits) && !is_too_large(flow, peer))?;
    let stalls = silent.flows.iter().map(|flow| flow.course.stall);
    let worst =
        stalls.clone().max_by(|one, other| one.silence_s().total_cmp(&other.silence_s()))?;
    let watched_s = stalls.clone().map(|stall| stall.silent_s).fold(0.0, f64::max);
    let in_a_row = stalls.clone().map(|stall| stall.in_vain()).max().unwrap_or(0);
    let timeouts: u64 = stalls.clone().map(|stall| stall.timeouts).sum();
    // A peer that is there has forgotten these alone.
    let heard = peer.seconds(|course| course.heard);
    let is_there = stalls.clone().all(|stall| heard.after(stall.silent_since));
    // Other connections may not have had a chance to be heard in less.
    let is_sure = watched_s >= limits.of(&SILENCE) && worst.silence_s() >= limits.of(&CRITICAL);
    let severity = if !is_there && is_sure { Severity::Critical } else { Severity::Warning };
    let threshold = if severity == Severity::Critical { &CRITICAL } else { &SILENCE };
    // It fell silent before it was watched.
    let is_reckoned = worst.silence_s() > worst.silent_s;
    let seconds = format::duration((worst.silence_s() * 1e9) as u64);
    let seconds = if is_reckoned { format!("about {seconds}") } else { seconds };
    let count = silent.flows.len();
    let title = if is_there {
        format!(
            "no answer from {ip} on {} for {seconds}, on others there is",
            many(count, "connection")
        )
    } else {
        format!("{ip} is silent for {seconds}, data on {} waits", many(count, "connection"))
    };
    let came = match is_reckoned {
        true => "nothing came for, by timeouts in a row",
        false => "nothing came for",
    };
    let waiting =
        |name| silent.flows.iter().map(|flow| flow.sums.at_least(name)).sum::<u64>() as f64;
    let finding = Finding::new(watched, severity, Scope::peer(netns, ip).by(&silent.owner()), title)
        .confidence(if is_there { 0.75 } else { 0.9 })
        .because(if is_there {
            "The peer answers others, but nothing of these, not even a reset. What stands between has \
             forgotten them (a firewall, a NAT, a load balancer) and drops their segments."
        } else {
            "Data is sent again at ever longer intervals, and neither an ACK nor a reset comes. The \
             connections stay open until TCP gives up, after 15 minutes; idle ones until keepalive does, \
             after 2 hours by default."
        })
        .beyond(watched, came, worst.silence_s(), threshold, limits)
        .with(watched, "timeouts in a row, at most", in_a_row as f64, Unit::Count)
        .with(watched, "connections that wait", count as f64, Unit::Count)
        .with(watched, "connections to the peer", peer.flows.len() as f64, Unit::Count)
        .with(watched, "segments sent again after a timeout", timeouts as f64, Unit::Count)
        .with(watched, "segments not acknowledged", waiting("unacknowledged"), Unit::Count)
        .with(watched, "bytes not sent yet", waiting("unsent_bytes"), Unit::Bytes)
        .ruling_out("a peer that does not read: it would acknowledge the probes of its closed window")
        .ruling_out("a peer whose process ended: its system would send a reset")
        .not_seeing("connections that are idle: they are half open, too, and show it with the next send");
    let finding = if is_reckoned {
        let first = format::duration((worst.first_timeout_s() * 1e9) as u64);
        finding.with(watched, "of that watched", worst.silent_s, Unit::S).not_seeing(format!(
            "when it fell silent: so many timeouts take that long where the first takes {first} and each twice \
             as long as the one before"
        ))
    } else {
        finding
    };
    let finding = if is_there {
        finding
            .advise("compare the idle timeout of what is between with the connections' keepalive time")
            .advise("set keepalive below it: SO_KEEPALIVE with TCP_KEEPIDLE, or net.ipv4.tcp_keepalive_time")
    } else {
        finding
            .advise(format!("see whether {ip} is up, and whether the way to it is (its switch, its route)"))
            .advise("let the clients fail over: a timeout of their own, TCP_USER_TIMEOUT of some seconds")
    };
    Some(
        finding
            .confirm_by(inside(&silent, &ss_of(ip)))
            .confirm_by(inside(&silent, &format!("ping -c 3 {ip}")))
            .confirm_by(events("retransmit", netns, ip)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{stalled::kit::*, tests::check},
        watched::kit,
    };

    /// One that goes silent so many seconds before the end.
    fn silent(seconds: u64) -> Watched {
        kit::series(|second| {
            vec![if second < 10 - seconds { sound("f1") } else { stalled("f1", 200, 0) }]
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &silent(2), None);
        check(&DEFINITION, &silent(3), Some(Severity::Warning));
        check(&DEFINITION, &silent(7), Some(Severity::Warning));
        check(&DEFINITION, &silent(8), Some(Severity::Critical));
    }

    /// Whoever comes late sees one timeout in a minute.
    #[test]
    fn a_connection_in_its_eighth_timeout_is_known_at_once() {
        let late = |in_a_row, received| {
            kit::series(|second| match second {
                9 => vec![stalled("f1", 200, received).count("timeouts_in_a_row", in_a_row)],
                _ => vec![],
            })
        };
        check(&DEFINITION, &late(8, 0), Some(Severity::Warning));
        check(&DEFINITION, &late(5, 0), Some(Severity::Warning));
        check(&DEFINITION, &late(3, 0), None);
        check(&DEFINITION, &late(8, 1), None);
        let twice = kit::series(|second| match second {
            2 | 9 => vec![stalled("f1", 200, 0).count("timeouts_in_a_row", 7 + second / 9)],
            _ => vec![],
        });
        check(&DEFINITION, &twice, Some(Severity::Critical));
    }

    /// What was watched is a time; what was before is told by timeouts, and said to be.
    #[test]
    fn silence_before_the_window_is_said_to_be_reckoned() {
        let late = kit::series(|second| match second {
            9 => vec![stalled("f1", 200, 0).count("timeouts_in_a_row", 8)],
            _ => vec![],
        });
        let found = |watched: &Watched| rule(watched, &Limits::default()).remove(0);
        let reckoned = found(&late);
        assert!(reckoned.title.contains("silent for about 51.0s"), "{}", reckoned.title);
        assert_eq!(reckoned.evidence[0].metric, "nothing came for, by timeouts in a row");
        assert!(reckoned.not_observable.iter().any(|line| line.contains("first takes 200ms")));
        let watched = found(&silent(8));
        assert!(watched.title.contains("silent for 8.00s"), "{}", watched.title);
        assert_eq!(watched.evidence[0].metric, "nothing came for");
        assert_eq!(watched.not_observable.len(), 1);
    }

    /// Seven timeouts take 1.3 s where a route's first one takes 10 ms, and 25 s where it takes 200 ms as by default.
    #[test]
    fn timeouts_of_a_route_of_its_own_are_shorter() {
        let blackout = |first: u64| {
            kit::series(move |second| match second {
                8 => vec![
                    stalled("f1", 200, 0)
                        .count("retransmits.rto", first)
                        .count("timeouts_in_a_row", 6),
                ],
                9 => vec![stalled("f1", 200, 0).count("timeouts_in_a_row", 7)],
                _ => vec![],
            })
        };
        check(&DEFINITION, &blackout(6), None);
        check(&DEFINITION, &blackout(1), Some(Severity::Warning));
    }

    /// Something came that acknowledged nothing.
    #[test]
    fn silence_is_since_something_came_last() {
        let heard_at =
            |at: u64| kit::series(move |second| vec![stalled("f1", 200, u64::from(second == at))]);
        check(&DEFINITION, &heard_at(1), Some(Severity::Critical));
        check(&DEFINITION, &heard_at(2), Some(Severity::Warning));
        check(&DEFINITION, &heard_at(6), Some(Severity::Warning));
        check(&DEFINITION, &heard_at(7), None);
    }

    #[test]
    fn a_peer_that_comes_back_is_well() {
        let watched = kit::series(|second| {
            vec![if second == 9 { sound("f1") } else { stalled("f1", 200, 0) }]
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn a_closed_window_is_answered_and_an_idle_connection_waits_for_nothing() {
        check(&DEFINITION, &kit::watched(&[stalled("f1", 200, 1)]), None);
        let idle = stalled("f1", 0, 0).count("unacknowledged", 0).count("retransmits.rto", 0);
        check(&DEFINITION, &kit::watched(&[idle]), None);
    }

    #[test]
    fn a_connection_alone_that_was_forgotten() {
        let watched = kit::watched(&[stalled("f1", 200, 0), sound("f2")]);
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = rule(&watched, &Limits::default());
        assert!(found[0].title.ends_with("others there is"), "{}", found[0].title);
        // Large segments alone: that is the path's MTU.
        check(&DEFINITION, &kit::watched(&[stalled("f1", 1_448, 0), sound("f2")]), None);
    }

    #[test]
    fn wording() {
        let watched = kit::watched(&["f1", "f2"].map(|id| stalled(id, 1_448, 0)));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
