//! Live flows by their addresses and ports.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::Ipv6Addr,
};

use netdiag_common::flow::{FlowKey, TCP, UDP};

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

/// The same key, in whatever namespace.
pub(super) const fn anywhere(key: &FlowKey) -> FlowKey {
    FlowKey { netns: 0, ..*key }
}

/// A key without its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    local_addr: [u8; 16],
    peer_addr: [u8; 16],
    local_port: u16,
    peer_port: u16,
    protocol: u16,
}

impl Tuple {
    const fn of(key: &FlowKey) -> Self {
        let FlowKey { local_addr, peer_addr, local_port, peer_port, protocol, .. } = *key;
        Self { local_addr, peer_addr, local_port, peer_port, protocol }
    }
}

/// Of a hundred thousand of them the map has room for as many again.
const _: () = assert!(size_of::<(Tuple, Flow)>() <= 48);

/// A flow with a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    netns: u32,
    slot: u32,
}

/// Slots of live flows by tuple. Network namespaces may use the same tuple, so each may have several; mostly it has one,
/// and these are what takes memory. Peers choose addresses and ports, hence the keyed hash of the standard library.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    first: HashMap<Tuple, Flow>,
    /// Where there is more than one, the others.
    others: HashMap<Tuple, Vec<Flow>>,
}

impl Tuples {
    fn others(&self, tuple: &Tuple) -> &[Flow] {
        if self.others.is_empty() {
            return &[];
        }
        self.others.get(tuple).map_or(&[], Vec::as_slice)
    }

    /// The flow with exactly this key.
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        let tuple = Tuple::of(key);
        let first = self.first.get(&tuple)?;
        if first.netns == key.netns {
            return Some(first.slot);
        }
        let other = self.others(&tuple).iter().find(|flow| flow.netns == key.netns)?;
        Some(other.slot)
    }

    /// The flow with this key; where the namespace is not known (0), the only one with its tuple.
    pub(super) fn find_in_any(&self, key: &FlowKey) -> Option<u32> {
        if key.netns != 0 { self.find(key) } else { self.only(&Tuple::of(key)) }
    }

    fn only(&self, tuple: &Tuple) -> Option<u32> {
        let first = self.first.get(tuple)?;
        self.others(tuple).is_empty().then_some(first.slot)
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
        self.only(&Tuple::of(&reversed))
    }

    /// Makes a slot the one with this key.
    pub(super) fn insert(&mut self, key: &FlowKey, slot: u32) {
        let (tuple, flow) = (Tuple::of(key), Flow { netns: key.netns, slot });
        let first = self.first.entry(tuple).or_insert(flow);
        if first.netns == flow.netns {
            *first = flow;
            return;
        }
        let others = self.others.entry(tuple).or_default();
        others.retain(|other| other.netns != flow.netns);
        others.push(flow);
    }

    /// Removes a slot, unless another one took its key over.
    pub(super) fn remove(&mut self, key: &FlowKey, slot: u32) {
        let (tuple, flow) = (Tuple::of(key), Flow { netns: key.netns, slot });
        let Entry::Occupied(mut first) = self.first.entry(tuple) else { return };
        let is_first = *first.get() == flow;
        let Some(others) = self.others.get_mut(&tuple) else {
            if is_first {
                first.remove();
            }
            return;
        };
        if is_first {
            // There is one: a list without any goes.
            others.pop().into_iter().for_each(|other| *first.get_mut() = other);
        } else {
            others.retain(|other| *other != flow);
        }
        if others.is_empty() {
            self.others.remove(&tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

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
        assert!(tuples.first.is_empty() && tuples.others.is_empty());
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

    proptest! {
        /// Insertions and removals of a slot with a port in a namespace.
        #[test]
        fn are_what_a_plain_list_is(steps in vec((any::<bool>(), 0..2_u16, 0..4_u32, 0..3_u32), 0..60)) {
            let of = |port, netns| v4((1, port), (2, 80), netns);
            let (mut tuples, mut model) = (Tuples::default(), Vec::<(FlowKey, u32)>::new());
            for (inserts, port, netns, slot) in steps {
                let key = of(port, netns);
                if inserts {
                    tuples.insert(&key, slot);
                    model.retain(|&(other, _)| other != key);
                    model.push((key, slot));
                } else {
                    tuples.remove(&key, slot);
                    model.retain(|&other| other != (key, slot));
                }
                for (port, netns) in (0..2).flat_map(|port| (0..4).map(move |netns| (port, netns))) {
                    let key = of(port, netns);
                    let exact = model.iter().find(|(other, _)| *other == key).map(|it| it.1);
                    prop_assert_eq!(tuples.find(&key), exact);
                    let all: Vec<_> = model.iter().filter(|(it, _)| it.local_port == port).collect();
                    let only = if let [one] = all[..] { Some(one.1) } else { None };
                    let in_any = if netns == 0 { only } else { exact };
                    prop_assert_eq!(tuples.find_in_any(&key), in_any);
                    prop_assert_eq!(tuples.find_peer(&reversed(&key)), exact.or(only));
                }
            }
            for (key, slot) in model {
                tuples.remove(&key, slot);
            }
            prop_assert!(tuples.first.is_empty() && tuples.others.is_empty());
        }
    }
}
