//! The flow table: events in, intervals and the total of a run out. Bounded, and exact for ever:
//! what a row counted stays in the interval and in the total when the row goes.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use netdiag_common::flow::FlowId;
use slab::Slab;

use crate::{
    flow::{
        Frozen,
        entries::Entries,
        owners::Owners,
        recency::{Place, Recency},
        row::{Row, RowMut},
        shares::Shares,
        sums::Sums,
        translations::Translations,
        tuples::Tuples,
    },
    signal::{Event, Subject, socket::What},
};

use self::join::Opening;

mod freeze;
mod join;
mod look;
mod refresh;
mod seed;
mod translate;
mod unbound;
mod users;

pub use freeze::Total;
pub use look::{Handle, Whose};
pub use refresh::Fresh;
pub use seed::Seed;

/// Entries of the connection tracking table have one row for so many of flows.
const ENTRIES_SHARE: usize = 8;

/// Entries that translate are remembered for so many rows one: a row keeps what it was told.
const TRANSLATIONS_SHARE: usize = 4;

/// Settings of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rows kept at most: those in the table and those that left it (at least 1).
    pub max_flows: usize,
    /// Time without an event after which a row leaves the table, in nanoseconds.
    pub idle_ns: u64,
    /// Whether intervals and the total list rows of which nothing was heard.
    pub list_idle: bool,
    /// Whether packets of conversations without a row are left out altogether: the programs could
    /// not tell whether a filter wants them.
    pub known_only: bool,
    /// The same for those whose network namespace is not known.
    pub known_netns_only: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_flows: 65_536,
            idle_ns: 60_000_000_000,
            list_idle: false,
            known_only: false,
            known_netns_only: false,
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct FlowTable {
    config: Config,
    rows: Slab<Row>,
    /// What rows counted since the last freeze.
    shares: Shares,
    /// Whom rows belong to.
    owners: Owners,
    by_id: HashMap<FlowId, u32, RandomState>,
    tuples: Tuples,
    recency: Recency,
    next_number: u64,
    /// Slots of rows with `touched`; may name a slot twice, or one whose row is gone.
    touched: Vec<u32>,
    /// Rows with `touched`.
    active: usize,
    /// Closed rows by the tuple that they had, each the last one of it.
    closed: Tuples,
    /// Rows that are known by packets only, not by a socket, by their last packet; all `Live`.
    strays: Recency,
    /// The same by tuple: they are nobody's other end, and make no socket's tuple ambiguous.
    packets: Tuples,
    /// Interval shares of rows that went before the freeze; at most `max_flows` of them.
    gone: Vec<Frozen>,
    /// Interval share that has no row.
    other: Sums,
    /// Share of the run that has no row.
    total_other: Sums,
    /// Rows that are summed up in either.
    folded: u64,
    total_folded: u64,
    /// What is no flow: entries of the connection tracking table.
    entries: Entries,
    /// Those that translate addresses.
    translations: Translations,
    /// Sockets whose events count nowhere, since their user is not wanted.
    left_out: HashSet<FlowId, RandomState>,
    /// Some found no room there.
    lacks_room_to_leave_out: bool,
}

impl FlowTable {
    /// An empty table.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config: Config { max_flows: config.max_flows.max(1), ..config },
            rows: Slab::new(),
            shares: Shares::default(),
            owners: Owners::default(),
            by_id: HashMap::default(),
            tuples: Tuples::default(),
            recency: Recency::default(),
            next_number: 1,
            touched: Vec::new(),
            active: 0,
            closed: Tuples::default(),
            strays: Recency::default(),
            packets: Tuples::default(),
            gone: Vec::new(),
            other: Sums::default(),
            total_other: Sums::default(),
            folded: 0,
            total_folded: 0,
            entries: Entries::new(config.max_flows / ENTRIES_SHARE),
            translations: Translations::new(config.max_flows / TRANSLATIONS_SHARE),
            left_out: HashSet::default(),
            lacks_room_to_leave_out: false,
        }
    }

    /// Rows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recency.len(Place::Live)
    }

    /// Rows that it may have.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.config.max_flows
    }

    /// Whether no row is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an event to the row of its flow, and says whose it is. `now_ns` is any clock that does not run backwards,
    /// the same in all calls; one reading for a batch of events will do.
    pub fn apply(&mut self, event: &Event, now_ns: u64) -> Whose {
        if !self.left_out.is_empty() && self.is_left_out(event) {
            return Whose::LeftOut;
        }
        let slot = match event.subject() {
            Subject::Entry(entry) => {
                self.entries.apply(entry, event);
                if let Event::Conntrack(event) = event {
                    self.translate(event);
                }
                let slot = self.of_tuple(entry, &entry.original);
                return slot.map_or(Whose::Nobodys, |slot| Whose::Flows(self.handle(slot)));
            }
            Subject::Flow(0) => None,
            Subject::Flow(id) => Some(self.of_id(id)),
            Subject::Socket(socket) => {
                let closing = matches!(event, Event::Socket(e) if e.what == What::Close);
                let (tcp, opening) = match event {
                    Event::Socket(e) => (e.tcp.as_ref(), Opening::of(e)),
                    _ => (None, Opening::default()),
                };
                self.of_socket(socket, closing, opening, tcp)
            }
            Subject::Packet { key, ends_known } => match self.of_packet(key, ends_known, now_ns) {
                None if self.leaves_out(key) => return Whose::LeftOut,
                slot => slot,
            },
            Subject::Asker(key) => self.of_asker(key, now_ns),
        };
        let Some(slot) = slot else {
            let mut nobody = Row::default();
            event.fold(&mut RowMut { row: &mut nobody, shares: &mut self.shares });
            let fresh = self.shares.take(&mut nobody.share);
            self.other.merge(&fresh);
            self.total_other.merge(&fresh);
            return Whose::Nobodys;
        };
        self.touch(slot, now_ns);
        event.fold(&mut self.row_mut(slot));
        let row = &mut self.rows[slot as usize];
        // Samples name no owner.
        if !matches!(event.subject(), Subject::Flow(_)) {
            self.owners.share(&mut row.who);
        }
        if row.closed {
            if self.recency.place(slot) != Some(Place::Left) {
                self.leave(slot);
            }
        } else {
            self.recency.promote(slot, Place::Live);
        }
        let whose = Whose::Flows(self.handle(slot));
        self.gather(slot, event, now_ns);
        whose
    }

    /// Makes rows leave the table of which nothing was heard for the idle time. Their sockets may
    /// still be there: the next event brings the row back.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some(slot) = self.recency.oldest(Place::Live) {
            let idle_ns = now_ns.saturating_sub(self.rows[slot as usize].last_ns);
            if idle_ns < self.config.idle_ns {
                break;
            }
            self.recency.promote(slot, Place::Left);
        }
    }

    /// A row to write to.
    fn row_mut(&mut self, slot: u32) -> RowMut<'_> {
        RowMut { row: &mut self.rows[slot as usize], shares: &mut self.shares }
    }

    fn touch(&mut self, slot: u32, now_ns: u64) {
        let row = &mut self.rows[slot as usize];
        row.last_ns = row.last_ns.max(now_ns);
        row.heard = true;
        if !row.touched {
            row.touched = true;
            self.active += 1;
            self.touched.push(slot);
            if self.touched.len() > 2 * self.config.max_flows {
                self.touched.sort_unstable();
                self.touched.dedup();
            }
        }
    }

    fn insert(&mut self, mut row: Row) -> u32 {
        if self.rows.len() >= self.config.max_flows {
            self.evict();
        }
        row.number = self.next_number;
        self.next_number += 1;
        let flow = row.flow;
        let slot = self.rows.insert(row) as u32;
        if flow != 0 {
            self.by_id.insert(flow, slot);
        }
        slot
    }

    /// A row whose conversation is over: its tuple may be another's now.
    fn leave(&mut self, slot: u32) {
        let key = self.rows[slot as usize].key;
        self.tuples.remove(&key, slot);
        self.closed.insert(&key, slot);
        self.recency.promote(slot, Place::Left);
    }

    /// Takes a row out of everything that leads to it.
    fn take(&mut self, slot: u32) -> Row {
        let row = self.rows.remove(slot as usize);
        self.recency.remove(slot);
        self.tuples.remove(&row.key, slot);
        self.closed.remove(&row.key, slot);
        if self.by_id.get(&row.flow) == Some(&slot) {
            self.by_id.remove(&row.flow);
        }
        self.active -= usize::from(row.touched);
        self.strays.remove(slot);
        self.packets.remove(&row.key, slot);
        row
    }

    /// Makes room: the row that left the table first goes, else the one that is idle for the
    /// longest time.
    fn evict(&mut self) {
        let oldest = self.recency.oldest(Place::Left).or_else(|| self.recency.oldest(Place::Live));
        if let Some(slot) = oldest {
            self.remove(slot);
        }
    }

    /// Sums a row up in `other`, for the total and, what is not frozen, for the interval.
    fn remove(&mut self, slot: u32) {
        let mut row = self.take(slot);
        let fresh = self.shares.take(&mut row.share);
        self.total_other.merge(&row.past.sums());
        self.total_other.merge(&fresh);
        self.total_folded += u64::from(row.heard && row.is_shown());
        if !row.touched {
            return;
        }
        if row.is_shown() && self.gone.len() + self.active < self.config.max_flows {
            self.gone.push(row.frozen(fresh.tally(), false));
        } else {
            self.other.merge(&fresh);
            self.folded += u64::from(row.is_shown());
        }
    }
}

#[cfg(test)]
mod tests;
