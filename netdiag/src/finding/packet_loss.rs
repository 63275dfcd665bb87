//! Segments to a peer get lost.

use std::collections::BTreeMap;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{events, inside, sent_again, ss_of},
    stalled::{hangs_on, is_too_large},
};
use crate::{
    format,
    watched::{Group, Peer, Sums, Watched},
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
const LEAST_SECONDS: Threshold = Threshold {
    name: "least_seconds",
    value: 6.0,
    unit: Unit::Count,
    help: "seconds of a window with loss, for a warning; half of the intervals where these are fewer",
    source: "a batch that fills a queue for some seconds, or a switch that starts anew, is no lossy path",
};
/// Data segments from which on a peer counts among those that could lose some: of fewer [`LOSS_RATIO`] is not even one.
pub(super) const BUSY: u64 = 100;
/// Peers with loss that have a reason in common where they are more than half of the busy ones: if each path lost by
/// itself, and as likely as not, so many in a row would be one in 2^5.
const MANY: usize = 5;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "packet-loss",
    help: "segments to a peer get lost on the way",
    thresholds: &[&LOSS_RATIO, &NOTICED_RATIO, &CRITICAL_RATIO, &LEAST_LOST, &LEAST_SECONDS],
    needs: &[Signal::Retransmit],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[Packets::of("retransmits.rto"), Packets::of("retransmits.fast")],
    causes: &[
        "pmtu-black-hole",
        "half-open-peer",
        "qdisc-drop",
        "interface-errors",
        "firewall-drop",
        "softnet-drop",
        "interface-saturated",
        "tcp-memory-pressure",
        "bufferbloat",
        "reordering",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    let losses = peers.iter().filter_map(|(&peer, group)| Loss::of(watched, limits, peer, group));
    let mut by_netns: BTreeMap<Option<u32>, Vec<Loss<'_>>> = BTreeMap::new();
    losses.for_each(|loss| by_netns.entry(loss.peer.0).or_default().push(loss));
    let mut found = Vec::new();
    for (netns, losses) in by_netns {
        let busy = |(peer, group): &(&Peer, &Group<'_>)| {
            peer.0 == netns && sent(&group.sums).is_some_and(|sent| sent >= BUSY)
        };
        let busy = peers.iter().filter(busy).count();
        let bad = losses.iter().filter(|loss| loss.severity > Severity::Info).count();
        match netns {
            Some(netns) if bad >= MANY && bad * 2 > busy => {
                found.push(of_many(watched, limits, netns, &losses));
            }
            _ => found.extend(losses.iter().map(|loss| loss.told(watched, limits))),
        }
    }
    found
}

/// Segments that could be lost; those without data count where nobody tells them apart.
pub(super) fn sent(sums: &Sums) -> Option<u64> {
    sums.count("data_segments_sent").or(sums.count("segments_sent"))
}

/// Segments that were lost of those that connections sent again: none of those that the peer had already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// If all that the peer had twice were of these.
    least: u64,
    /// If as many as can be were tail-loss probes, which may answer nothing but a late ACK and do not count.
    pub(super) most: u64,
}

impl Lost {
    /// By connection: what one had twice is not another one's. None where none tells.
    pub(super) fn of(group: &Group<'_>) -> Option<Self> {
        let each = group.flows.iter().filter_map(|flow| {
            let sums = &flow.sums;
            let again = sent_again(sums)?;
            let (probes, twice) = (sums.at_least("retransmits.tlp"), sums.at_least("dsacks"));
            let most = again.min(again.saturating_add(probes).saturating_sub(twice));
            Some(Self { least: again.saturating_sub(twice), most })
        });
        each.reduce(|one, other| Self {
            least: one.least.saturating_add(other.least),
            most: one.most.saturating_add(other.most),
        })
    }
}

/// What is lost on the way to a peer.
struct Loss<'a> {
    peer: Peer,
    group: Group<'a>,
    lost: Lost,
    sent: u64,
    severity: Severity,
    threshold: &'static Threshold,
}

impl<'a> Loss<'a> {
    /// Connections that hang in the end, or with large segments alone, have another reason.
    fn of(watched: &Watched, limits: &Limits, peer: Peer, group: &Group<'a>) -> Option<Self> {
        let group = group.only(|flow| !hangs_on(flow) && !is_too_large(flow, group))?;
        let sums = &group.sums;
        let sent = sent(sums)?;
        let lost = Lost::of(&group)?;
        let ratio = lost.most as f64 / sent.max(1) as f64;
        // Where nothing arrives at all there is no path that loses some.
        let arrives = sums.count("delivered").is_none_or(|delivered| delivered > 0);
        let is_enough = lost.most as f64 >= limits.of(&LEAST_LOST);
        if !is_enough || ratio < limits.of(&NOTICED_RATIO) || !arrives {
            return None;
        }
        let seconds = f64::from(group.seconds(|course| course.lost).count());
        let is_sustained = seconds >= watched.lasting(limits.of(&LEAST_SECONDS));
        // As much as that is only late.
        let is_late = sums.at_least("reordering") >= lost.most;
        let (severity, threshold) = match ratio {
            ratio if ratio < limits.of(&LOSS_RATIO) => (Severity::Info, &NOTICED_RATIO),
            _ if is_late || !is_sustained => (Severity::Info, &NOTICED_RATIO),
            ratio if ratio >= limits.of(&CRITICAL_RATIO) => (Severity::Critical, &CRITICAL_RATIO),
            _ => (Severity::Warning, &LOSS_RATIO),
        };
        Some(Self { peer, group, lost, sent, severity, threshold })
    }

    fn ratio(&self) -> f64 {
        self.lost.most as f64 / self.sent.max(1) as f64
    }

    fn told(&self, watched: &Watched, limits: &Limits) -> Finding {
        let (netns, ip) = self.peer;
        let title = format!("{} of the segments to {ip} are lost", format::percent(self.ratio()));
        let finding = evidence(watched, limits, Scope::peer(netns, ip), title, self);
        let finding = ruled(finding, self);
        let finding = if self.group.is_local() {
            finding.advise(
                "both ends are on this node, so it loses them itself: netdiag events --kind drop --stack",
            )
        } else {
            finding
                .advise("look for drops on this node's side first: netdiag events --kind drop, tc -s qdisc, ip -s link")
                .advise(format!("find the hop that loses: mtr -T -P PORT {ip}; loss must go on to the last hop"))
                .advise("loss to one peer alone is its path or its receive side")
        };
        finding.confirm_by(inside(&self.group, &ss_of(ip))).confirm_by(events(
            "retransmit",
            netns,
            ip,
        ))
    }
}

fn evidence(
    watched: &Watched,
    limits: &Limits,
    scope: Scope,
    title: String,
    loss: &Loss<'_>,
) -> Finding {
    let sums = &loss.group.sums;
    let seconds = f64::from(loss.group.seconds(|course| course.lost).count());
    Finding::new(watched, loss.severity, scope, title)
        .confidence(match loss.lost {
            Lost { least, most } if least < most.div_ceil(2) => 0.7,
            Lost { most: 20.., .. } => 0.95,
            _ => 0.8,
        })
        .because(
            "TCP had to send them again, and the peer did not have them. Each loss holds up what is behind \
             it, and shrinks the congestion window.",
        )
        .beyond(watched, "segments lost / sent", loss.ratio(), loss.threshold, limits)
        .beyond(watched, "seconds with loss", seconds, &LEAST_SECONDS, limits)
        .with(watched, "sent again after a timeout", sums.at_least("retransmits.rto") as f64, Unit::Count)
        .with(watched, "sent again at once (fast)", sums.at_least("retransmits.fast") as f64, Unit::Count)
        .with(watched, "data segments sent", loss.sent as f64, Unit::Count)
}

/// Many peers at once have one thing in common: this end.
fn of_many(watched: &Watched, limits: &Limits, netns: u32, losses: &[Loss<'_>]) -> Finding {
    let worst = |one: &&Loss<'_>, other: &&Loss<'_>| one.ratio().total_cmp(&other.ratio());
    let bad = losses.iter().filter(|loss| loss.severity > Severity::Info);
    let count = bad.clone().count();
    let worst = bad.max_by(worst).expect("there are many");
    let title = format!(
        "segments to {count} peers are lost, {} of those to {}",
        format::percent(worst.ratio()),
        worst.peer.1
    );
    let finding = evidence(watched, limits, Scope::namespace(netns), title, worst)
        .with(watched, "peers to which segments are lost", count as f64, Unit::Count)
        .advise("most peers have it, so it is here or at this node's uplink: ip -s link, tc -s qdisc, ethtool -S")
        .confirm_by(inside(&worst.group, "nstat -az TcpRetransSegs TcpOutSegs"))
        .confirm_by(format!("netdiag events --kind drop --stack --netns {netns}"));
    ruled(finding, worst)
}

fn ruled(finding: Finding, loss: &Loss<'_>) -> Finding {
    let sums = &loss.group.sums;
    let Lost { least, most } = loss.lost;
    let finding = match sums.count("dsacks") {
        Some(twice) => finding.ruling_out(format!(
            "sent again for nothing: the peer told of {twice} segments that it got twice, they do not count"
        )),
        None => finding.not_seeing(
            "segments sent again for nothing: nobody tells what the peer got twice (the signal `socket`)",
        ),
    };
    let finding = if least < most {
        finding.not_seeing(format!(
            "which ones the peer got twice: if they were no tail-loss probes, {least} were lost and not {most}"
        ))
    } else {
        finding
    };
    match sums.count("reordering") {
        Some(0) => finding.ruling_out("reordering: no ACK showed a segment overtaking another one"),
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{
            stalled::kit::{sound, stalled},
            tests::check,
        },
        snapshot::Flow,
        watched::kit,
    };

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
    fn a_few_segments_say_nothing() {
        let few = |lost| {
            let flow = kit::flow("f1").count("data_segments_sent", 100);
            kit::once([flow.count("retransmits.rto", 0).count("retransmits.fast", lost)])
        };
        check(&DEFINITION, &few(4), None);
        check(&DEFINITION, &few(5), Some(Severity::Info));
    }

    /// A connection that sends so many segments at once again and so many as probes, of which the peer has so many.
    fn doubtful(id: &str, fast: u64, probes: u64, twice: u64) -> Flow {
        kit::flow(id)
            .count("data_segments_sent", 1_000)
            .count("delivered", 1_000)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", fast)
            .count("retransmits.tlp", probes)
            .count("dsacks", twice)
    }

    #[test]
    fn what_the_peer_has_twice_or_a_probe_is_no_loss() {
        let check_of =
            |flows: &[Flow], expected| check(&DEFINITION, &kit::watched(flows), expected);
        check_of(&[doubtful("f1", 0, 500, 0)], None);
        check_of(&[doubtful("f1", 50, 0, 50)], None);
        check_of(&[doubtful("f1", 50, 50, 100)], None);
        check_of(&[doubtful("f1", 50, 0, 0)], Some(Severity::Critical));
        check_of(&[doubtful("f1", 50, 0, 1)], Some(Severity::Warning));
        // Probes for nothing beside losses.
        check_of(&[doubtful("f1", 100, 120, 120)], Some(Severity::Critical));
        check_of(&[doubtful("f1", 50, 120, 121)], Some(Severity::Warning));
        // Probes of one connection are none of another.
        check_of(&[doubtful("f1", 50, 0, 50), doubtful("f2", 0, 50, 0)], None);
    }

    #[test]
    fn doubts_are_said() {
        let told = |flow: Flow| rule(&kit::watched(&[flow]), &Limits::default()).remove(0);
        let doubts = |flow| told(flow).not_observable.join("; ");
        assert_eq!(doubts(doubtful("f1", 50, 0, 0)), "");
        assert_eq!(
            doubts(doubtful("f1", 50, 30, 30)),
            "which ones the peer got twice: if they were no tail-loss probes, 200 were lost and not 500"
        );
        let sure = |flow| told(flow).confidence;
        assert_eq!([25, 26].map(|twice| sure(doubtful("f1", 50, 30, twice))), [0.95, 0.7]);
        let mut blind = doubtful("f1", 50, 0, 0);
        blind.counts.remove("dsacks");
        assert!(doubts(blind.clone()).contains("nobody tells"));
        assert!(told(blind).ruled_out.iter().all(|line| !line.contains("twice")));
    }

    #[test]
    fn a_few_seconds_are_an_accident() {
        let lossy = |seconds: u64| {
            kit::series(|second| {
                let lost = if second < seconds { 20 } else { 0 };
                vec![
                    kit::flow("f1")
                        .count("data_segments_sent", 100)
                        .count("retransmits.rto", 0)
                        .count("retransmits.fast", lost),
                ]
            })
        };
        check(&DEFINITION, &lossy(4), Some(Severity::Info));
        check(&DEFINITION, &lossy(5), Some(Severity::Critical));
    }

    /// Of a longer window half of the intervals are more than that.
    #[test]
    fn six_seconds_are_no_accident() {
        let lossy = |seconds: u64| {
            let mut watched = Watched::default();
            for second in 0..20 {
                let lost = if second < seconds { 10 } else { 0 };
                let flow = kit::flow("f1").count("data_segments_sent", 100);
                let flow = flow.count("retransmits.rto", 0).count("retransmits.fast", lost);
                watched.take(&kit::snapshot(second, vec![flow]));
            }
            watched
        };
        check(&DEFINITION, &lossy(5), Some(Severity::Info));
        check(&DEFINITION, &lossy(6), Some(Severity::Warning));
    }

    #[test]
    fn reordering_and_connections_that_hang_are_no_loss() {
        let late = |times| {
            kit::flow("f1")
                .count("data_segments_sent", 1_000)
                .count("reordering", times)
                .count("retransmits.rto", 0)
                .count("retransmits.fast", 20)
        };
        check(&DEFINITION, &kit::watched(&[late(19)]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[late(20)]), Some(Severity::Info));
        let hangs = stalled("f2", 1_448, 0);
        check(&DEFINITION, &kit::watched(&[hangs.clone(), sound("f1")]), None);
        check(&DEFINITION, &kit::watched(&[hangs]), None);
    }

    /// Where much is lost each connection hangs now and then.
    #[test]
    fn who_got_over_it_counts() {
        let mut watched = Watched::default();
        for second in 0..12 {
            let hangs = second % 6 < 4;
            let acked = if hangs { 0 } else { 20 };
            let flow = stalled("f1", 300, 3)
                .count("bytes_acked", acked * 300)
                .count("delivered", acked)
                .count("unacknowledged", 4)
                .count("data_segments_sent", acked + 1);
            watched.take(&kit::snapshot(second, vec![flow]));
        }
        check(&DEFINITION, &watched, Some(Severity::Critical));
    }

    #[test]
    fn loss_to_most_peers_is_this_end() {
        let peers = |lossy: u64, sound: u64| {
            let one = |n: u64| {
                let lost = if n < lossy { 20 } else { 0 };
                kit::flow(&format!("f{n}"))
                    .to(&format!("10.0.1.{n}"), 443)
                    .count("data_segments_sent", 1_000)
                    .count("retransmits.rto", 0)
                    .count("retransmits.fast", lost)
            };
            let watched = kit::watched(&(0..lossy + sound).map(one).collect::<Vec<_>>());
            rule(&watched, &Limits::default()).len()
        };
        assert_eq!((peers(4, 0), peers(5, 4), peers(5, 5)), (4, 1, 5));
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(20, 1_000)));
    }
}
