//! What an interval and a run come to.

use std::{collections::HashSet, mem};

use super::FlowTable;
use crate::flow::{Frozen, Interval, recency::Place, tally::Tally};

impl FlowTable {
    /// Freezes what happened since the last call, and makes idle rows leave.
    ///
    /// A socket whose record told no local port yet is left out once: what it counted comes with
    /// the next interval, under its name if that is complete by then, else in `other`. So the last
    /// interval of a run is taken by [`Self::last_interval`].
    pub fn interval(&mut self, now_ns: u64) -> Interval {
        self.freeze(now_ns, true)
    }

    /// Like [`Self::interval`], holding nothing back: the sum over all intervals equals the total.
    pub fn last_interval(&mut self, now_ns: u64) -> Interval {
        self.freeze(now_ns, false)
    }

    fn freeze(&mut self, now_ns: u64, hold: bool) -> Interval {
        let mut flows = mem::take(&mut self.gone);
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
                flows.push(row.freeze());
            } else if hold && row.is_introduced() && !row.held && !row.closed {
                row.held = true;
                self.touched.push(slot);
                continue;
            } else {
                // Here as there, so that a flow's intervals add up to its row in the total.
                let fresh = mem::take(&mut row.fresh);
                other.merge(&fresh);
                self.total_other.merge(&fresh);
            }
            (row.touched, row.held) = (false, false);
            self.active -= 1;
        }
        self.expire(now_ns);
        if self.config.list_idle {
            let seen: HashSet<u64> = flows.iter().map(|flow| flow.id).collect();
            flows.extend(
                self.rows
                    .iter()
                    .filter(|&(slot, row)| {
                        self.recency.place(slot as u32) == Some(Place::Live)
                            && row.is_shown()
                            && !seen.contains(&row.number)
                    })
                    .map(|(_, row)| row.frozen(Tally::default(), true)),
            );
        }
        flows.sort_unstable_by_key(|flow| flow.id);
        let mut entries = self.entries.freeze(now_ns);
        self.link(&mut entries);
        let folded = mem::take(&mut self.folded);
        Interval { flows, other: nameless(other), folded, entries, rest: None }
    }

    /// Everything since the start, frozen or not: flows in the table, idle ones too (they are the
    /// other ends of those that were not), and those that left it while there was room; the rest
    /// in `other`.
    #[must_use]
    pub fn total(&self) -> Interval {
        let mut other = self.total_other.clone();
        let mut flows = Vec::with_capacity(self.rows.len());
        for (_, row) in &self.rows {
            if !row.is_shown() {
                other.merge(&row.fresh);
            } else {
                flows.push(row.whole());
            }
        }
        flows.sort_unstable_by_key(|flow| flow.id);
        let mut entries = self.entries.total();
        self.link(&mut entries);
        let folded = self.total_folded;
        Interval { flows, other: nameless(other), folded, entries, rest: None }
    }
}

fn nameless(tally: Tally) -> Frozen {
    let Tally { latencies, counts, labelled } = tally;
    Frozen { latencies, counts, labelled, ..Frozen::default() }
}
