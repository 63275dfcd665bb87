//! Where conversations go whose addresses are translated on the way, by the two tuples of connection
//! tracking's entries.
//!
//! An entry is joined to the rows of its two ends when it comes and when such a row gets its key, whichever
//! is later, and then the rows keep what they were told. So the entry may be gone before its sockets are.
//!
//! A tuple is used again, and the end of an entry may be one of many that are told of at once. So the time of
//! an entry decides whether a row may be its, and what is told of a destination's entries at once makes all
//! unknown that were known of it.

use std::{collections::HashMap, sync::Arc};

use netdiag_common::flow::FlowKey;
use slab::Slab;

use super::{
    recency::{Place, Recency},
    tuples::{Tuples, anywhere, reversed},
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
    /// When the first of its entries was put into a table.
    pub(super) first_ns: u64,
    /// And the last.
    pub(super) last_ns: u64,
}

/// What an entry that begins says of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Began {
    /// So the one before with this tuple was translated, where that is known.
    pub(super) was: Option<Ends>,
    /// So it is now, where it is.
    pub(super) is: Option<Ends>,
}

/// Where entries lead to that are told of at once: namespace, protocol and destination. Without the latter two
/// all of the namespace.
type Many = (u32, u16, End);

/// The entries that are there, up to a number.
#[derive(Debug)]
pub(super) struct Translations {
    most: usize,
    steps: Slab<Step>,
    recency: Recency,
    before: Tuples,
    after: Tuples,
    /// When many were told of at once last.
    blurred: HashMap<Many, u64>,
    /// The same for all, where it is not known which, or these are too many to tell apart.
    all_blurred_ns: u64,
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
            blurred: HashMap::new(),
            all_blurred_ns: 0,
        }
    }

    /// An entry is in the table since then; one that does not translate the destination takes the place of
    /// one that did. CPUs tell in any order.
    pub(super) fn begin(&mut self, entry: &Entry, reply: &Tuple, time_ns: u64) -> Began {
        let before = entry.key(&entry.original);
        let after = reversed(&entry.key(reply));
        let known = self.before.find(&before);
        if known.is_some_and(|slot| self.steps[slot as usize].time_ns > time_ns) {
            return Began::default();
        }
        let was = known.map(|slot| self.ends(slot));
        if let Some(slot) = known {
            self.remove(slot);
        }
        if peer(&before) == peer(&after) {
            return Began { was, is: None };
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
        Began { was, is: Some(self.ends(slot)) }
    }

    /// An entry is gone since then: its tuple may be another's now.
    pub(super) fn end(&mut self, entry: &Entry, time_ns: u64) {
        let known = self.before.find(&entry.key(&entry.original));
        if let Some(slot) = known.filter(|&slot| self.steps[slot as usize].time_ns <= time_ns) {
            self.remove(slot);
        }
    }

    /// Many entries began or ended up to then that lead where this one does: those that were known before may be
    /// among them.
    pub(super) fn blur(&mut self, many: &Entry, time_ns: u64) {
        let key = many.key(&many.original);
        if key.netns == 0 {
            self.all_blurred_ns = self.all_blurred_ns.max(time_ns);
            return;
        }
        let many = (key.netns, key.protocol, peer(&key));
        if self.blurred.len() >= self.most && !self.blurred.contains_key(&many) {
            let newest_ns = self.blurred.drain().map(|(_, time_ns)| time_ns).max();
            self.all_blurred_ns = self.all_blurred_ns.max(newest_ns.unwrap_or_default());
        }
        let blurred_ns = self.blurred.entry(many).or_default();
        *blurred_ns = time_ns.max(*blurred_ns);
    }

    /// Whether an entry is known for certain to be there yet.
    fn is_certain(&self, slot: u32) -> bool {
        let Step { before, time_ns, .. } = &self.steps[slot as usize];
        let manies = [(before.netns, before.protocol, peer(before)), (before.netns, 0, NOWHERE)];
        let blurred_ns = manies.iter().filter_map(|many| self.blurred.get(many));
        blurred_ns.chain([&self.all_blurred_ns]).all(|blurred_ns| {
            // What was there before all events is as old as no event at all.
            *blurred_ns < *time_ns || *blurred_ns == 0
        })
    }

    /// What is known of the conversation that this is an end of.
    pub(super) fn of(&self, key: &FlowKey) -> Option<Ends> {
        if self.steps.is_empty() {
            return None;
        }
        let slot = at(&self.before, key).or_else(|| at(&self.after, &reversed(key)))?;
        self.is_certain(slot).then(|| self.ends(slot))
    }

    fn ends(&self, slot: u32) -> Ends {
        let (mut first, mut last) = (&self.steps[slot as usize], &self.steps[slot as usize]);
        let (mut first_ns, mut last_ns) = (first.time_ns, first.time_ns);
        let certain = |slot: Option<u32>| {
            slot.filter(|&slot| self.is_certain(slot)).map(|slot| &self.steps[slot as usize])
        };
        for _ in 1..HOPS {
            let earlier = certain(self.after.find_in_any(&anywhere(&first.before)));
            let later = certain(self.before.find_in_any(&anywhere(&last.after)));
            for step in [earlier, later].into_iter().flatten() {
                (first_ns, last_ns) = (first_ns.min(step.time_ns), last_ns.max(step.time_ns));
            }
            (first, last) = (earlier.unwrap_or(first), later.unwrap_or(last));
        }
        let translation = Translation { service: peer(&first.before), backend: peer(&last.after) };
        Ends {
            client: first.before,
            server: reversed(&last.after),
            translation: Arc::new(translation),
            first_ns,
            last_ns,
        }
    }

    fn remove(&mut self, slot: u32) {
        let step = self.steps.remove(slot as usize);
        self.recency.remove(slot);
        self.before.remove(&step.before, slot);
        self.after.remove(&step.after, slot);
    }
}

/// The destination of entries that lead anywhere.
const NOWHERE: End = ([0; 16], 0);

/// The one of this key in its namespace, else the only one anywhere: a pod's packets are translated outside
/// of it.
fn at(tuples: &Tuples, key: &FlowKey) -> Option<u32> {
    tuples.find(key).or_else(|| tuples.find_in_any(&anywhere(key)))
}

const fn peer(key: &FlowKey) -> End {
    (key.peer_addr, key.peer_port)
}

#[cfg(test)]
mod tests;
