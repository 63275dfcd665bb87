//! Which network namespaces a node's packets go through one after the other: what is wrong in one of them is felt
//! in the next.

use std::collections::BTreeSet;

use crate::{
    finding::{Scope, ScopeKind},
    snapshot::Snapshot,
};

/// Pairs that are remembered. Namespaces come and go, so there is no end of them.
const MOST: usize = 8_192;

/// Pairs of namespaces that a veth, or an interface on top of another one, joins: a pod and its node, as a rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(BTreeSet<(u32, u32)>);

impl Links {
    /// An interval has passed.
    pub(super) fn take(&mut self, snapshot: &Snapshot) {
        for one in &snapshot.node.interfaces {
            let other = one.peer.and_then(|peer| peer.netns).filter(|netns| *netns != one.netns);
            if let Some(other) = other.filter(|_| self.0.len() < MOST) {
                self.0.insert((one.netns.min(other), one.netns.max(other)));
            }
        }
    }

    fn join(&self, one: u32, other: u32) -> bool {
        self.0.contains(&(one.min(other), one.max(other)))
    }

    /// Whether a cause and a symptom may concern the same: they are of one namespace, or one of them is of a whole
    /// namespace or an interface that packets of the other one's go through.
    pub(super) fn meet(&self, cause: &Scope, symptom: &Scope) -> bool {
        let is_way =
            |scope: &Scope| matches!(scope.kind, ScopeKind::Namespace | ScopeKind::Interface);
        let goes_through = || {
            let (Some(one), Some(other)) = (cause.netns, symptom.netns) else { return false };
            (is_way(cause) || is_way(symptom))
                && self.join(one, other)
                && Scope { netns: None, ..cause.clone() }.meets(symptom)
        };
        cause.meets(symptom) || goes_through()
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

    /// The namespace of a pod, and the node's.
    fn pod() -> Links {
        let mut snapshot = kit::snapshot(0, Vec::new());
        for (netns, peer) in [(NETNS, NODE), (NODE, NETNS), (NODE, NODE)] {
            let peer = Some(PeerInterface { index: 2, netns: Some(peer) });
            snapshot.node.interfaces.push(Interface { netns, peer, ..Interface::default() });
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
            assert!(!links.meet(&client(OTHER), way), "{way:?}: not joined");
            assert!(!Links::default().meet(&client(NETNS), way), "{way:?}: nobody knows");
        }
        assert!(!links.meet(&client(NODE), &client(NETNS)), "neither is a way");
        assert!(links.meet(&client(NETNS), &client(NETNS)));
        let elsewhere = table.at(80);
        assert!(!links.meet(&client(NETNS), &elsewhere), "of another port");
    }
}
