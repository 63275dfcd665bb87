//! Segments to a peer get lost.

use netdiag_common::signal::Signal;

use super::{Definition, Finding, Limits, Scope, Severity, Threshold, Unit, advice::ss_of};
use crate::{
    format,
    watched::{Group, Peer, Watched},
};

const LOSS_RATIO: Threshold = Threshold {
    name: "loss_ratio",
    value: 0.01,
    unit: Unit::Ratio,
    help: "segments lost of data segments sent to a peer",
    source: "field practice: above 1 % sustained is bad, 0.1 % worth a look",
};
const NOTICED_RATIO: Threshold = Threshold {
    name: "noticed_ratio",
    value: 0.001,
    unit: Unit::Ratio,
    help: "the same, for an info",
    source: "field practice: above 0.1 % worth a look",
};
const CRITICAL_RATIO: Threshold = Threshold {
    name: "critical_ratio",
    value: 0.05,
    unit: Unit::Ratio,
    help: "the same, from which on little goes through",
    source: "Reno's bound MSS/RTT x 1.22/sqrt(p) (Mathis et al. 1997): a tenth of that at 0.05 %",
};
const LEAST_LOST: Threshold = Threshold {
    name: "least_lost",
    value: 5.0,
    unit: Unit::Count,
    help: "segments lost in a window, fewer say nothing",
    source: "one accident has at most a few segments",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "packet-loss",
    help: "segments to a peer get lost on the way",
    thresholds: &[&LOSS_RATIO, &NOTICED_RATIO, &CRITICAL_RATIO, &LEAST_LOST],
    needs: &[Signal::Retransmit],
    exact: &[],
    causes: &[
        "pmtu-black-hole",
        "half-open-peer",
        "peer-unreachable",
        "qdisc-drop",
        "interface-errors",
        "firewall-drop",
        "softnet-drop",
        "bufferbloat",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    peers.iter().filter_map(|(peer, group)| of_peer(watched, limits, *peer, group)).collect()
}

/// A tail-loss probe may be an answer to nothing but a late ACK, and what the peer got twice was not lost.
fn of_peer(watched: &Watched, limits: &Limits, peer: Peer, group: &Group<'_>) -> Option<Finding> {
    let sums = &group.sums;
    let sent = sums.count("data_segments_sent").or(sums.count("segments_sent"))?;
    let again = sums.count("retransmits.rto")? + sums.count("retransmits.fast")?;
    let twice = sums.at_least("dsacks");
    let lost = again.saturating_sub(twice);
    let ratio = lost as f64 / sent.max(1) as f64;
    // Where nothing arrives at all there is no path that loses some.
    let arrives = sums.count("delivered").is_none_or(|delivered| delivered > 0);
    if (lost as f64) < limits.of(&LEAST_LOST) || ratio < limits.of(&NOTICED_RATIO) || !arrives {
        return None;
    }
    let (severity, threshold) = match ratio {
        ratio if ratio >= limits.of(&CRITICAL_RATIO) => (Severity::Critical, &CRITICAL_RATIO),
        ratio if ratio >= limits.of(&LOSS_RATIO) => (Severity::Warning, &LOSS_RATIO),
        _ => (Severity::Info, &NOTICED_RATIO),
    };
    let (netns, ip) = peer;
    let title = format!("{} of the segments to {ip} are lost", format::percent(ratio));
    let finding = Finding::new(watched, severity, Scope::peer(netns, ip), title)
        .confidence(if lost >= 20 { 0.95 } else { 0.8 })
        .because(
            "TCP had to send them again, and the peer did not have them. Each loss holds up what is behind \
             it, and shrinks the congestion window.",
        )
        .beyond(watched, "segments lost / sent", ratio, threshold, limits)
        .with(watched, "segments sent again after a timeout", sums.at_least("retransmits.rto") as f64, Unit::Count)
        .with(watched, "segments sent again at once (fast)", sums.at_least("retransmits.fast") as f64, Unit::Count)
        .with(watched, "data segments sent", sent as f64, Unit::Count)
        .advise("look for drops on this node's side first: netdiag events --kind drop, tc -s qdisc, ip -s link")
        .advise(format!("find the hop that loses: mtr -T -P PORT {ip}; loss must go on to the last hop"))
        .advise("loss to many peers is this node or its uplink, loss to one is its path or its receive side")
        .confirm_by(ss_of(ip))
        .confirm_by(format!("netdiag events --kind retransmit --peer {ip}"));
    Some(ruled(finding, twice, sums.count("reordering")))
}

fn ruled(finding: Finding, twice: u64, reordering: Option<u64>) -> Finding {
    let finding = finding.ruling_out(format!(
        "sent again for nothing: the peer told of {twice} segments that it got twice, they do not count"
    ));
    match reordering {
        Some(0) => finding.ruling_out("reordering: no ACK showed a segment overtaking another one"),
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, watched::kit};

    fn of(lost: u64, sent: u64) -> Watched {
        kit::watched(&[kit::flow("f1")
            .count("data_segments_sent", sent)
            .count("delivered", sent - lost)
            .count("dsacks", 0)
            .count("reordering", 0)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", lost)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(10, 1_000), Some(Severity::Warning));
        check(&DEFINITION, &of(9, 1_000), Some(Severity::Info));
        check(&DEFINITION, &of(50, 1_000), Some(Severity::Critical));
        check(&DEFINITION, &of(49, 1_000), Some(Severity::Warning));
        check(&DEFINITION, &of(1, 1_001), None);
    }

    #[test]
    fn what_the_peer_has_twice_or_a_probe_is_no_loss() {
        let flow = kit::flow("f1")
            .count("data_segments_sent", 1_000)
            .count("delivered", 1_000)
            .count("retransmits.rto", 0)
            .count("retransmits.tlp", 50)
            .count("retransmits.fast", 50);
        check(&DEFINITION, &kit::watched(std::slice::from_ref(&flow)), Some(Severity::Critical));
        check(&DEFINITION, &kit::watched(&[flow.count("dsacks", 50)]), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(20, 1_000)));
    }
}
