//! Which network namespaces a node's packets go through one after the other: what is wrong in one of them is felt
//! in the next.

use std::collections::BTreeMap;

use crate::{
    finding::{Scope, ScopeKind},
    snapshot::Snapshot,
};

/// Interfaces that are remembered. Namespaces come and go, so there is no end of them.
const MOST: usize = 8_192;

/// Interfaces that lead from one namespace to another, a veth or what is on top of another one: from a pod to its node,
/// as a rule, and back. By namespace and name, with the namespace they lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(BTreeMap<(u32, String), u32>);

impl Links {
    /// An interval has passed.
    pub(super) fn take(&mut self, snapshot: &Snapshot) {
        if self.0.len() >= MOST {
            // Those that are still there come again below.
            self.0.clear();
        }
        for one in &snapshot.node.interfaces {
            if let Some(other) = one.leads_to() {
                self.0.insert((one.netns, one.name.clone()), other);
            }
        }
    }

    fn join(&self, one: u32, other: u32) -> bool {
        let leads = |from: u32, to: u32| {
            let all =
                self.0.range((from, String::new())..).take_while(move |((at, _), _)| *at == from);
            all.into_iter().any(|(_, there)| *there == to)
        };
        leads(one, other) || leads(other, one)
    }

    /// Whether packets of a namespace go through what a scope is about: another namespace that is joined to it, or an
    /// interface there that leads to no third one.
    pub(super) fn is_way(&self, scope: &Scope, netns: u32) -> bool {
        let Some(there) = scope.netns.filter(|there| self.join(*there, netns)) else {
            return false;
        };
        match scope.kind {
            ScopeKind::Namespace => true,
            ScopeKind::Interface => {
                self.0.get(&(there, scope.name.clone())).is_none_or(|leads| *leads == netns)
            }
            _ => false,
        }
    }

    /// Whether a cause and a symptom may concern the same: they are of one namespace, or packets of the one go through
    /// what the other is about.
    pub(super) fn meet(&self, cause: &Scope, symptom: &Scope) -> bool {
        let through =
            |way: &Scope, of: &Scope| of.netns.is_some_and(|netns| self.is_way(way, netns));
        let elsewhere = || Scope { netns: None, ..cause.clone() }.meets(symptom);
        cause.meets(symptom) || (through(cause, symptom) || through(symptom, cause)) && elsewhere()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::node::{Interface, PeerInterface},
        watched::kit::{self, NETNS},
    };

    const NODE: u32 = 4_026_531_840;
    const OTHER: u32 = 4_026_532_300;
    const ALONE: u32 = 4_026_532_301;

    /// The namespaces of two pods, and the node's.
    fn pod() -> Links {
        let mut snapshot = kit::snapshot(0, Vec::new());
        for (netns, name, peer) in [
            (NETNS, "eth0", NODE),
            (NODE, "veth1", NETNS),
            (NODE, "veth2", OTHER),
            (NODE, "vlan7", NODE),
        ] {
            let peer = Some(PeerInterface { index: 2, netns: Some(peer) });
            let name = name.to_owned();
            snapshot.node.interfaces.push(Interface { netns, name, peer, ..Interface::default() });
        }
        let mut links = Links::default();
        links.take(&snapshot);
        links
    }

    #[test]
    fn what_packets_go_through_meets_what_they_are_of() {
        let links = pod();
        let ip = "10.0.0.2".parse().expect("an address");
        let client = |netns| Scope::backend(Some(netns), ip, 443);
        let (table, card) = (Scope::namespace(NODE), Scope::interface(NODE, "eth0"));
        for way in [&table, &card] {
            assert!(links.meet(&client(NETNS), way) && links.meet(way, &client(NETNS)), "{way:?}");
            assert!(!links.meet(&client(ALONE), way), "{way:?}: not joined");
            assert!(!Links::default().meet(&client(NETNS), way), "{way:?}: nobody knows");
        }
        for (name, [first, second]) in [("veth1", [true, false]), ("veth2", [false, true])] {
            let end = Scope::interface(NODE, name);
            assert_eq!(links.meet(&end, &client(NETNS)), first, "{name}");
            assert_eq!(links.meet(&end, &client(OTHER)), second, "{name}");
        }
        assert!(!links.meet(&client(NODE), &client(NETNS)), "neither is a way");
        assert!(links.meet(&client(NETNS), &client(NETNS)));
        let elsewhere = table.at(80);
        assert!(!links.meet(&client(NETNS), &elsewhere), "of another port");
    }
}
