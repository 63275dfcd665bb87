//! Entries of the connection tracking table that something happened to: rows of their own, bounded, and
//! exact for ever like those of flows.

use std::{cmp::Reverse, collections::HashMap, mem};

use slab::Slab;

pub use self::creators::TopCreator;
use self::life::Life;
use crate::{
    flow::{
        recency::{Place, Recency},
        tally::{Tally, merge_counts},
    },
    signal::{
        CountId, Event, Fold,
        conntrack::{self, CONFIRMED, Creator, DESTROYED, Entry, NEW, Tuple},
    },
};

mod creators;
mod life;

/// One entry's share of an interval or a run, frozen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// Which entry.
    pub entry: Entry,
    /// The conversation as its answers come back, where known.
    pub reply: Option<Tuple>,
    /// Who made it, where known.
    pub creator: Option<Creator>,
    /// How long it has been in the table, or had been when it was freed last; none where it was not seen
    /// to come into it.
    pub age_ns: Option<u64>,
    /// Numbers of the flows that it is for.
    pub flows: Vec<u64>,
    /// Counts that are present, sorted by id; an absent one is 0.
    pub counts: Vec<(CountId, u64)>,
}

impl Frozen {
    /// A count.
    #[must_use]
    pub fn count(&self, count: CountId) -> u64 {
        self.counts.iter().find(|(id, _)| *id == count).map_or(0, |&(_, n)| n)
    }

    /// All that happened to it.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.counts.iter().map(|(_, n)| n).sum()
    }
}

/// All entries of an interval or a run.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Who made the most, the most first; of all rows, however many are kept.
    pub creators: Vec<TopCreator>,
    /// Those with a row of their own, in no order.
    pub rows: Vec<Frozen>,
    /// Counts of all others, sorted by id.
    pub other: Vec<(CountId, u64)>,
}

impl Interval {
    /// Those first to which most happened; beyond `top`, into `other`.
    pub fn arrange(&mut self, top: Option<usize>) {
        self.rows.sort_by_cached_key(|row| {
            let Entry { netns, zone, protocol, original } = row.entry;
            (Reverse(row.sum()), netns, zone, protocol, original)
        });
        let top = top.unwrap_or(usize::MAX).min(self.rows.len());
        for row in self.rows.drain(top..) {
            merge_counts(&mut self.other, &row.counts);
        }
    }
}

/// An entry; of what stands for many, also who made them.
type Key = (Entry, Option<u32>);

#[derive(Debug, Default)]
struct Row {
    key: Key,
    /// Something happened to it since the last freeze; its slot is in the list of those.
    touched: bool,
    reply: Option<Tuple>,
    creator: Option<Creator>,
    life: Life,
    /// Since the last freeze.
    fresh: Tally,
    /// Until the last freeze.
    past: Tally,
}

impl Row {
    fn frozen(&self, counts: Vec<(CountId, u64)>, now_ns: u64, blurred_ns: u64) -> Frozen {
        Frozen {
            entry: self.key.0.clone(),
            reply: self.reply,
            creator: self.creator.clone(),
            age_ns: self.life.age_ns(now_ns, blurred_ns),
            flows: Vec::new(),
            counts,
        }
    }
}

impl Fold for Row {
    fn count(&mut self, count: CountId, n: u64) {
        self.fresh.count(count, n);
    }

    fn entry(&mut self, event: &conntrack::Event) {
        // Address translation comes after the entry was made.
        if event.what != NEW || self.reply.is_none() {
            self.reply = event.reply.or(self.reply);
        }
        // Who makes it anew is told after those who made it before.
        if event.creator.is_some() {
            self.creator.clone_from(&event.creator);
        }
        match event.what {
            CONFIRMED if event.entry.is_known_apart() => self.life.begin(event.time_ns),
            DESTROYED if event.entry.is_known_apart() => self.life.end(event.time_ns),
            _ => {}
        }
    }
}

/// The rows.
#[derive(Debug)]
pub(super) struct Entries {
    most: usize,
    rows: Slab<Row>,
    by_key: HashMap<Key, u32>,
    recency: Recency,
    /// Slots of rows with something fresh, and of some that are gone.
    touched: Vec<u32>,
    /// Interval share of rows that are gone.
    other: Tally,
    /// Share of the run of rows that are gone.
    total_other: Tally,
    /// When the last interval ended.
    frozen_ns: u64,
    /// When ends of entries were last told of many at once: whose end that was is not known.
    blurred_ns: u64,
}

impl Entries {
    /// No rows, and room for `most` of them.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            rows: Slab::new(),
            by_key: HashMap::new(),
            recency: Recency::default(),
            touched: Vec::new(),
            other: Tally::default(),
            total_other: Tally::default(),
            frozen_ns: 0,
            blurred_ns: 0,
        }
    }

    /// Adds an event to the row of its entry.
    pub(super) fn apply(&mut self, entry: &Entry, event: &Event) {
        let creator = match event {
            Event::Conntrack(event) if !entry.is_one() => {
                if event.what == DESTROYED {
                    self.blurred_ns = self.blurred_ns.max(event.time_ns);
                }
                event.creator.as_ref().map(|by| by.pid)
            }
            _ => None,
        };
        let key = (entry.clone(), creator);
        let slot = match self.by_key.get(&key) {
            Some(&slot) => slot,
            None => self.insert(key),
        };
        self.recency.promote(slot, Place::Live);
        let row = &mut self.rows[slot as usize];
        if !mem::replace(&mut row.touched, true) {
            self.touched.push(slot);
        }
        event.fold(row);
    }

    fn insert(&mut self, key: Key) -> u32 {
        // The first row that goes may make another one, that of all like it; the second may not. So
        // few rows go for one that comes, however many destinations there are.
        if self.rows.len() >= self.most && !self.evict(true) {
            self.evict(false);
        }
        let slot = self.rows.insert(Row { key: key.clone(), ..Row::default() }) as u32;
        self.by_key.insert(key, slot);
        slot
    }

    /// Sums up the row to which nothing happened for the longest time: with all that its creator made to
    /// the same destination, which have a row or, where they `may_begin` one, get it; else with all others.
    /// Returns whether there is a row less.
    fn evict(&mut self, may_begin: bool) -> bool {
        let Some(slot) = self.recency.oldest(Place::Live) else { return false };
        self.recency.remove(slot);
        let row = self.rows.remove(slot as usize);
        self.by_key.remove(&row.key);
        if self.touched.len() > 2 * self.most {
            self.touched.sort_unstable();
            self.touched.dedup();
        }
        let key = (row.key.0.summed_up(), row.creator.as_ref().map(|by| by.pid));
        let sum = self.by_key.get(&key).copied();
        if row.key.0.is_one() && (may_begin || sum.is_some()) {
            self.sum_up(row, key);
            return sum.is_some();
        }
        self.other.merge(&row.fresh);
        self.total_other.merge(&row.fresh);
        self.total_other.merge(&row.past);
        true
    }

    /// Adds a row of one entry to that of all like it. There was room for it, so there is for that.
    fn sum_up(&mut self, row: Row, key: Key) {
        let slot = self.by_key.get(&key).copied().unwrap_or_else(|| {
            let slot = self.rows.insert(Row { key: key.clone(), ..Row::default() }) as u32;
            self.by_key.insert(key, slot);
            slot
        });
        self.recency.promote(slot, Place::Live);
        let sum = &mut self.rows[slot as usize];
        sum.creator = sum.creator.take().or(row.creator);
        sum.past.merge(&row.past);
        sum.fresh.merge(&row.fresh);
        if row.touched && !mem::replace(&mut sum.touched, true) {
            self.touched.push(slot);
        }
    }

    /// How long an entry had been in the table when it was freed last; none while it is there.
    pub(super) fn lived_ns(&self, entry: &Entry) -> Option<u64> {
        let slot = self.by_key.get(&(entry.clone(), None))?;
        self.rows.get(*slot as usize)?.life.lived_ns(self.blurred_ns)
    }

    /// What happened since the last call.
    pub(super) fn freeze(&mut self, now_ns: u64) -> Interval {
        self.frozen_ns = now_ns;
        let mut rows = Vec::with_capacity(self.touched.len());
        for slot in mem::take(&mut self.touched) {
            // Gone, or its slot is another's and was met before.
            let Some(row) = self.rows.get_mut(slot as usize).filter(|row| row.touched) else {
                continue;
            };
            row.touched = false;
            let fresh = mem::take(&mut row.fresh);
            row.past.merge(&fresh);
            rows.push(row.frozen(fresh.counts, now_ns, self.blurred_ns));
        }
        Interval { rows, other: mem::take(&mut self.other).counts, ..Interval::default() }
    }

    /// What happened since the start.
    pub(super) fn total(&self) -> Interval {
        let whole = |row: &Row| {
            let mut counts = row.past.counts.clone();
            merge_counts(&mut counts, &row.fresh.counts);
            row.frozen(counts, self.frozen_ns, self.blurred_ns)
        };
        let rows = self.rows.iter().map(|(_, row)| whole(row)).collect();
        Interval { rows, other: self.total_other.counts.clone(), ..Interval::default() }
    }
}

#[cfg(test)]
mod tests;
