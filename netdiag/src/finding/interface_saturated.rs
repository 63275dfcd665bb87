//! An interface carries all that its link can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, advice::quoted,
    node::inside,
};
use crate::{
    format,
    snapshot::{Owner, node::Interface},
    watched::{Seen, Watched},
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
    let all = watched.interfaces();
    all.values().filter_map(|one| of_interface(watched, limits, &all, one)).collect()
}

/// All of a node, by namespace and index.
type Interfaces = BTreeMap<(u32, u32), Interface>;

/// How busy one direction was.
struct Way {
    name: &'static str,
    /// What flows of its namespace count of it, and those of a namespace that it leads to: what it sends there they
    /// receive.
    payload: [&'static str; 2],
    /// Seconds at the limit.
    full: f64,
    /// Part of the speed in these, at most.
    most: f64,
    bytes: u64,
    packets: u64,
}

impl Way {
    const fn new(name: &'static str, payload: [&'static str; 2]) -> Self {
        Self { name, payload, full: 0.0, most: 0.0, bytes: 0, packets: 0 }
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

fn of_interface(
    watched: &Watched,
    limits: &Limits,
    all: &Interfaces,
    one: &Interface,
) -> Option<Finding> {
    let speed = one.speed_bits.filter(|speed| *speed > 0)?;
    let [sent, received] = ["bytes_sent", "bytes_received"];
    let mut ways = [Way::new("sends", [sent, received]), Way::new("receives", [received, sent])];
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
    let namespaces = namespaces(all, one);
    let largest = largest(watched, one, &way, (&namespaces, &elsewhere(all, one)));
    let finding = match largest {
        Some(Largest { bytes, comm, ip, .. }) => finding.with(
            watched,
            &format!("largest flow that may pass it, {comm} with {ip}"),
            bytes as f64 / watched.seconds.max(1e-9),
            Unit::BytesPerSecond,
        ),
        None => finding,
    };
    let (owner, sort) = (Owner::default(), largest.map_or(way.payload[0], |flow| flow.payload));
    let live = match namespaces.len() {
        1 => format!("netdiag live --netns {} --sort {sort}", one.netns),
        _ => format!("netdiag live --sort {sort}"),
    };
    Some(
        finding
            .advise("move bulk transfers (backups, copies) to another time, or limit their rate")
            .advise("fair queues keep the others quick meanwhile: fq_codel or fq instead of a plain queue")
            .advise("a faster link, or several")
            .confirm_by(live)
            .confirm_by(inside(
                watched,
                one.netns,
                &owner,
                &format!("tc -s qdisc show dev {}", quoted(&one.name)),
            )),
    )
}

/// Namespaces whose packets may pass an interface: those of its two ends; where it leads to none on this node, those
/// that lead to its own as well, as pods to their node.
fn namespaces(all: &Interfaces, one: &Interface) -> BTreeSet<u32> {
    let mut namespaces = BTreeSet::from([one.netns]);
    if let Some(other) = one.leads_to() {
        namespaces.insert(other);
        return namespaces;
    }
    let ways = all.values().filter_map(|other| Some([other.netns, other.leads_to()?]));
    namespaces.extend(ways.filter(|ends| ends.contains(&one.netns)).flatten());
    namespaces
}

/// Namespaces that have other ways out than an interface: a link of their own besides its two ends.
fn elsewhere(all: &Interfaces, one: &Interface) -> BTreeSet<u32> {
    let other = one.peer.and_then(|peer| Some((peer.netns?, peer.index)));
    let ends = [Some((one.netns, one.index)), other];
    let is_way = |it: &&Interface| {
        let is_end = ends.contains(&Some((it.netns, it.index)));
        it.up && !it.loopback && it.carrier != Some(false) && !is_end
    };
    all.values().filter(is_way).map(|it| it.netns).collect()
}

/// Whether packets of a flow may pass an interface: they leave their namespace, and the node where it is a card's. Where
/// it leads to another namespace, they go there, unless there is no other way out of their own: of a node most leaves by
/// its card.
fn may_pass(watched: &Watched, flow: &Seen, one: &Interface, elsewhere: &BTreeSet<u32>) -> bool {
    if flow.peer.ip.is_none_or(|ip| ip.is_loopback()) || flow.peer.ip == flow.local.ip {
        return false;
    }
    let other = one.leads_to();
    let has_choice = other.is_some() && flow.netns.is_some_and(|own| elsewhere.contains(&own));
    let Some(pair) = &flow.pair else { return !has_choice };
    let end = watched.flows.get(pair).filter(|end| end.netns != flow.netns);
    let goes_there = |end: &Seen| [Some(one.netns), other].contains(&end.netns);
    one.kind.is_some() && end.is_some_and(|end| !has_choice || goes_there(end))
}

/// A flow that moves bytes that way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Largest<'a> {
    bytes: u64,
    comm: &'a str,
    ip: IpAddr,
    /// What it counts of these.
    payload: &'static str,
}

/// Who moves the most bytes that way, of those whose packets may pass it: of these namespaces, of which some have other
/// ways out.
fn largest<'a>(
    watched: &'a Watched,
    one: &Interface,
    way: &Way,
    (namespaces, elsewhere): (&BTreeSet<u32>, &BTreeSet<u32>),
) -> Option<Largest<'a>> {
    let flows = watched.flows.values().filter(|flow| may_pass(watched, flow, one, elsewhere));
    let all = flows.filter_map(|flow| {
        let netns = flow.netns.filter(|netns| namespaces.contains(netns))?;
        let payload = way.payload[usize::from(one.leads_to() == Some(netns))];
        let (comm, ip) = (flow.owner.comm.as_deref()?, flow.peer.ip?);
        Some(Largest { bytes: flow.sums.at_least(payload), comm, ip, payload })
    });
    all.filter(|flow| flow.bytes > 0).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Flow, node::PeerInterface},
        watched::kit::{self, NETNS},
    };

    /// A link of 1 Gbit/s, of which it carries so many thousandths in the first seconds.
    fn carrying(thousandths: u64, busy: u64, speed_bits: Option<u64>) -> Watched {
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
        check(&DEFINITION, &carrying(899, 10, speed), None);
        check(&DEFINITION, &carrying(900, 10, speed), Some(Severity::Warning));
        check(&DEFINITION, &carrying(990, 4, speed), None);
        check(&DEFINITION, &carrying(990, 5, speed), Some(Severity::Warning));
    }

    #[test]
    fn a_speed_that_nobody_knows_is_no_limit() {
        check(&DEFINITION, &carrying(5_000, 10, None), None);
    }

    const POD: u32 = NETNS + 1;
    const OTHER: u32 = NETNS + 2;

    /// Who is named where an interface sends or receives all that it can, with these flows, and by what flows are
    /// listed then: `eth0` of a pod, `veth1` at its other end, or the node's `card`.
    fn named(flows: &[Flow], name: &str, way: &str) -> (Option<String>, String) {
        let watched = kit::with_node(flows, |node| {
            let end = |netns, index, name: &str, other: Option<(u32, u32)>| Interface {
                netns,
                index,
                name: name.to_owned(),
                kind: other.map(|_| "veth".to_owned()),
                up: true,
                peer: other.map(|(netns, index)| PeerInterface { index, netns: Some(netns) }),
                ..Interface::default()
            };
            let mut all = [
                end(POD, 2, "eth0", Some((NETNS, 3))),
                end(NETNS, 2, "card", None),
                end(NETNS, 3, "veth1", Some((POD, 2))),
                end(OTHER, 2, "net1", Some((POD, 9))),
            ];
            let full = all.iter_mut().find(|one| one.name == name).expect("an interface");
            full.speed_bits = Some(1_000_000_000);
            let carried = (Some(124_000_000), Some(0));
            match way {
                "sends" => (full.tx_bytes, full.tx_packets) = carried,
                _ => (full.rx_bytes, full.rx_packets) = carried,
            }
            node.interfaces = all.to_vec();
        });
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.title.starts_with(&format!("{name} {way} 99 %")), "{}", found.title);
        let named = found.evidence.iter().find(|one| one.metric.starts_with("largest flow"));
        (named.map(|one| one.metric.clone()), found.commands[0].clone())
    }

    fn of(id: &str, comm: &str, [sent, received]: [u64; 2]) -> Flow {
        kit::flow(id).of(7, comm).count("bytes_sent", sent).count("bytes_received", received)
    }

    /// In a pod.
    fn of_pod(id: &str, comm: &str, bytes: [u64; 2]) -> Flow {
        Flow { netns: Some(POD), ..of(id, comm, bytes) }
    }

    fn told(comm: &str) -> Option<String> {
        Some(format!("largest flow that may pass it, {comm} with 10.0.0.2"))
    }

    #[test]
    fn who_may_pass_it_is_named() {
        let node = of("f1", "backup", [1_000, 0]);
        let here = of("f2", "proxy", [9_000, 0]).to("127.0.0.1", 80);
        let own = of("f3", "agent", [9_000, 0]).to("10.0.0.1", 80);
        let reader = of("f4", "reader", [0, 9_000]);
        let pod = of_pod("f5", "job", [2_000, 0]);
        let far = Flow { netns: Some(OTHER), ..of("f6", "far", [9_000, 0]) };
        let near = Flow { pair: Some("f8".to_owned()), ..of_pod("f7", "web", [5_000, 0]) };
        let end = Flow { pair: Some("f7".to_owned()), ..of("f8", "db", [0, 0]) };
        let all = [node, here, own, reader, pod, far, near, end];
        assert_eq!(named(&all, "card", "sends").0, told("job"));
        assert_eq!(named(&all[..4], "card", "sends").0, told("backup"));
        assert_eq!(named(&all[1..3], "card", "sends").0, None);
        assert_eq!(named(&all[4..], "eth0", "sends").0, told("web"));
    }

    /// What one end of a veth receives the other one sends, and so do those behind that.
    #[test]
    fn an_end_is_busy_by_what_goes_its_way() {
        let flows = [of_pod("f1", "uploads", [5_000, 10]), of_pod("f2", "reads", [10, 9_000])];
        for (name, way, comm, sort) in [
            ("eth0", "sends", "uploads", "bytes_sent"),
            ("eth0", "receives", "reads", "bytes_received"),
            ("veth1", "receives", "uploads", "bytes_sent"),
            ("veth1", "sends", "reads", "bytes_received"),
            ("card", "sends", "uploads", "bytes_sent"),
            ("card", "receives", "reads", "bytes_received"),
        ] {
            let expected = (told(comm), format!("netdiag live --sort {sort}"));
            assert_eq!(named(&flows, name, way), expected, "{name} {way}");
        }
        // Of the node's own the way is that of its end.
        let own = [
            to("f3", of("f1", "uploads", [5_000, 10])),
            to("f3", of("f2", "reads", [10, 9_000])),
            of_pod("f3", "web", [0, 0]),
        ];
        for (name, comm, sort) in
            [("veth1", "uploads", "bytes_sent"), ("eth0", "reads", "bytes_received")]
        {
            let expected = (told(comm), format!("netdiag live --sort {sort}"));
            assert_eq!(named(&own, name, "sends"), expected, "{name}");
        }
    }

    /// The same with the other end of its connection here.
    fn to(pair: &str, flow: Flow) -> Flow {
        Flow { pair: Some(pair.to_owned()), ..flow }
    }

    /// What a node sends elsewhere leaves by its card, or goes to another pod.
    #[test]
    fn what_has_another_way_out_is_not_named() {
        let reads = of_pod("f1", "reads", [10, 600]);
        let backup = of("f2", "backup", [60_000, 0]);
        let copy = to("f4", of("f3", "copy", [70_000, 0]));
        let store = Flow { netns: Some(OTHER), ..of("f4", "store", [0, 70_000]) };
        let all = [backup, copy, store, reads];
        let live = "netdiag live --sort bytes_received".to_owned();
        assert_eq!(named(&all, "eth0", "receives"), (told("reads"), live.clone()));
        assert_eq!(named(&all[..3], "eth0", "receives"), (None, live));
        assert_eq!(named(&all, "card", "sends").0, told("backup"));
    }

    #[test]
    fn a_way_out_is_switched_on_and_has_a_link() {
        let veth = |netns, index, (there, other): (u32, u32)| Interface {
            netns,
            index,
            up: true,
            peer: Some(PeerInterface { index: other, netns: Some(there) }),
            ..Interface::default()
        };
        let beside = |change: fn(&mut Interface)| {
            let mut card = Interface { netns: NETNS, index: 2, up: true, ..Interface::default() };
            change(&mut card);
            let (eth0, veth1) = (veth(POD, 2, (NETNS, 3)), veth(NETNS, 3, (POD, 2)));
            let all = [eth0.clone(), veth1, card].map(|one| ((one.netns, one.index), one));
            elsewhere(&BTreeMap::from(all), &eth0)
        };
        assert_eq!(beside(|_| {}), BTreeSet::from([NETNS]));
        assert_eq!(beside(|card| card.carrier = Some(true)), BTreeSet::from([NETNS]));
        assert_eq!(beside(|card| card.carrier = Some(false)), BTreeSet::new());
        assert_eq!(beside(|card| card.up = false), BTreeSet::new());
        assert_eq!(beside(|card| card.loopback = true), BTreeSet::new());
    }

    #[test]
    fn wording() {
        let watched = carrying(960, 10, Some(1_000_000_000));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
