//! Segments to a peer overtake each other.

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{LOSS_UNTOLD, events, inside, sent_again, ss_of},
    packet_loss::sent,
};
use crate::{
    format,
    watched::{Group, Peer, Watched},
};

const RATIO: Threshold = Threshold {
    name: "ratio",
    value: 0.005,
    unit: Unit::Ratio,
    help: "times that segments overtook others, of data segments sent to a peer",
    source: "below, TCP's tolerance (RACK, RFC 8985) makes up for it",
};
const NOTICED: Threshold = Threshold {
    name: "noticed_ratio",
    value: 0.001,
    unit: Unit::Ratio,
    help: "the same, for an info",
    source: "a path with a fixed route keeps the order",
};
const LEAST: Threshold = Threshold {
    name: "least_reorderings",
    value: 10.0,
    unit: Unit::Count,
    help: "times that segments overtook others in a window, fewer say nothing",
    source: "a change of route may do it once",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "reordering",
    help: "segments to a peer overtake each other, and TCP takes them for lost",
    thresholds: &[&RATIO, &NOTICED, &LEAST],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[],
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
    group: &Group<'_>,
) -> Option<Finding> {
    let sums = &group.sums;
    let overtaken = sums.count("reordering")?;
    let sent = sent(sums)?;
    let ratio = overtaken as f64 / sent.max(1) as f64;
    if (overtaken as f64) < limits.of(&LEAST) || ratio < limits.of(&NOTICED) {
        return None;
    }
    let (severity, threshold) = if ratio >= limits.of(&RATIO) {
        (Severity::Warning, &RATIO)
    } else {
        (Severity::Info, &NOTICED)
    };
    let title =
        format!("{} of the segments to {ip} arrive behind later ones", format::percent(ratio));
    let finding = Finding::new(watched, severity, Scope::peer(netns, ip), title)
        .because(
            "The peer's ACKs show segments overtaking others that were not sent again. TCP takes late \
             ones for lost: it sends them again for nothing and shrinks its congestion window.",
        )
        .beyond(watched, "reorderings / sent", ratio, threshold, limits)
        .with(watched, "reorderings", overtaken as f64, Unit::Count);
    let finding = match sent_again(sums).zip(sums.count("dsacks")) {
        Some((again, twice)) => finding
            .with(watched, "segments sent again", again as f64, Unit::Count)
            .with(watched, "of these the peer had twice (DSACK)", twice as f64, Unit::Count)
            .ruling_out(format!(
                "loss of them all: of {again} segments that were sent again the peer had {} already",
                twice.min(again)
            )),
        None => finding.not_seeing(LOSS_UNTOLD),
    };
    Some(
        finding
            .with(watched, "data segments sent", sent as f64, Unit::Count)
            .not_seeing("the order of what this node receives: it may be late or lost")
            .advise("look for links in parallel that split one connection: bonding in mode balance-rr")
            .advise("per-packet balancing in a router, a path that flaps, or a retrying radio link do it, too")
            .advise("net.ipv4.tcp_recovery must have RACK on (1); only then raise net.ipv4.tcp_reordering")
            .confirm_by(inside(group, "nstat -az TcpExtTCPSACKReorder TcpExtTCPDSACKRecv"))
            .confirm_by(inside(group, &ss_of(ip)))
            .confirm_by(events("retransmit", netns, ip)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::{check, of_loss},
        watched::kit,
    };

    fn of(overtaken: u64, sent: u64) -> Watched {
        kit::watched(&[kit::flow("f1")
            .count("data_segments_sent", sent)
            .count("reordering", overtaken)
            .count("dsacks", overtaken)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", overtaken)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(5, 1_000), Some(Severity::Warning));
        check(&DEFINITION, &of(5, 1_001), Some(Severity::Info));
        check(&DEFINITION, &of(1, 1_000), Some(Severity::Info));
        check(&DEFINITION, &of(1, 1_001), None);
        let few = |n| {
            kit::series(|second| {
                vec![
                    kit::flow("f1")
                        .count("data_segments_sent", 10)
                        .count("reordering", u64::from(second < n)),
                ]
            })
        };
        check(&DEFINITION, &few(9), None);
        check(&DEFINITION, &few(10), Some(Severity::Warning));
    }

    #[test]
    fn loss_that_nobody_tells_of_is_not_ruled_out() {
        assert_eq!(of_loss(&DEFINITION, &of(20, 1_000)), (true, false));
        let flow = kit::flow("f1").count("data_segments_sent", 100).count("reordering", 5);
        let watched = kit::watched(&[flow.count("dsacks", 5)]);
        assert_eq!(of_loss(&DEFINITION, &watched), (false, true));
    }

    #[test]
    fn loss_is_none() {
        let lossy =
            kit::flow("f1").count("data_segments_sent", 1_000).count("retransmits.fast", 50);
        check(&DEFINITION, &kit::watched(std::slice::from_ref(&lossy)), None);
        check(&DEFINITION, &kit::watched(&[lossy.count("reordering", 0)]), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(20, 1_000)));
    }
}
