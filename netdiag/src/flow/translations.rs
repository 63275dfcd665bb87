//! Where conversations go whose addresses are translated on the way, by the two tuples of connection
//! tracking's entries.
//!
//! An entry is joined to the rows of its two ends when it comes and when such a row gets its key, whichever
//! is later, and then the rows keep what they were told. So the entry may be gone before its sockets are.

use std::sync::Arc;

use netdiag_common::flow::FlowKey;
use slab::Slab;

use super::{
    recency::{Place, Recency},
    tuples::{Tuples, reversed},
};
use crate::signal::conntrack::{Entry, Tuple};

/// Translators that a packet passes at most, each in a namespace of its own: those of a node that runs in a
/// container of another one are two.
const HOPS: usize = 4;

/// An address and a port.
pub type End = ([u8; 16], u16);

/// What a conversation was addressed to, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// Where the client sends to.
    pub service: End,
    /// Where that arrives.
    pub backend: End,
}

/// One entry that translates the destination.
#[derive(Debug)]
struct Step {
    /// The client's end as the client has it.
    before: FlowKey,
    /// The same as it is behind the translator.
    after: FlowKey,
    /// When it was put into the table.
    time_ns: u64,
}

/// The two ends of a conversation, however often it is translated between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// As its own socket has it, in the namespace of the translator.
    pub(super) client: FlowKey,
    /// Likewise.
    pub(super) server: FlowKey,
    pub(super) translation: Arc<Translation>,
}

/// What an entry that begins says of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// Nothing that is to be kept.
    Nothing,
    /// It is translated so.
    Translated(Ends),
    /// It is not, and the one before with this tuple was.
    Plain(Ends),
}

/// The entries that are there, up to a number.
#[derive(Debug)]
pub(super) struct Translations {
    most: usize,
    steps: Slab<Step>,
    recency: Recency,
    before: Tuples,
    after: Tuples,
}

impl Translations {
    /// None, and room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            steps: Slab::new(),
            recency: Recency::default(),
            before: Tuples::default(),
            after: Tuples::default(),
        }
    }

    /// An entry is in the table since then; one that does not translate the destination takes the place of
    /// one that did. CPUs tell in any order.
    pub(super) fn begin(&mut self, entry: &Entry, reply: &Tuple, time_ns: u64) -> Began {
        let before = entry.key(&entry.original);
        let after = reversed(&entry.key(reply));
        let known = self.before.find(&before);
        if known.is_some_and(|slot| self.steps[slot as usize].time_ns > time_ns) {
            return Began::Nothing;
        }
        let translates = peer(&before) != peer(&after);
        if let Some(slot) = known {
            let ends = self.ends(slot);
            self.remove(slot);
            if !translates {
                return Began::Plain(ends);
            }
        }
        if !translates {
            return Began::Nothing;
        }
        if self.steps.len() >= self.most
            && let Some(oldest) = self.recency.oldest(Place::Live)
        {
            self.remove(oldest);
        }
        let slot = self.steps.insert(Step { before, after, time_ns }) as u32;
        self.before.insert(&before, slot);
        self.after.insert(&after, slot);
        self.recency.promote(slot, Place::Live);
        Began::Translated(self.ends(slot))
    }

    /// An entry is gone since then: its tuple may be another's now.
    pub(super) fn end(&mut self, entry: &Entry, time_ns: u64) {
        let known = self.before.find(&entry.key(&entry.original));
        if let Some(slot) = known.filter(|&slot| self.steps[slot as usize].time_ns <= time_ns) {
            self.remove(slot);
        }
    }

    /// What is known of the conversation that this is an end of.
    pub(super) fn of(&self, key: &FlowKey) -> Option<Ends> {
        if self.steps.is_empty() {
            return None;
        }
        let slot = at(&self.before, key).or_else(|| at(&self.after, &reversed(key)))?;
        Some(self.ends(slot))
    }

    fn ends(&self, slot: u32) -> Ends {
        let (mut first, mut last) = (&self.steps[slot as usize], &self.steps[slot as usize]);
        for _ in 1..HOPS {
            let earlier = self.after.find_in_any(&anywhere(&first.before));
            first = earlier.map_or(first, |slot| &self.steps[slot as usize]);
            let later = self.before.find_in_any(&anywhere(&last.after));
            last = later.map_or(last, |slot| &self.steps[slot as usize]);
        }
        let translation = Translation { service: peer(&first.before), backend: peer(&last.after) };
        Ends {
            client: first.before,
            server: reversed(&last.after),
            translation: Arc::new(translation),
        }
    }

    fn remove(&mut self, slot: u32) {
        let step = self.steps.remove(slot as usize);
        self.recency.remove(slot);
        self.before.remove(&step.before, slot);
        self.after.remove(&step.after, slot);
    }
}

/// The one of this key in its namespace, else the only one anywhere: a pod's packets are translated outside
/// of it.
fn at(tuples: &Tuples, key: &FlowKey) -> Option<u32> {
    tuples.find(key).or_else(|| tuples.find_in_any(&anywhere(key)))
}

const fn anywhere(key: &FlowKey) -> FlowKey {
    FlowKey { netns: 0, ..*key }
}

const fn peer(key: &FlowKey) -> End {
    (key.peer_addr, key.peer_port)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netdiag_common::flow::TCP;

    use super::*;

    fn ip(host: u8) -> [u8; 16] {
        Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets()
    }

    fn tuple(source: (u8, u16), destination: (u8, u16)) -> Tuple {
        Tuple {
            source: ip(source.0),
            source_port: source.1,
            destination: ip(destination.0),
            destination_port: destination.1,
        }
    }

    fn entry(netns: u32, source: (u8, u16), destination: (u8, u16)) -> Entry {
        Entry { netns, zone: 0, protocol: TCP, original: tuple(source, destination) }
    }

    fn translated(began: Began) -> Ends {
        let Began::Translated(ends) = began else { panic!("{began:?} does not translate") };
        ends
    }

    const CLIENT: (u8, u16) = (1, 40_000);
    const SERVICE: (u8, u16) = (96, 80);
    const NODE: (u8, u16) = (7, 30_080);
    const POD: (u8, u16) = (9, 8080);

    fn translation(service: (u8, u16), backend: (u8, u16)) -> Translation {
        Translation { service: (ip(service.0), service.1), backend: (ip(backend.0), backend.1) }
    }

    #[test]
    fn both_ends_find_their_entry_also_from_another_namespace() {
        let mut translations = Translations::new(8);
        let entry = entry(3, CLIENT, SERVICE);
        let told = translated(translations.begin(&entry, &tuple(POD, CLIENT), 5));
        assert_eq!(*told.translation, translation(SERVICE, POD));
        for netns in [3, 4] {
            let of = |from, to| translations.of(&FlowKey { netns, ..entry.key(&tuple(from, to)) });
            assert_eq!(of(CLIENT, SERVICE).as_ref(), Some(&told));
            assert_eq!(of(POD, CLIENT).as_ref(), Some(&told));
            assert_eq!(of(CLIENT, POD), None);
        }
        translations.end(&entry, 4);
        assert!(translations.of(&entry.key(&entry.original)).is_some(), "that was an earlier one");
        translations.end(&entry, 6);
        assert_eq!(translations.of(&entry.key(&entry.original)), None);
        assert!(translations.steps.is_empty());
    }

    #[test]
    fn a_tuple_that_is_used_again_is_what_it_was_last() {
        let mut translations = Translations::new(8);
        let entry = entry(3, CLIENT, SERVICE);
        let client = entry.key(&entry.original);
        translations.begin(&entry, &tuple(POD, CLIENT), 5);
        let late = translations.begin(&entry, &tuple((10, 8080), CLIENT), 4);
        assert_eq!(late, Began::Nothing);
        translations.begin(&entry, &tuple((11, 8080), CLIENT), 7);
        let told = translations.of(&client).map(|ends| *ends.translation);
        assert_eq!(told, Some(translation(SERVICE, (11, 8080))));
        let plain = translations.begin(&entry, &tuple(SERVICE, CLIENT), 9);
        assert!(matches!(plain, Began::Plain(ends) if ends.client == client), "it was translated");
        assert_eq!(translations.of(&client), None, "it is not translated any more");
        assert_eq!(translations.begin(&entry, &tuple(SERVICE, CLIENT), 10), Began::Nothing);
    }

    #[test]
    fn the_same_tuples_in_two_namespaces_are_nobodys_elsewhere() {
        let mut translations = Translations::new(8);
        for (netns, backend) in [(3, POD), (4, NODE)] {
            translations.begin(&entry(netns, CLIENT, SERVICE), &tuple(backend, CLIENT), 5);
        }
        let of = |netns| {
            let key =
                FlowKey { netns, ..entry(netns, CLIENT, SERVICE).key(&tuple(CLIENT, SERVICE)) };
            translations.of(&key).map(|ends| *ends.translation)
        };
        assert_eq!(of(3), Some(translation(SERVICE, POD)));
        assert_eq!(of(4), Some(translation(SERVICE, NODE)));
        assert_eq!(of(5), None);
    }

    #[test]
    fn translators_one_behind_the_other_lead_to_the_last() {
        let masked = (7, 50_000);
        let outer = entry(3, CLIENT, SERVICE);
        let inner = entry(4, CLIENT, NODE);
        let steps = [(&outer, tuple(NODE, CLIENT)), (&inner, tuple(POD, masked))];
        for order in [[0, 1], [1, 0]] {
            let mut translations = Translations::new(8);
            let told = order.map(|at| translations.begin(steps[at].0, &steps[at].1, 5));
            let told = translated(told[1].clone());
            assert_eq!(*told.translation, translation(SERVICE, POD));
            assert_eq!(told.client, outer.key(&outer.original));
            assert_eq!(told.server, inner.key(&tuple(POD, masked)));
        }
    }

    #[test]
    fn the_oldest_goes_for_one_that_comes() {
        let mut translations = Translations::new(2);
        for port in 0..5 {
            translations.begin(&entry(3, (1, port), SERVICE), &tuple(POD, (1, port)), 5);
        }
        assert_eq!(translations.steps.len(), 2);
        let of =
            |port| translations.of(&entry(3, (1, port), SERVICE).key(&tuple((1, port), SERVICE)));
        assert!(of(2).is_none() && of(3).is_some() && of(4).is_some());
    }
}
