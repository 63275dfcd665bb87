//! Interfaces that lead to one another do not agree on how large a packet may be.

use std::collections::BTreeMap;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, advice::quoted,
    node::inside,
};
use crate::{
    snapshot::{
        Owner,
        node::{Interface, RouteMtu},
    },
    watched::Watched,
};

const BYTES: Threshold = Threshold {
    name: "bytes",
    value: 1.0,
    unit: Unit::Bytes,
    help: "by how much the largest packet of one end is larger than that of the other",
    source: "the larger end sends what the smaller one does not take",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "mtu-mismatch",
    help: "local interfaces that lead to one another differ in MTU",
    thresholds: &[&BYTES],
    needs: &[],
    parts: &[],
    node: &[Part::Interfaces, Part::Routes],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

/// Routes with an MTU that a node tells, of all namespaces together.
const MOST_ROUTES: usize = 100;

type Interfaces = BTreeMap<(u32, u32), Interface>;

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let interfaces = watched.interfaces();
    let ends = interfaces.values().filter(|one| is_used(one));
    let found = ends.filter_map(|one| {
        let (other, room) = ahead(&interfaces, one)?;
        let less = one.mtu.saturating_sub(room);
        let differs = f64::from(less) >= limits.of(&BYTES) && is_used(other);
        (differs && !is_limited(watched, one, room))
            .then(|| found(watched, limits, one, other, less))
    });
    found.collect()
}

/// Whether it is on and carries anything: what nobody uses hurts nobody.
fn is_used(one: &Interface) -> bool {
    let passed = one.rx_packets.unwrap_or(0) + one.tx_packets.unwrap_or(0);
    one.up && !one.loopback && one.mtu > 0 && passed > 0
}

/// The interface that takes this one's packets, and how large they may be there.
fn ahead<'a>(interfaces: &'a Interfaces, one: &Interface) -> Option<(&'a Interface, u32)> {
    let peer = one.peer?;
    let other = interfaces.get(&(peer.netns?, peer.index))?;
    // Headers that it puts around packets (VXLAN and GENEVE over IPv4).
    let around = match one.kind.as_deref()? {
        "veth" | "vlan" | "macvlan" | "ipvlan" => 0,
        "vxlan" | "geneve" => 50,
        _ => return None,
    };
    Some((other, other.mtu.saturating_sub(around)))
}

/// Whether routes keep packets through it as small as they may be: those of an interface that has routes
/// with an MTU are taken to be all of them.
fn is_limited(watched: &Watched, one: &Interface, room: u32) -> bool {
    let Some(node) = watched.node() else { return false };
    let here = |route: &&RouteMtu| route.netns == one.netns && route.index == Some(one.index);
    let mut routes = node.route_mtus.iter().filter(here).peekable();
    routes.peek().is_some() && routes.all(|route| route.mtu <= room)
}

fn found(
    watched: &Watched,
    limits: &Limits,
    one: &Interface,
    other: &Interface,
    less: u32,
) -> Finding {
    let is_veth = one.kind.as_deref() == Some("veth");
    let (what, why) = if is_veth {
        (
            "its other end",
            "What one end sends and is too large for the other is dropped there without a word, and nobody \
             is told to send less. TCP that begins at both ends agrees on less; what is forwarded, UDP \
             and tunnels do not.",
        )
    } else {
        (
            "the interface below it",
            "With its headers a packet is too large below: it is cut into pieces, or dropped where it must \
             not be.",
        )
    };
    let title = format!(
        "{} sends packets of up to {} bytes, {} bytes more than {what} takes",
        one.name, one.mtu, less
    );
    let (big, small) = (&one.name, &other.name);
    let scope = Scope::interface(one.netns, big);
    let dropped = other.rx_dropped.unwrap_or(0) + one.tx_dropped.unwrap_or(0);
    let owner = Owner::default();
    let finding = Finding::new(watched, Severity::Warning, scope, title)
        .confidence(0.7)
        .because(why)
        .beyond(watched, "difference", less.into(), &BYTES, limits)
        .with(watched, &format!("MTU of {big}"), one.mtu.into(), Unit::Count)
        .with(
            watched,
            &format!("MTU of {small} in netns {}", other.netns),
            other.mtu.into(),
            Unit::Count,
        )
        .with(watched, "packets dropped between them", dropped as f64, Unit::Count);
    let finding = match (one.kind.as_deref(), less) {
        (Some("vxlan" | "geneve"), _) => {
            finding.not_seeing("whether the tunnel is over IPv6, which takes 20 bytes more")
        }
        _ => finding,
    };
    let routes = watched.node().map_or(0, |node| node.route_mtus.len());
    let finding = match routes >= MOST_ROUTES {
        true => finding.not_seeing(format!(
            "routes that keep packets small: of those with an MTU the first {MOST_ROUTES} are told"
        )),
        false => finding,
    };
    finding
        .not_seeing("whether anything as large is sent: packets may all be small")
        .advise(if is_veth {
            "give both ends the same MTU, the smaller one unless the whole path takes more".to_owned()
        } else {
            format!("make the MTU of {big} {} or less", one.mtu - less)
        })
        .advise("find who sets it: the configuration of the container network (CNI), netplan, or a script")
        .advise("until then net.ipv4.tcp_mtu_probing=1 lets TCP find its way around")
        .confirm_by(inside(watched, one.netns, &owner, &format!("ip -d -s link show dev {}", quoted(big))))
        .confirm_by(inside(watched, other.netns, &owner, &format!("ip -d -s link show dev {}", quoted(small))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::node::{Node, PeerInterface},
        watched::kit::{self, NETNS},
    };

    fn interface(netns: u32, kind: &str, mtu: u32) -> Interface {
        Interface {
            netns,
            index: netns - NETNS + 1,
            name: format!("{kind}{}", netns - NETNS),
            kind: Some(kind.to_owned()),
            up: true,
            mtu,
            rx_packets: Some(5),
            tx_packets: Some(5),
            ..Interface::default()
        }
    }

    fn ends(node: &mut Node, kind: &str, mtus: [u32; 2]) {
        for (at, mtu) in (0..).zip(mtus) {
            let other = 1 - at;
            let peer = PeerInterface { index: other + 1, netns: Some(NETNS + other) };
            let one = interface(NETNS + at, kind, mtu);
            node.interfaces.push(Interface { peer: Some(peer), ..one });
        }
    }

    #[test]
    fn thresholds() {
        let veth = |mtus| kit::with_node(&[], |node| ends(node, "veth", mtus));
        check(&DEFINITION, &veth([1_500, 1_500]), None);
        check(&DEFINITION, &veth([1_500, 1_499]), Some(Severity::Warning));
        check(&DEFINITION, &veth([1_400, 1_500]), Some(Severity::Warning));
    }

    #[test]
    fn tunnels_have_headers() {
        let over = |mtu| {
            kit::with_node(&[], |node| {
                let peer = Some(PeerInterface { index: 2, netns: Some(NETNS + 1) });
                node.interfaces.push(Interface { peer, ..interface(NETNS, "vxlan", mtu) });
                node.interfaces.push(interface(NETNS + 1, "bond", 1_500));
            })
        };
        check(&DEFINITION, &over(1_450), None);
        check(&DEFINITION, &over(1_451), Some(Severity::Warning));
    }

    #[test]
    fn what_is_off_unused_or_limited_by_routes_is_nothing() {
        let changed = |change: fn(&mut Interface)| {
            kit::with_node(&[], |node| {
                ends(node, "veth", [1_500, 1_400]);
                node.interfaces.iter_mut().for_each(change);
            })
        };
        check(&DEFINITION, &changed(|one| one.up = false), None);
        let unused = changed(|one| (one.rx_packets, one.tx_packets) = (Some(0), Some(0)));
        check(&DEFINITION, &unused, None);
        let routed = kit::with_node(&[], |node| {
            ends(node, "veth", [1_500, 1_400]);
            let destination = "0.0.0.0/0".to_owned();
            let index = Some(1);
            node.route_mtus.push(RouteMtu { netns: NETNS, destination, index, mtu: 1_400 });
        });
        check(&DEFINITION, &routed, None);
    }

    #[test]
    fn wording() {
        let watched = kit::with_node(&[], |node| ends(node, "veth", [1_500, 1_400]));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
