//! A queue before an interface drops packets.

use std::collections::BTreeMap;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::quoted,
    node::{graded, inside, part},
};
use crate::{
    format,
    snapshot::{Owner, node::Qdisc},
    watched::Watched,
};

const LEAST: Threshold = Threshold {
    name: "drops",
    value: 10.0,
    unit: Unit::Count,
    help: "packets in a window that the queues of an interface dropped, fewer say nothing",
    source: "a burst has a few",
};
const NOTICED: Threshold = Threshold {
    name: "noticed_ratio",
    value: 0.001,
    unit: Unit::Ratio,
    help: "part of its packets, for an info",
    source: "field practice: loss above 0.1 % is worth a look",
};
const RATIO: Threshold = Threshold {
    name: "ratio",
    value: 0.01,
    unit: Unit::Ratio,
    help: "the same",
    source: "field practice: loss above 1 % is bad",
};
const CRITICAL: Threshold = Threshold {
    name: "critical_ratio",
    value: 0.05,
    unit: Unit::Ratio,
    help: "the same, from which on little goes through; a warning where queues drop on purpose",
    source: "Reno's bound MSS/RTT x 1.22/sqrt(p) (Mathis et al. 1997)",
};

/// Kinds that drop a packet now and then on purpose, so that TCP does not fill the queue.
const ON_PURPOSE: [&str; 7] = ["fq_codel", "codel", "cake", "pie", "fq_pie", "red", "gred"];

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "qdisc-drop",
    help: "a queueing discipline of this node drops packets",
    thresholds: &[&LEAST, &NOTICED, &RATIO, &CRITICAL],
    needs: &[],
    parts: &[],
    node: &[Part::Qdiscs],
    exact: &[],
    packets: &[],
    causes: &["interface-saturated"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut interfaces: BTreeMap<_, Vec<Qdisc>> = BTreeMap::new();
    for one in watched.qdiscs() {
        interfaces.entry((one.netns, one.index)).or_default().push(one);
    }
    interfaces.values().filter_map(|all| of_interface(watched, limits, all)).collect()
}

/// What leaves passes the root, which counts what those below it drop, too; what arrives does not.
fn counts(all: &[Qdisc]) -> (u64, u64) {
    let is_apart =
        |one: &&Qdisc| one.parent.is_none() || matches!(&*one.kind, "ingress" | "clsact");
    let roots: Vec<_> = all.iter().filter(is_apart).collect();
    let sum = |of: fn(&Qdisc) -> u64| -> u64 {
        match roots.is_empty() {
            true => all.iter().map(of).sum(),
            false => roots.iter().map(|one| of(one)).sum(),
        }
    };
    let below = all.iter().map(|one| one.drops).max().unwrap_or(0);
    (sum(|one| one.drops).max(below), sum(|one| one.packets))
}

/// Packets of the interface in the whole window: a queue is told of only where something happened to it.
fn passed(watched: &Watched, all: &[Qdisc]) -> u64 {
    let Some(first) = all.first() else { return 0 };
    let arrives = all.iter().all(|one| matches!(&*one.kind, "ingress" | "clsact"));
    let interfaces = watched.intervals.iter().flat_map(|interval| &interval.node.interfaces);
    let here = interfaces.filter(|one| (one.netns, one.index) == (first.netns, first.index));
    here.filter_map(|one| if arrives { one.rx_packets } else { one.tx_packets }).sum()
}

fn of_interface(watched: &Watched, limits: &Limits, all: &[Qdisc]) -> Option<Finding> {
    let (drops, packets) = counts(all);
    let packets = packets.max(passed(watched, all));
    if (drops as f64) < limits.of(&LEAST) {
        return None;
    }
    // The lowest of those that dropped most did it.
    let worst = all.iter().max_by_key(|one| (one.drops, one.parent.is_some()))?;
    let ratio = part(drops, packets);
    let is_on_purpose = ON_PURPOSE.contains(&worst.kind.as_str());
    let steps: &[_] = if is_on_purpose {
        &[(Severity::Warning, &CRITICAL), (Severity::Info, &NOTICED)]
    } else {
        &[(Severity::Critical, &CRITICAL), (Severity::Warning, &RATIO), (Severity::Info, &NOTICED)]
    };
    let (severity, threshold) = graded(ratio, limits, steps)?;
    let name = worst.interface.clone().unwrap_or_else(|| format!("interface {}", worst.index));
    let title = format!(
        "the queue {} of {name} drops {} of its packets",
        worst.kind,
        format::percent(ratio)
    );
    let finding = Finding::new(watched, severity, Scope::interface(worst.netns, &name), title)
        .confidence(0.95)
        .beyond(watched, "packets dropped / all", ratio, threshold, limits)
        .with(watched, "packets dropped", drops as f64, Unit::Count)
        .with(watched, "packets sent", packets as f64, Unit::Count)
        .with(watched, "waiting, at most", worst.backlog_packets as f64, Unit::Count)
        .with(watched, "times a limit held packets back", worst.overlimits as f64, Unit::Count);
    let rate = all.iter().find_map(|one| one.rate_bits);
    Some(advised(finding, watched, worst, &name, rate, is_on_purpose))
}

fn advised(
    finding: Finding,
    watched: &Watched,
    worst: &Qdisc,
    name: &str,
    rate: Option<u64>,
    is_on_purpose: bool,
) -> Finding {
    let finding = match rate {
        Some(bits) => {
            finding.with(watched, "rate that it limits to", bits as f64 / 8.0, Unit::BytesPerSecond)
        }
        None => finding,
    };
    let why = match (worst.kind.as_str(), rate) {
        (_, Some(_)) => {
            "More is sent than the rate that it is limited to; what finds no room in the queue is \
                         dropped before it leaves this node."
        }
        ("netem", _) => "It is there to lose packets: somebody tries out what loss does.",
        ("ingress" | "clsact", _) => {
            "A filter or policer on what arrives drops packets before the kernel's \
                                      TCP sees them."
        }
        _ if is_on_purpose => {
            "It drops packets that waited too long, so that senders slow down. So much of \
                               it means that far more is sent than leaves."
        }
        _ => {
            "More is sent than leaves, and what finds no room in the queue is dropped before it leaves this \
              node."
        }
    };
    let (word, owner) = (quoted(name), Owner::default());
    let command = |command: &str| inside(watched, worst.netns, &owner, command);
    let finding = finding.because(format!("{why} TCP sends it again, and slows down."));
    let finding = match (worst.kind.as_str(), rate) {
        ("netem", _) => finding.advise(format!(
            "take it away where `tc qdisc show` has it at the root: {}",
            command(&format!("tc qdisc del dev {word} root"))
        )),
        (_, Some(bits)) => finding
            .advise("find who sends more than the limit is meant for, and have it pace itself")
            .advise(format!(
                "raise the limit of {:.1} Mbit/s, if the link and the contract allow",
                bits as f64 / 1e6
            ))
            .advise("a longer queue trades loss for waiting: tens of ms of the rate, no more"),
        ("ingress" | "clsact", _) => finding
            .advise("find whose filter or policer it is: a network policy, a rate limit, a CNI")
            .advise("raise its limit, or correct its rule"),
        _ => finding
            .advise("find who sends that much: netdiag live --sort bytes_sent")
            .advise(
                "fq_codel or fq keep flows apart, so that one does not drop the others' packets",
            )
            .advise("a longer queue trades loss for waiting: tens of ms of the rate, no more"),
    };
    let finding = match worst.kind.as_str() {
        "ingress" | "clsact" => {
            let filters = format!("tc -s filter show dev {word} ingress");
            finding.ruling_out("the path: these packets had arrived").confirm_by(command(&filters))
        }
        _ => finding.ruling_out("the path: these packets never left this node"),
    };
    finding
        .not_seeing(
            "which flows the packets belonged to, unless drops are observed with their reasons",
        )
        .confirm_by(command(&format!("tc -s qdisc show dev {word}")))
        .confirm_by(format!("netdiag events --kind drop --netns {}", worst.netns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        watched::kit::{self, NETNS},
    };

    fn qdisc(kind: &str, drops: u64, packets: u64) -> Qdisc {
        Qdisc {
            netns: NETNS,
            index: 2,
            interface: Some("eth0".to_owned()),
            kind: kind.to_owned(),
            handle: "8001:".to_owned(),
            drops,
            packets,
            ..Qdisc::default()
        }
    }

    fn of(kind: &str, drops: u64, packets: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            let once = if second == 0 { drops } else { 0 };
            node.qdiscs.push(qdisc(kind, once, packets / 10));
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of("pfifo_fast", 9, 100), None);
        check(&DEFINITION, &of("pfifo_fast", 10, 90), Some(Severity::Critical));
        check(&DEFINITION, &of("pfifo_fast", 49, 951), Some(Severity::Warning));
        check(&DEFINITION, &of("pfifo_fast", 100, 9_900), Some(Severity::Warning));
        check(&DEFINITION, &of("pfifo_fast", 98, 9_900), Some(Severity::Info));
        check(&DEFINITION, &of("pfifo_fast", 10, 9_990), Some(Severity::Info));
        check(&DEFINITION, &of("pfifo_fast", 10, 10_100), None);
    }

    /// A bulk transfer through such a queue loses a packet now and then, as is meant.
    #[test]
    fn what_drops_on_purpose() {
        check(&DEFINITION, &of("fq_codel", 400, 9_900), Some(Severity::Info));
        check(&DEFINITION, &of("fq_codel", 600, 9_900), Some(Severity::Warning));
    }

    #[test]
    fn a_root_counts_what_those_below_drop() {
        let watched = kit::with_node(&[], |node| {
            node.qdiscs.push(qdisc("htb", 6, 300));
            let parent = Some("8001:1".to_owned());
            node.qdiscs.push(Qdisc { parent, handle: "10:".to_owned(), ..qdisc("pfifo", 6, 300) });
        });
        let found = rule(&watched, &Limits::default()).remove(0);
        assert_eq!(found.title, "the queue pfifo of eth0 drops 2 % of its packets");
    }

    #[test]
    fn wording() {
        let watched = kit::with_node(&[], |node| {
            let one = qdisc("tbf", 100, 200);
            let (rate_bits, overlimits) = (Some(2_000_000), 300);
            node.qdiscs.push(Qdisc { rate_bits, overlimits, backlog_packets: 9, ..one });
        });
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
