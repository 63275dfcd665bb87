//! What an interval and a run come to.

use std::{collections::HashSet, mem};

use slab::Slab;

use super::FlowTable;
use crate::flow::{
    Frozen, Interval, recency::Place, row::Row, shares::Shares, sums::Sums, tally::Tally,
};

impl FlowTable {
    /// Freezes what happened since the last call, and makes idle rows leave.
    ///
    /// A socket whose record told no local port yet is left out once: what it counted comes with
    /// the next interval, under its name if that is complete by then, else in `other`. So the last
    /// interval of a run is taken by [`Self::last_interval`].
    pub fn interval(&mut self, now_ns: u64) -> Interval {
        self.whole_interval(now_ns, true)
    }

    /// Like [`Self::interval`], holding nothing back: the sum over all intervals equals the total.
    pub fn last_interval(&mut self, now_ns: u64) -> Interval {
        self.whole_interval(now_ns, false)
    }

    fn whole_interval(&mut self, now_ns: u64, hold: bool) -> Interval {
        let mut flows = Vec::new();
        let interval = self.interval_of(now_ns, hold, &mut |flow| {
            flows.push(flow);
            None
        });
        flows.sort_unstable_by_key(|flow| flow.id);
        Interval { flows, ..interval }
    }

    /// The same for who wants few of many flows: `offer` gets one after the other, and what it gives back is folded
    /// into `other`. The others stay with it: the interval has none. `hold` as in [`Self::interval`].
    pub fn interval_of(
        &mut self,
        now_ns: u64,
        hold: bool,
        offer: &mut dyn FnMut(Frozen) -> Option<Frozen>,
    ) -> Interval {
        let mut left = Left { folded: mem::take(&mut self.folded), ..Left::default() };
        let mut put = |flow| left.fold(offer(flow));
        // What is listed as idle must not have been active.
        let mut seen = HashSet::new();
        let lists_idle = self.config.list_idle;
        for flow in mem::take(&mut self.gone) {
            seen.extend(lists_idle.then_some(flow.id));
            put(flow);
        }
        let mut other = mem::take(&mut self.other);
        let mut touched = mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for slot in touched {
            self.learn_peer(slot);
            let Some(row) = self.rows.get_mut(slot as usize).filter(|row| row.touched) else {
                continue;
            };
            if row.is_shown() {
                seen.extend(lists_idle.then_some(row.number));
                put(row.freeze(&mut self.shares));
            } else if hold && row.is_introduced() && !row.held && !row.closed {
                row.held = true;
                self.touched.push(slot);
                continue;
            } else {
                // Here as there, so that a flow's intervals add up to its row in the total.
                let fresh = self.shares.take(&mut row.share);
                other.merge(&fresh);
                self.total_other.merge(&fresh);
            }
            (row.touched, row.held) = (false, false);
            self.active -= 1;
        }
        self.give_back();
        self.expire(now_ns);
        if lists_idle {
            let idle = self.rows.iter().filter(|&(slot, row)| {
                self.recency.place(slot as u32) == Some(Place::Live)
                    && row.is_shown()
                    && !seen.contains(&row.number)
            });
            idle.for_each(|(_, row)| put(row.frozen(Tally::default(), true)));
        }
        let mut entries = self.entries.freeze(now_ns);
        self.link(&mut entries);
        left.into_interval(&other, entries)
    }

    /// Gives back the memory of what many rows counted, after they were frozen. What was held back moves.
    fn give_back(&mut self) {
        if !self.shares.is_large() {
            return;
        }
        let mut before = mem::take(&mut self.shares);
        let mut rows = self.rows.iter_mut();
        while !before.is_empty()
            && let Some((_, row)) = rows.next()
        {
            before.hand_over(&mut row.share, &mut self.shares);
        }
    }

    /// Everything since the start, frozen or not: flows in the table, idle ones too (they are the
    /// other ends of those that were not), and those that left it while there was room; the rest
    /// in `other`.
    #[must_use]
    pub fn total(&self) -> Interval {
        let rows = self.rows.iter().filter(|(_, row)| row.is_shown());
        let mut flows: Vec<_> = rows.map(|(_, row)| row.whole(&self.shares)).collect();
        flows.sort_unstable_by_key(|flow| flow.id);
        Interval { flows, ..self.total_rest() }
    }

    /// The same, flow by flow: what leaves it is gone, and takes no memory any more.
    #[must_use]
    pub fn into_total(self) -> Total {
        let rest = self.total_rest();
        Total { rows: self.rows, shares: self.shares, rest }
    }

    fn total_rest(&self) -> Interval {
        let mut other = self.total_other.clone();
        let nameless = self.rows.iter().filter(|(_, row)| !row.is_shown());
        let fresh = nameless.filter_map(|(_, row)| self.shares.get(row.share));
        fresh.for_each(|fresh| other.merge(fresh));
        let mut entries = self.entries.total();
        self.link(&mut entries);
        Left { folded: self.total_folded, ..Left::default() }.into_interval(&other, entries)
    }
}

/// Flows that are not told one by one.
#[derive(Default)]
struct Left {
    sum: Frozen,
    folded: u64,
}

impl Left {
    fn fold(&mut self, flow: Option<Frozen>) {
        if let Some(flow) = flow {
            self.sum.merge(&flow);
            self.folded += 1;
        }
    }

    /// Without a flow.
    fn into_interval(self, other: &Sums, entries: crate::flow::entries::Interval) -> Interval {
        let mut sum = nameless(other);
        sum.merge(&self.sum);
        Interval { flows: Vec::new(), other: sum, folded: self.folded, entries, rest: None }
    }
}

/// The whole run, whose flows are taken out one after the other.
pub struct Total {
    rows: Slab<Row>,
    shares: Shares,
    rest: Interval,
}

impl Total {
    /// Where the flows are that have a name, in no order.
    #[must_use]
    pub fn slots(&self) -> Vec<u32> {
        let shown = self.rows.iter().filter(|(_, row)| row.is_shown());
        shown.map(|(slot, _)| slot as u32).collect()
    }

    /// One of them.
    #[must_use]
    pub fn look(&self, slot: u32) -> Option<Frozen> {
        self.rows.get(slot as usize).map(|row| row.whole(&self.shares))
    }

    /// Takes one out.
    pub fn take(&mut self, slot: u32) -> Option<Frozen> {
        self.rows.try_remove(slot as usize).map(|row| row.whole(&self.shares))
    }

    /// Adds one to `other`.
    pub fn fold(&mut self, flow: &Frozen) {
        self.rest.other.merge(flow);
        self.rest.folded += 1;
    }

    /// All that is no flow of its own.
    #[must_use]
    pub const fn rest(&self) -> &Interval {
        &self.rest
    }

    /// The same, to be taken away.
    pub const fn rest_mut(&mut self) -> &mut Interval {
        &mut self.rest
    }

    /// The same.
    #[must_use]
    pub fn into_rest(self) -> Interval {
        self.rest
    }
}

fn nameless(sums: &Sums) -> Frozen {
    let Tally { latencies, counts, labelled } = sums.tally();
    Frozen { latencies, counts, labelled, ..Frozen::default() }
}
