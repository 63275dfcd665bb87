//! Which flows are the two ends of one conversation: those whose addresses and ports are each other's, as they are
//! or as connection tracking says that they were translated.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use super::counts;
use crate::snapshot::{Conntrack, Endpoint, Flow, Tuple};

/// Flows that are remembered as possible ends.
const MOST: usize = 65_536;
/// Clocks of two nodes may differ by that much, in nanoseconds.
const SKEW_NS: i64 = 60_000_000_000;

/// A flow of a run of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// Name of the node.
    pub(super) node: String,
    /// Number of the run.
    pub(super) run: u32,
    /// Id of the flow.
    pub(super) id: String,
}

/// An end as it sees itself and the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    protocol: Option<String>,
    netns: Option<u32>,
    /// Its own pair of local and peer.
    own: (SocketAddr, SocketAddr),
    /// Local and peer of the other end where they are not its own the other way round, of each translation known.
    translated: Vec<(SocketAddr, SocketAddr)>,
    first: i64,
    last: i64,
    trouble: u64,
    spent_ns: u64,
    wanted: bool,
}

/// Two ends of one conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The client's first where that is known, else the one whose node comes first.
    pub(super) ends: [Key; 2],
    /// Whether addresses were translated between them.
    pub(super) translated: bool,
    /// When it was first seen, in nanoseconds since the epoch.
    pub(super) first: i64,
    /// When it was last seen.
    pub(super) last: i64,
}

/// Possible ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    all: HashMap<Key, End>,
    /// Flows beyond [`MOST`].
    pub(super) left_out: u64,
}

impl Ends {
    /// Adds the flow's share of an interval; `times` are the interval's. Of a conversation one end at least is wanted.
    pub(super) fn take(
        &mut self,
        key: Key,
        flow: &Flow,
        (spent_ns, wanted): (u64, bool),
        times: (i64, i64),
    ) {
        let (Some(local), Some(peer)) = (socket(&flow.local), socket(&flow.peer)) else { return };
        // A loopback conversation has both its ends in one place.
        if flow.group.is_some() || local.ip().is_loopback() || peer.ip().is_loopback() {
            return;
        }
        let room = self.all.len() < MOST;
        let end = match self.all.get_mut(&key) {
            Some(end) => end,
            None if room => self.all.entry(key).or_insert_with(|| End {
                protocol: flow.protocol.clone(),
                netns: flow.netns,
                own: (local, peer),
                translated: Vec::new(),
                first: times.0,
                last: times.1,
                trouble: 0,
                spent_ns: 0,
                wanted,
            }),
            None => {
                self.left_out += 1;
                return;
            }
        };
        end.first = end.first.min(times.0);
        end.last = end.last.max(times.1);
        end.trouble = end.trouble.saturating_add(counts::trouble(&flow.counts));
        end.spent_ns = end.spent_ns.saturating_add(spent_ns);
        // Who answers behind a service.
        if let Some(backend) = flow.backend.as_ref().and_then(socket).filter(|it| *it != local) {
            end.add((backend, local));
        }
    }

    /// Adds what connection tracking tells of the flows of an interval that is from there.
    pub(super) fn translate(&mut self, node: &str, run: u32, conntrack: &Conntrack) {
        let entries = conntrack.entries.iter().filter(|entry| !entry.flows.is_empty());
        for entry in entries {
            let original = ends(&entry.original);
            let Some((reply, original)) = entry.reply.as_ref().and_then(ends).zip(original) else {
                continue;
            };
            for id in &entry.flows {
                let key = Key { node: node.to_owned(), run, id: id.clone() };
                let Some(end) = self.all.get_mut(&key) else { continue };
                // Answers come from the other end's own address and go to the one it knows the client by.
                if end.own == original && reply != (original.1, original.0) {
                    end.add(reply);
                }
            }
        }
    }

    /// Those of which both ends are there, the most troubled first, `top` at most.
    pub(super) fn pairs(&self, top: usize) -> Vec<Pair> {
        let mut by_own: HashMap<_, Vec<&Key>> = HashMap::new();
        for (key, end) in &self.all {
            by_own.entry((&end.protocol, end.own)).or_default().push(key);
        }
        let mut keys: Vec<&Key> = self.all.keys().collect();
        keys.sort_unstable();
        let mut taken: BTreeSet<&Key> = BTreeSet::new();
        let mut found = Vec::new();
        // What is known of a translation says more than what tuples look like.
        for by_translation in [true, false] {
            for key in &keys {
                let end = &self.all[*key];
                if taken.contains(key) {
                    continue;
                }
                let plain = [(end.own.1, end.own.0)];
                let wanted: &[_] = if by_translation { &end.translated } else { &plain };
                let others = wanted.iter().filter_map(|own| by_own.get(&(&end.protocol, *own)));
                let is_other = |other: &&&Key| !taken.contains(**other) && self.meet(key, other);
                let mut others: Vec<&Key> = others.flatten().filter(is_other).copied().collect();
                others.sort_unstable();
                let overlap = |other: &&Key| end.overlap(&self.all[*other]);
                let Some(other) = others.into_iter().rev().max_by_key(overlap) else { continue };
                taken.insert(*key);
                taken.insert(other);
                found.push((*key, other, by_translation));
            }
        }
        let rank = |(one, other, _): &(&Key, &Key, bool)| {
            let (one, other) = (&self.all[*one], &self.all[*other]);
            (one.trouble.saturating_add(other.trouble), one.spent_ns.saturating_add(other.spent_ns))
        };
        found.sort_by(|one, other| rank(other).cmp(&rank(one)).then_with(|| one.0.cmp(other.0)));
        found.truncate(top);
        found
            .into_iter()
            .map(|(one, other, translated)| self.pair(one, other, translated))
            .collect()
    }

    /// Whether two flows can be ends of one conversation: apart, and at the same time.
    fn meet(&self, one: &Key, other: &Key) -> bool {
        let (first, second) = (&self.all[one], &self.all[other]);
        let are_apart = one.node != other.node || first.netns != second.netns;
        one != other
            && are_apart
            && (first.wanted || second.wanted)
            && first.overlap(second) > -SKEW_NS
    }

    fn pair(&self, one: &Key, other: &Key, translated: bool) -> Pair {
        let (first, second) = (&self.all[one], &self.all[other]);
        Pair {
            ends: [one.clone(), other.clone()],
            translated,
            first: first.first.min(second.first),
            last: first.last.max(second.last),
        }
    }
}

impl End {
    fn add(&mut self, far: (SocketAddr, SocketAddr)) {
        if self.translated.len() < 4 && !self.translated.contains(&far) {
            self.translated.push(far);
        }
    }

    /// Nanoseconds in which both were there, negative where there was time between them.
    const fn overlap(&self, other: &Self) -> i64 {
        let end = if self.last < other.last { self.last } else { other.last };
        let start = if self.first > other.first { self.first } else { other.first };
        end.saturating_sub(start)
    }
}

fn socket(end: &Endpoint) -> Option<SocketAddr> {
    Some(SocketAddr::new(end.ip?, end.port?))
}

fn ends(tuple: &Tuple) -> Option<(SocketAddr, SocketAddr)> {
    Some((socket(&tuple.source)?, socket(&tuple.destination)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        snapshot::Entry,
        watched::kit::{self, end},
    };

    fn key(node: &str, id: &str) -> Key {
        Key { node: node.to_owned(), run: 1, id: id.to_owned() }
    }

    fn flow(local: (&str, u16), peer: (&str, u16)) -> Flow {
        Flow { local: end(local.0, local.1), ..kit::flow("f").to(peer.0, peer.1) }
    }

    fn entry(original: [(&str, u16); 2], reply: [(&str, u16); 2], flow: &str) -> Conntrack {
        let tuple = |[source, destination]: [(&str, u16); 2]| Tuple {
            source: end(source.0, source.1),
            destination: end(destination.0, destination.1),
        };
        let entry = Entry {
            netns: Some(1),
            zone: 0,
            protocol: Some("tcp".to_owned()),
            original: tuple(original),
            reply: Some(tuple(reply)),
            creator: None,
            age_ns: None,
            flows: vec![flow.to_owned()],
            counts: BTreeMap::new(),
        };
        Conntrack { entries: vec![entry], ..Conntrack::default() }
    }

    const CLIENT: (&str, u16) = ("10.0.0.1", 40_000);
    const SERVER: (&str, u16) = ("10.0.0.2", 443);
    const TIMES: (i64, i64) = (0, 1_000_000_000);

    #[test]
    fn ends_with_reversed_addresses_are_one_conversation() {
        let mut ends = Ends::default();
        ends.take(key("a", "f1"), &flow(CLIENT, SERVER), (1, true), TIMES);
        ends.take(key("b", "f9"), &flow(SERVER, CLIENT), (1, true), TIMES);
        ends.take(key("b", "f8"), &flow(SERVER, ("10.0.0.1", 40_001)), (1, true), TIMES);
        ends.take(key("c", "f1"), &flow(("127.0.0.1", 1), ("127.0.0.1", 2)), (1, true), TIMES);
        ends.take(key("d", "f1"), &flow(("127.0.0.1", 2), ("127.0.0.1", 1)), (1, true), TIMES);
        let pairs = ends.pairs(10);
        let [pair] = &pairs[..] else { panic!("{pairs:?}") };
        assert_eq!((&pair.ends, pair.translated), (&[key("a", "f1"), key("b", "f9")], false));
    }

    #[test]
    fn a_port_that_is_used_again_later_is_another_conversation() {
        let later = (10 * SKEW_NS, 11 * SKEW_NS);
        let mut ends = Ends::default();
        ends.take(key("a", "f1"), &flow(CLIENT, SERVER), (1, true), TIMES);
        ends.take(key("b", "f9"), &flow(SERVER, CLIENT), (1, true), later);
        assert_eq!(ends.pairs(10), []);
        ends.take(key("a", "f2"), &flow(CLIENT, SERVER), (1, true), later);
        assert_eq!(ends.pairs(10)[0].ends, [key("a", "f2"), key("b", "f9")]);
    }

    #[test]
    fn translated_ends_meet_by_what_connection_tracking_says() {
        let (service, backend) = (("10.96.0.1", 80), ("10.244.1.9", 8080));
        let client = flow(CLIENT, service);
        let mut known = client.clone();
        known.backend = Some(end(backend.0, backend.1));
        let mut ends = Ends::default();
        ends.take(key("a", "f1"), &known, (1, true), TIMES);
        ends.take(key("b", "f9"), &flow(backend, CLIENT), (1, true), TIMES);
        assert!(ends.pairs(10)[0].translated, "by the backend");

        let masked = ("192.0.2.1", 61_000);
        let mut ends = Ends::default();
        ends.take(key("a", "f1"), &client, (1, true), TIMES);
        ends.take(key("b", "f9"), &flow(backend, masked), (1, true), TIMES);
        assert_eq!(ends.pairs(10), [], "nobody knows");
        ends.translate("a", 1, &entry([CLIENT, service], [backend, masked], "f1"));
        assert_eq!(ends.pairs(10)[0].ends, [key("a", "f1"), key("b", "f9")]);
    }

    #[test]
    fn the_most_troubled_come_first() {
        let mut ends = Ends::default();
        for (id, port, lost) in [("f1", 1, 0), ("f2", 2, 9), ("f3", 3, 4)] {
            let flow = |local, peer| flow(local, peer).count("retransmits.rto", lost);
            ends.take(key("a", id), &flow(("10.0.0.1", port), SERVER), (1, true), TIMES);
            ends.take(key("b", id), &flow(SERVER, ("10.0.0.1", port)), (1, true), TIMES);
        }
        let ids: Vec<_> = ends.pairs(2).into_iter().map(|pair| pair.ends[0].id.clone()).collect();
        assert_eq!(ids, ["f2", "f3"]);
    }
}
