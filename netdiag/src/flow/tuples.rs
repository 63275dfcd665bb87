//! Live flows by their addresses and ports.

use std::{collections::HashMap, net::Ipv6Addr};

use netdiag_common::flow::{FlowKey, TCP, UDP};
use smallvec::SmallVec;

/// The address of a key; IPv4 comes as v4-mapped and leaves as IPv4.
#[must_use]
pub fn address(bytes: [u8; 16]) -> std::net::IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// Whether nothing is missing that the kernel fills in later: at `connect` the local port is 0, and
/// the local address may be. A UDP socket need not have a peer.
#[must_use]
pub fn is_complete(key: &FlowKey) -> bool {
    match key.protocol {
        0 => false,
        TCP => {
            key.local_port != 0
                && key.peer_port != 0
                && !address(key.peer_addr).is_unspecified()
                && !address(key.local_addr).is_unspecified()
        }
        UDP => key.local_port != 0,
        // ICMP and others without ports.
        _ => true,
    }
}

/// The same conversation from its other end, in the same network namespace.
#[must_use]
pub const fn reversed(key: &FlowKey) -> FlowKey {
    FlowKey {
        local_addr: key.peer_addr,
        peer_addr: key.local_addr,
        local_port: key.peer_port,
        peer_port: key.local_port,
        ..*key
    }
}

/// Slots of live flows by tuple. Network namespaces may use the same tuple, so each tuple has a
/// (mostly one-element) list of them. Peers choose addresses and ports, hence the keyed hash of the
/// standard library.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    slots: HashMap<FlowKey, SmallVec<[(u32, u32); 2]>>,
}

/// The same key, in whatever namespace.
pub(super) const fn anywhere(key: &FlowKey) -> FlowKey {
    FlowKey { netns: 0, ..*key }
}

impl Tuples {
    /// The flow with exactly this key.
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        let slots = self.slots.get(&anywhere(key))?;
        slots.iter().find(|&&(netns, _)| netns == key.netns).map(|&(_, slot)| slot)
    }

    /// The flow with this key; where the namespace is not known (0), the only one with its tuple.
    pub(super) fn find_in_any(&self, key: &FlowKey) -> Option<u32> {
        if key.netns != 0 {
            return self.find(key);
        }
        match self.slots.get(key)?.as_slice() {
            &[(_, slot)] => Some(slot),
            _ => None,
        }
    }

    /// The other end of a conversation on this node: in the same network namespace, else the only
    /// one with the reversed tuple in any (a loopback address never leaves its namespace).
    pub(super) fn find_peer(&self, key: &FlowKey) -> Option<u32> {
        let reversed = reversed(key);
        if let Some(slot) = self.find(&reversed) {
            return Some(slot);
        }
        if address(key.local_addr).is_loopback() {
            return None;
        }
        match self.slots.get(&anywhere(&reversed))?.as_slice() {
            &[(_, slot)] => Some(slot),
            _ => None,
        }
    }

    /// Makes a slot the one with this key.
    pub(super) fn insert(&mut self, key: &FlowKey, slot: u32) {
        let slots = self.slots.entry(anywhere(key)).or_default();
        slots.retain(|&mut (netns, _)| netns != key.netns);
        slots.push((key.netns, slot));
    }

    /// Removes a slot, unless another one took its key over.
    pub(super) fn remove(&mut self, key: &FlowKey, slot: u32) {
        let tuple = anywhere(key);
        if let Some(slots) = self.slots.get_mut(&tuple) {
            slots.retain(|&mut entry| entry != (key.netns, slot));
            if slots.is_empty() {
                self.slots.remove(&tuple);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(local: (u8, u16), peer: (u8, u16), netns: u32) -> FlowKey {
        let mapped = |host| std::net::Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets();
        FlowKey {
            local_addr: mapped(local.0),
            peer_addr: mapped(peer.0),
            local_port: local.1,
            peer_port: peer.1,
            netns,
            protocol: TCP,
            reserved: 0,
        }
    }

    #[test]
    fn complete_means_all_that_the_kernel_fills_in() {
        let whole = v4((1, 40_000), (2, 80), 7);
        let zero = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
        let cases = [
            (whole, true),
            (FlowKey { local_port: 0, ..whole }, false),
            (FlowKey { peer_port: 0, ..whole }, false),
            (FlowKey { local_addr: zero, ..whole }, false),
            (FlowKey { peer_addr: [0; 16], ..whole }, false),
            (FlowKey { protocol: UDP, peer_addr: [0; 16], peer_port: 0, ..whole }, true),
            (FlowKey { protocol: UDP, local_port: 0, ..whole }, false),
        ];
        for (key, complete) in cases {
            assert_eq!(is_complete(&key), complete, "{key:?}");
        }
    }

    #[test]
    fn the_other_end_is_found_across_namespaces_only_when_it_is_the_only_one() {
        let client = v4((1, 40_000), (2, 80), 7);
        let server = FlowKey { netns: 8, ..reversed(&client) };
        let mut tuples = Tuples::default();
        assert_eq!(tuples.find_peer(&client), None);
        tuples.insert(&server, 1);
        assert_eq!(tuples.find_peer(&client), Some(1));
        assert_eq!(tuples.find(&reversed(&client)), None);
        tuples.insert(&FlowKey { netns: 9, ..server }, 2);
        assert_eq!(tuples.find_peer(&client), None);
        tuples.insert(&FlowKey { netns: 7, ..server }, 3);
        assert_eq!(tuples.find_peer(&client), Some(3));
        tuples.remove(&FlowKey { netns: 7, ..server }, 3);
        tuples.remove(&FlowKey { netns: 9, ..server }, 2);
        tuples.remove(&server, 99);
        assert_eq!(tuples.find_peer(&client), Some(1));
        tuples.remove(&server, 1);
        assert!(tuples.slots.is_empty());
    }

    #[test]
    fn loopback_never_leaves_its_namespace() {
        let loopback = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let client =
            FlowKey { local_addr: loopback, peer_addr: loopback, ..v4((1, 40_000), (1, 80), 7) };
        let mut tuples = Tuples::default();
        tuples.insert(&FlowKey { netns: 8, ..reversed(&client) }, 1);
        assert_eq!(tuples.find_peer(&client), None);
        tuples.insert(&reversed(&client), 2);
        assert_eq!(tuples.find_peer(&client), Some(2));
    }
}
