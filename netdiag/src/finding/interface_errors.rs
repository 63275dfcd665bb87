//! An interface damages packets, has no room for them, or loses its link.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::quoted,
    node::{LINK_GOES, graded, inside, part},
};
use crate::{
    snapshot::{Owner, node::Interface},
    watched::Watched,
};

const LEAST: Threshold = Threshold {
    name: "errors",
    value: 10.0,
    unit: Unit::Count,
    help: "packets in a window that an interface damaged or had no room for, for an info",
    source: "healthy links have none; a few are an accident",
};
const RATIO: Threshold = Threshold {
    name: "ratio",
    value: 0.0001,
    unit: Unit::Ratio,
    help: "part of its packets",
    source: "Ethernet promises a bit error in 10^12: a damaged packet of millions at most",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 0.01,
    unit: Unit::Ratio,
    help: "the same, from which on connections crawl",
    source: "field practice: loss above 1 % is bad",
};
const FLAPS: Threshold = Threshold {
    name: "flaps",
    value: 2.0,
    unit: Unit::Count,
    help: "times in a window that the link of a network card came or went",
    source: "out and in again: once is enough to lose seconds",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "interface-errors",
    help: "an interface damages packets, has no room for them, or loses its link",
    thresholds: &[&LEAST, &RATIO, &CRITICAL, &FLAPS],
    needs: &[],
    parts: &[],
    node: &[Part::Interfaces],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let interfaces = watched.interfaces();
    interfaces.values().filter_map(|one| of_interface(watched, limits, one)).collect()
}

fn of_interface(watched: &Watched, limits: &Limits, one: &Interface) -> Option<Finding> {
    let known = |count: Option<u64>| count.unwrap_or(0);
    let (rx, tx) = (known(one.rx_errors), known(one.tx_errors));
    let missed = known(one.rx_missed);
    let errors = rx + tx + missed;
    let passed = known(one.rx_packets) + known(one.tx_packets);
    let ratio = part(errors, passed);
    let is_card = one.kind.is_none() && !one.loopback;
    let flaps = if is_card { known(one.carrier_changes) } else { 0 };
    let flapping = graded(flaps as f64, limits, &[(Severity::Warning, &FLAPS)]);
    let steps = [(Severity::Critical, &CRITICAL), (Severity::Warning, &RATIO)];
    let failing = (errors as f64 >= limits.of(&LEAST))
        .then(|| graded(ratio, limits, &steps).unwrap_or((Severity::Info, &LEAST)));
    let severity = failing.into_iter().chain(flapping).map(|(severity, _)| severity).max()?;
    let title = match failing {
        None => format!("the link of {} comes and goes: {flaps} times", one.name),
        Some(_) if missed > rx + tx => {
            format!("{} has no room for packets that arrive: {missed} were lost", one.name)
        }
        Some(_) if tx > rx => format!("{} cannot send {tx} packets", one.name),
        Some(_) => format!("{} received {rx} damaged packets", one.name),
    };
    let finding = Finding::new(watched, severity, Scope::interface(one.netns, &one.name), title)
        .confidence(0.95);
    let finding = match failing {
        Some((_, &LEAST)) => finding.beyond(watched, "errors", errors as f64, &LEAST, limits),
        Some((_, threshold)) => finding
            .beyond(watched, "errors / packets", ratio, threshold, limits)
            .with(watched, "errors", errors as f64, Unit::Count),
        None => finding,
    };
    let finding = match flapping {
        Some(_) => finding.beyond(watched, "link came or went", flaps as f64, &FLAPS, limits),
        None => finding,
    };
    Some(advised(told(finding, watched, one), watched, one, is_card))
}

fn told(finding: Finding, watched: &Watched, one: &Interface) -> Finding {
    let kinds = [
        ("received damaged", one.rx_errors),
        ("with a wrong checksum of the link", one.rx_crc_errors),
        ("lost for want of room in the card", one.rx_missed),
        ("overran the card's queue", one.rx_overruns),
        ("not sent", one.tx_errors),
        ("not sent for want of a link", one.tx_carrier_errors),
        ("packets received", one.rx_packets),
        ("packets sent", one.tx_packets),
    ];
    // Of kinds only those that happened; what passed always.
    let told =
        kinds.into_iter().enumerate().filter(|(at, (_, n))| *at >= 6 || n.is_some_and(|n| n > 0));
    told.fold(finding, |finding, (_, (metric, n))| match n {
        Some(n) => finding.with(watched, metric, n as f64, Unit::Count),
        None => finding,
    })
}

fn advised(finding: Finding, watched: &Watched, one: &Interface, is_card: bool) -> Finding {
    let word = quoted(&one.name);
    let damaged = one.rx_crc_errors.or(one.rx_errors).unwrap_or(0);
    let missed = one.rx_missed.unwrap_or(0) + one.rx_overruns.unwrap_or(0);
    let finding = match &one.kind {
        Some(kind) => finding
            .because(format!(
                "A {kind} interface counts as errors what it could not take apart or send on. TCP sends \
                 again what is lost, and slows down."
            ))
            .advise("look at the other end and at the network below it: versions, keys, encapsulation, ECN"),
        None if missed > damaged => finding
            .because(
                "The card has packets faster than the node takes them out of its ring: bursts, a ring that is \
                 short, or CPUs that are busy. TCP sends them again, and slows down.",
            )
            .advise("spread queues over CPUs (RSS, irqbalance), look for CPUs that are starved")
            .advise(format!(
                "a longer ring, where the card is: ethtool -g {word}, then ethtool -G {word} rx N; {LINK_GOES}"
            )),
        None => finding
            .because(
                "Damage on a link is a cable, a plug, an optic or a port. TCP sends again what is lost, and \
                 slows down; all peers behind it are hit alike.",
            )
            .advise("change the cable or optic, then the port; compare with the counters of the switch's port")
            .advise(format!("check that both ends agree on speed and duplex: ethtool {word}")),
    };
    let owner = Owner::default();
    let finding = finding.confirm_by(inside(
        watched,
        one.netns,
        &owner,
        &format!("ip -s -s link show dev {word}"),
    ));
    if is_card {
        finding.confirm_by(inside(watched, one.netns, &owner, &format!("ethtool -S {word}")))
    } else {
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        watched::kit::{self, NETNS},
    };

    /// A card that does this in the first second.
    fn of(change: impl Fn(&mut Interface)) -> Watched {
        kit::with_nodes(&[], |second, node| {
            let mut one = Interface {
                netns: NETNS,
                index: 2,
                name: "eth0".to_owned(),
                up: true,
                rx_packets: Some(100_000),
                tx_packets: Some(0),
                rx_errors: Some(0),
                ..Interface::default()
            };
            if second == 0 {
                change(&mut one);
            }
            node.interfaces.push(one);
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(|one| one.rx_errors = Some(9)), None);
        check(&DEFINITION, &of(|one| one.rx_errors = Some(10)), Some(Severity::Info));
        check(&DEFINITION, &of(|one| one.rx_errors = Some(100)), Some(Severity::Info));
        check(&DEFINITION, &of(|one| one.rx_errors = Some(101)), Some(Severity::Warning));
        check(&DEFINITION, &of(|one| one.tx_errors = Some(10_101)), Some(Severity::Warning));
        check(&DEFINITION, &of(|one| one.tx_errors = Some(10_102)), Some(Severity::Critical));
        check(&DEFINITION, &of(|one| one.carrier_changes = Some(1)), None);
        check(&DEFINITION, &of(|one| one.carrier_changes = Some(2)), Some(Severity::Warning));
    }

    /// What nobody wanted is no error, and links of virtual interfaces come and go with their ends.
    #[test]
    fn what_is_no_error() {
        check(
            &DEFINITION,
            &of(|one| {
                one.rx_dropped = Some(50_000);
                one.rx_nohandler = Some(50_000);
            }),
            None,
        );
        let watched = kit::with_node(&[], |node| {
            let kind = Some("veth".to_owned());
            let one =
                Interface { netns: NETNS, kind, carrier_changes: Some(4), ..Interface::default() };
            node.interfaces.push(one);
        });
        check(&DEFINITION, &watched, None);
    }

    /// Who follows advice from afar must know what it does to the way there.
    #[test]
    fn a_ring_that_changes_takes_the_link_down() {
        let watched = of(|one| one.rx_missed = Some(4_000));
        let advice = rule(&watched, &Limits::default()).remove(0).advice;
        let ring = advice.iter().find(|line| line.contains("ethtool -G")).expect("advice");
        assert!(ring.ends_with(LINK_GOES), "{ring}");
    }

    #[test]
    fn wording() {
        let watched = of(|one| {
            one.rx_errors = Some(4_000);
            one.rx_crc_errors = Some(4_000);
        });
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
