//! An interface carries all that its link can.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, advice::quoted,
    node::inside,
};
use crate::{
    format,
    snapshot::{Owner, node::Interface},
    watched::Watched,
};

const USE: Threshold = Threshold {
    name: "use",
    value: 0.9,
    unit: Unit::Ratio,
    help: "part of its link's speed that an interface carries in one direction",
    source: "queues grow without end towards full use; headers and gaps make up the rest",
};
const SECONDS: Threshold = Threshold {
    name: "seconds",
    value: 5.0,
    unit: Unit::S,
    help: "how long it does so in a window",
    source: "shorter is a burst, which links are for",
};

/// Preamble, frame check sequence and the gap after each frame of Ethernet (IEEE 802.3), which interfaces
/// do not count.
const AROUND: u64 = 24;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "interface-saturated",
    help: "an interface carries all that its link can",
    thresholds: &[&USE, &SECONDS],
    needs: &[],
    parts: &[],
    node: &[Part::Interfaces, Part::Speeds],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let interfaces = watched.interfaces();
    interfaces.values().filter_map(|one| of_interface(watched, limits, one)).collect()
}

/// How busy one direction was.
struct Way {
    name: &'static str,
    /// Seconds at the limit.
    full: f64,
    /// Part of the speed in these, at most.
    most: f64,
    bytes: u64,
    packets: u64,
}

impl Way {
    const fn new(name: &'static str) -> Self {
        Self { name, full: 0.0, most: 0.0, bytes: 0, packets: 0 }
    }

    fn take(&mut self, told: (Option<u64>, Option<u64>), speed: u64, seconds: f64, least: f64) {
        let (Some(bytes), Some(packets)) = told else { return };
        let part = (bytes + packets * AROUND) as f64 * 8.0 / seconds / speed as f64;
        self.most = self.most.max(part);
        self.bytes += bytes;
        self.packets += packets;
        if part >= least {
            self.full += seconds;
        }
    }
}

fn of_interface(watched: &Watched, limits: &Limits, one: &Interface) -> Option<Finding> {
    let speed = one.speed_bits.filter(|speed| *speed > 0)?;
    let mut ways = [Way::new("sends"), Way::new("receives")];
    for interval in watched.intervals.iter().filter(|interval| interval.seconds > 0.0) {
        let here = |other: &&Interface| (other.netns, other.index) == (one.netns, one.index);
        let Some(told) = interval.node.interfaces.iter().find(here) else { continue };
        let least = limits.of(&USE);
        let [sent, received] = &mut ways;
        sent.take((told.tx_bytes, told.tx_packets), speed, interval.seconds, least);
        received.take((told.rx_bytes, told.rx_packets), speed, interval.seconds, least);
    }
    let [sent, received] = ways;
    let way = if received.full > sent.full { received } else { sent };
    if way.full < limits.of(&SECONDS) {
        return None;
    }
    let megabits = speed as f64 / 1e6;
    let title = format!(
        "{} {} {} of what its link of {megabits} Mbit/s carries",
        one.name,
        way.name,
        format::percent(way.most.min(1.0))
    );
    let scope = Scope::interface(one.netns, &one.name);
    let finding = Finding::new(watched, Severity::Warning, scope, title)
        .because(
            "What does not fit waits in queues before it: round trips become longer for all that passes it, \
             and then packets are dropped.",
        )
        .beyond(watched, "part of the speed, at most", way.most, &USE, limits)
        .beyond(watched, "time at the limit", way.full, &SECONDS, limits)
        .with(watched, "mean rate", way.bytes as f64 / watched.seconds, Unit::BytesPerSecond)
        .with(watched, "packets", way.packets as f64, Unit::Count);
    let finding = match &one.kind {
        Some(kind) => finding.confidence(0.6).not_seeing(format!(
            "what a {kind} interface can carry: its speed is only what it says"
        )),
        None => finding.confidence(0.95),
    };
    let finding = most(finding, watched, one.netns);
    let owner = Owner::default();
    Some(
        finding
            .advise("move bulk transfers (backups, copies) to another time, or limit their rate")
            .advise("fair queues keep the others quick meanwhile: fq_codel or fq instead of a plain queue")
            .advise("a faster link, or several")
            .confirm_by(format!("netdiag live --netns {} --sort bytes_sent", one.netns))
            .confirm_by(inside(
                watched,
                one.netns,
                &owner,
                &format!("tc -s qdisc show dev {}", quoted(&one.name)),
            )),
    )
}

/// Who moves the most bytes in the namespace, which need not be through this interface.
fn most(finding: Finding, watched: &Watched, netns: u32) -> Finding {
    let here = watched.flows.values().filter(|flow| flow.netns == Some(netns));
    let bytes = here.filter_map(|flow| {
        let bytes = flow.sums.at_least("bytes_sent").max(flow.sums.at_least("bytes_received"));
        Some((bytes, flow.owner.comm.as_deref()?, flow.peer.ip?))
    });
    match bytes.filter(|(bytes, ..)| *bytes > 0).max() {
        Some((bytes, comm, ip)) => finding.with(
            watched,
            &format!("of these by the largest flow, {comm} with {ip}"),
            bytes as f64 / watched.seconds.max(1e-9),
            Unit::BytesPerSecond,
        ),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        watched::kit::{self, NETNS},
    };

    /// A link of 1 Gbit/s, of which it carries so many thousandths in the first seconds.
    fn of(thousandths: u64, busy: u64, speed_bits: Option<u64>) -> Watched {
        let flow = kit::flow("f1").count("bytes_sent", 100_000_000);
        kit::with_nodes(&[flow], |second, node| {
            let carried = if second < busy { thousandths * 125_000 } else { 0 };
            node.interfaces.push(Interface {
                netns: NETNS,
                index: 2,
                name: "eth0".to_owned(),
                speed_bits,
                tx_bytes: Some(carried),
                tx_packets: Some(0),
                rx_bytes: Some(10),
                rx_packets: Some(1),
                ..Interface::default()
            });
        })
    }

    #[test]
    fn thresholds() {
        let speed = Some(1_000_000_000);
        check(&DEFINITION, &of(899, 10, speed), None);
        check(&DEFINITION, &of(900, 10, speed), Some(Severity::Warning));
        check(&DEFINITION, &of(990, 4, speed), None);
        check(&DEFINITION, &of(990, 5, speed), Some(Severity::Warning));
    }

    #[test]
    fn a_speed_that_nobody_knows_is_no_limit() {
        check(&DEFINITION, &of(5_000, 10, None), None);
    }

    #[test]
    fn wording() {
        let watched = of(960, 10, Some(1_000_000_000));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
