//! What the node said of itself over the window: increases added up, states as they stood last or at
//! their most.

use std::collections::BTreeMap;

use super::Watched;
use crate::snapshot::{
    ConntrackTable, Endpoint, Node, Owner,
    node::{Interface, Qdisc, Settings, Softnet, Throttled, sum},
};

/// A listener with its queues.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Where it listens.
    pub local: Endpoint,
    /// The process that holds it.
    pub owner: Owner,
    /// Connection requests that it dropped in the window.
    pub drops: u64,
    /// Connections that waited to be accepted, at most.
    pub accept_queue: u32,
    /// How many may wait.
    pub limit: u32,
    /// Connection requests that were not confirmed, at most; none where it was not told.
    pub requests: Option<u64>,
}

/// A connection tracking table.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// As it stood last, with the increases of the window.
    pub table: ConntrackTable,
    /// Connections in it when it was told first: at the end of an interval.
    pub first: u64,
    /// Seconds from then until it was told last.
    pub seconds: f64,
    /// Connections in it, at most.
    pub peak: u64,
    /// The largest part of it that was taken; none where there is no limit.
    pub fill: Option<f64>,
}

impl Watched {
    /// What every interval lists, by key; `add` puts a later one onto an earlier one.
    fn merged<K: Ord, T: Clone>(
        &self,
        list: impl Fn(&Node) -> &[T],
        key: impl Fn(&T) -> K,
        add: impl Fn(&mut T, &T),
    ) -> BTreeMap<K, T> {
        let mut merged = BTreeMap::new();
        for one in self.intervals.iter().flat_map(|interval| list(&interval.node)) {
            match merged.get_mut(&key(one)) {
                Some(known) => add(known, one),
                None => {
                    merged.insert(key(one), one.clone());
                }
            }
        }
        merged
    }

    /// The interfaces by namespace and index: as they stood last, with the increases of the window.
    #[must_use]
    pub fn interfaces(&self) -> BTreeMap<(u32, u32), Interface> {
        let key = |one: &Interface| (one.netns, one.index);
        self.merged(|node| &node.interfaces, key, Interface::add)
    }

    /// The queueing disciplines by namespace, index of the interface, handle and parent, likewise; what waits
    /// is the most that did.
    #[must_use]
    pub fn qdiscs(&self) -> Vec<Qdisc> {
        let key = |one: &Qdisc| (one.netns, one.index, one.handle.clone(), one.parent.clone());
        let merged = self.merged(
            |node| &node.qdiscs,
            key,
            |known, later| {
                let waited = (known.backlog_bytes, known.backlog_packets);
                known.add(later);
                known.backlog_bytes = known.backlog_bytes.max(waited.0);
                known.backlog_packets = known.backlog_packets.max(waited.1);
            },
        );
        merged.into_values().collect()
    }

    /// What the CPUs took from network cards and virtual links.
    #[must_use]
    pub fn softnet(&self) -> Vec<Softnet> {
        let merged = self.merged(|node| &node.softnet, |one| one.cpu, Softnet::add);
        merged.into_values().collect()
    }

    /// The control groups that their CPU limit held back.
    #[must_use]
    pub fn throttled(&self) -> Vec<Throttled> {
        let merged = self.merged(
            |node| &node.throttled,
            |one| one.cgroup.clone(),
            |known, later| {
                known.periods += later.periods;
                known.throttled_periods += later.throttled_periods;
                known.throttled_us += later.throttled_us;
                if let Some(pids) = &later.pids {
                    let known = known.pids.get_or_insert_default();
                    known.extend(pids);
                    known.sort_unstable();
                    known.dedup();
                }
                known.quota_us = later.quota_us;
                known.period_us = later.period_us;
            },
        );
        merged.into_values().collect()
    }

    /// The connection tracking tables, by namespace.
    #[must_use]
    pub fn tracked(&self) -> Vec<Tracked> {
        let mut tables: BTreeMap<u32, (f64, Tracked)> = BTreeMap::new();
        let mut at = 0.0;
        for interval in &self.intervals {
            at += interval.seconds;
            for one in &interval.node.conntrack {
                let max = one.max.filter(|max| *max > 0);
                let fill = max.map(|max| one.entries as f64 / max as f64);
                let Some((began, known)) = tables.get_mut(&one.netns) else {
                    let (table, first, peak) = (one.clone(), one.entries, one.entries);
                    let tracked = Tracked { table, first, seconds: 0.0, peak, fill };
                    tables.insert(one.netns, (at, tracked));
                    continue;
                };
                known.seconds = at - *began;
                let before = std::mem::replace(&mut known.table, one.clone());
                let table = &mut known.table;
                table.insert_failed = sum(before.insert_failed, table.insert_failed);
                table.drop = sum(before.drop, table.drop);
                table.early_drop = sum(before.early_drop, table.early_drop);
                table.clash_resolve = sum(before.clash_resolve, table.clash_resolve);
                table.invalid = sum(before.invalid, table.invalid);
                table.chaintoolong = sum(before.chaintoolong, table.chaintoolong);
                known.peak = known.peak.max(one.entries);
                known.fill = known.fill.into_iter().chain(fill).reduce(f64::max);
            }
        }
        tables.into_values().map(|(_, tracked)| tracked).collect()
    }

    /// The listeners of a namespace that dropped requests or had much waiting; first the one that dropped
    /// most.
    #[must_use]
    pub fn listeners(&self, netns: u32) -> Vec<Queues> {
        let mut all: BTreeMap<Endpoint, Queues> = BTreeMap::new();
        for Node { listeners, listen_queues, .. } in self.intervals.iter().map(|one| &one.node) {
            let dropping = listeners.iter().filter(|one| one.netns == netns).map(|one| Queues {
                local: one.local.clone(),
                owner: one.owner.clone(),
                drops: one.drops,
                accept_queue: one.accept_queue,
                limit: one.accept_queue_limit,
                requests: None,
            });
            let waiting = listen_queues.iter().filter(|one| one.netns == netns).map(|one| Queues {
                local: one.local.clone(),
                owner: one.owner.clone(),
                drops: 0,
                accept_queue: one.accept_queue,
                limit: one.accept_queue_limit,
                requests: Some(one.syn_recv),
            });
            for one in dropping.chain(waiting) {
                let Some(known) = all.get_mut(&one.local) else {
                    all.insert(one.local.clone(), one);
                    continue;
                };
                known.drops += one.drops;
                known.accept_queue = known.accept_queue.max(one.accept_queue);
                known.limit = one.limit;
                known.requests = known.requests.max(one.requests);
                if known.owner.pid.is_none() {
                    known.owner = one.owner;
                }
            }
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|one| std::cmp::Reverse((one.drops, one.requests, one.accept_queue)));
        all
    }

    /// The last readings of a state that make up so many seconds, 0 where it was not told; none where there
    /// are fewer seconds than that, or fewer than two readings. `read` tells how many nanoseconds old a
    /// reading was at the end of its interval, too: several intervals may tell of one.
    #[must_use]
    pub fn lately(
        &self,
        seconds: f64,
        read: impl Fn(&Node) -> Option<(u64, u64)>,
    ) -> Option<Vec<u64>> {
        // Intervals are never quite as long as they are meant to be.
        const SLACK: f64 = 0.1;
        let (mut ago, mut values) = (0.0, Vec::new());
        let (mut first, mut last) = (0.0, f64::NEG_INFINITY);
        for interval in self.intervals.iter().rev().chain(self.before.as_deref()) {
            let (value, age_ns) = read(&interval.node).unwrap_or((0, 0));
            let at = ago + age_ns as f64 / 1e9;
            ago += interval.seconds;
            if at - last <= SLACK.min(interval.seconds / 2.0) {
                continue;
            }
            if values.is_empty() {
                first = at;
            }
            last = at;
            values.push(value);
            if at - first + interval.seconds + SLACK >= seconds && values.len() > 1 {
                values.reverse();
                return Some(values);
            }
        }
        None
    }

    /// Settings of a network namespace, as they stood last; none where they are not told.
    #[must_use]
    pub fn settings(&self, netns: u32) -> Option<&Settings> {
        self.node()?.settings.iter().find(|one| one.netns == netns)
    }

    /// A process in a network namespace, where one is known.
    #[must_use]
    pub fn inhabitant(&self, netns: u32) -> Option<u32> {
        let inside = self.flows.values().filter(|flow| flow.netns == Some(netns));
        let makers = self.creators.iter().filter(|one| one.netns == Some(netns));
        let makers = makers.filter_map(|one| one.creator.as_ref()?.pid);
        inside.filter_map(|flow| flow.owner.pid).chain(makers).next()
    }
}

#[cfg(test)]
mod tests {
    use crate::watched::kit::{self, NETNS};

    use super::*;

    #[test]
    fn increases_add_up_and_states_are_the_last() {
        let watched = kit::with_nodes(&[], |second, node| {
            node.interfaces.push(Interface {
                netns: NETNS,
                mtu: 1_500 + second as u32,
                rx_errors: Some(2),
                rx_missed: (second == 3).then_some(7),
                ..Interface::default()
            });
            node.softnet.push(Softnet { dropped: 1, backlog: Some(second), ..Softnet::default() });
        });
        let interfaces = watched.interfaces();
        let one = &interfaces[&(NETNS, 0)];
        assert_eq!((one.mtu, one.rx_errors, one.rx_missed), (1_509, Some(20), Some(7)));
        assert_eq!(one.tx_errors, None, "unknown is not 0");
        let softnet = watched.softnet();
        assert_eq!((softnet[0].dropped, softnet[0].backlog), (10, Some(9)));
    }

    #[test]
    fn what_was_lately() {
        let watched = kit::with_nodes(&[], |second, node| node.own_cpu_ns = Some(second));
        let told = |node: &Node| Some((node.own_cpu_ns?, 0));
        assert_eq!(watched.lately(3.0, told), Some(vec![7, 8, 9]));
        assert_eq!(watched.lately(0.5, told), Some(vec![8, 9]));
        assert_eq!(watched.lately(11.0, told), None);
    }

    #[test]
    fn a_reading_that_is_told_again_is_one() {
        // Read every four seconds, told every second.
        let watched = kit::with_nodes(&[], |second, node| {
            (node.own_cpu_ns, node.own_resident_bytes) = (Some(second / 4), Some(second % 4));
        });
        let told = |node: &Node| Some((node.own_cpu_ns?, node.own_resident_bytes? * 1_000_000_000));
        assert_eq!(watched.lately(5.0, told), Some(vec![1, 2]));
        assert_eq!(watched.lately(6.0, told), Some(vec![0, 1, 2]));
        assert_eq!(watched.lately(12.0, told), None);
    }

    #[test]
    fn the_interval_before_the_window_counts() {
        let watched = kit::with_nodes(&[], |second, node| node.own_cpu_ns = Some(second));
        let mut next = watched.next();
        let mut snapshot = kit::snapshot(10, vec![]);
        snapshot.node.own_cpu_ns = Some(10);
        next.take(&snapshot);
        let told = |node: &Node| Some((node.own_cpu_ns?, 0));
        assert_eq!(next.lately(2.0, told), Some(vec![9, 10]));
        assert_eq!(next.lately(3.0, told), None);
    }
}
