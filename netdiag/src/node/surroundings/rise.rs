//! What namespaces and CPUs counted: in an interval, or in all intervals of a run.
//!
//! A run is not its last reading less its first one: counters of 32 bits wrap, and by then a namespace or a
//! queueing discipline may be another one with the same number.

use std::collections::BTreeMap;

use super::Counted;
use crate::{
    node::{
        cpu,
        links::{self, Interfaces},
        protocols,
        qdiscs::{self, Qdiscs},
        tcp_counters::{self, Counters},
    },
    snapshot::node::{Interface, Node, Qdisc, Softnet},
};

/// By how much the counters rose.
#[derive(Clone, Debug, Default)]
pub(super) struct Rise {
    ip: BTreeMap<u32, Counters>,
    udp: BTreeMap<u32, Counters>,
    icmp: BTreeMap<u32, Counters>,
    interfaces: Interfaces,
    qdiscs: Qdiscs,
    softnet: BTreeMap<u32, Softnet>,
}

impl Rise {
    /// Between two readings an interval apart, the earlier first.
    pub(super) fn between(then: &Counted, now: &Counted) -> Self {
        let counted = now.protocols.since(&then.protocols, |then, now| now.since(then));
        Self {
            ip: protocols::of(&counted, |one| &one.ip),
            udp: protocols::of(&counted, |one| &one.udp),
            icmp: protocols::of(&counted, |one| &one.icmp),
            interfaces: links::increase(&then.links, &now.links),
            qdiscs: qdiscs::increase(&then.queues, &now.queues),
            softnet: cpu::taken(&then.load, &now.load),
        }
    }

    /// Adds a later interval.
    pub(super) fn add(&mut self, later: &Self) {
        tcp_counters::add(&mut self.ip, &later.ip);
        tcp_counters::add(&mut self.udp, &later.udp);
        tcp_counters::add(&mut self.icmp, &later.icmp);
        add(&mut self.interfaces, &later.interfaces, Interface::add);
        add(&mut self.qdiscs, &later.qdiscs, Qdisc::add);
        add(&mut self.softnet, &later.softnet, Softnet::add);
    }

    /// Forgets interfaces and queueing disciplines that a reading does not have any more: there is no end to
    /// their numbers.
    pub(super) fn keep(&mut self, read: &Counted) {
        let (links, queues) = (&read.links.namespaces, &read.queues.namespaces);
        self.interfaces.retain(|(netns, index), _| {
            links.get(netns).is_some_and(|links| links.contains_key(index))
        });
        self.qdiscs.retain(|(netns, key), qdisc| {
            let last = queues.get(netns).and_then(|queues| queues.get(key));
            let Some(last) = last else { return false };
            // Of one that was not found nothing waits.
            qdisc.backlog_bytes = last.backlog_bytes;
            qdisc.backlog_packets = last.backlog_packets;
            true
        });
    }

    /// Says it, in lists that are bounded.
    pub(super) fn tell(&self, node: &mut Node) {
        node.ip = tcp_counters::named(&self.ip);
        node.udp = tcp_counters::named(&self.udp);
        node.icmp = tcp_counters::named(&self.icmp);
        let (interfaces, left_out) = links::listed(&self.interfaces);
        (node.interfaces, node.interfaces_left_out) = (interfaces, Some(left_out));
        node.qdiscs = qdiscs::listed(&self.qdiscs, &self.interfaces);
        node.softnet = cpu::listed(&self.softnet);
    }
}

/// Puts the values of a later interval onto those of earlier ones.
fn add<K: Ord + Copy, T: Clone>(
    all: &mut BTreeMap<K, T>,
    later: &BTreeMap<K, T>,
    put: impl Fn(&mut T, &T),
) {
    for (key, later) in later {
        match all.get_mut(key) {
            Some(known) => put(known, later),
            None => {
                all.insert(*key, later.clone());
            }
        }
    }
}
