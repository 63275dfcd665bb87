//! Flows whose addresses are translated on the way: which are the two ends of one conversation, what it was
//! addressed to, and who answers.

use std::sync::Arc;

use super::FlowTable;
use crate::{
    flow::translations::{Began, Ends},
    signal::conntrack::{CONFIRMED, DESTROYED, Entry, Event, Tuple},
};

impl FlowTable {
    /// Something happened to an entry. Before it is confirmed it does not translate yet.
    pub(super) fn translate(&mut self, event: &Event) {
        let entry = &event.entry;
        if !entry.is_one() && matches!(event.what, CONFIRMED | DESTROYED) {
            self.translations.blur(entry, event.time_ns);
        }
        if !entry.is_known_apart() {
            return;
        }
        match (event.what, &event.reply) {
            (CONFIRMED, Some(reply)) => self.translated(entry, reply, event.time_ns),
            (DESTROYED, _) => self.translations.end(entry, event.time_ns),
            _ => {}
        }
    }

    /// An entry is in the table since then, or was found in it.
    pub fn translated(&mut self, entry: &Entry, reply: &Tuple, time_ns: u64) {
        let Began { was, is } = self.translations.begin(entry, reply, time_ns);
        if was == is {
            return;
        }
        if let Some(was) = was {
            self.part_ends(&was);
        }
        if let Some(is) = is {
            self.join_ends(&is);
        }
    }

    /// Tells the rows of both ends, as far as there are any whose conversation it may be.
    pub(super) fn join_ends(&mut self, ends: &Ends) {
        let slot = |end, is_client| {
            self.all_of_end(end).find(|&slot| self.rows[slot as usize].may_have(ends, is_client))
        };
        let slots = [slot(&ends.client, true), slot(&ends.server, false)];
        for slot in slots.into_iter().flatten() {
            let row = &mut self.rows[slot as usize];
            if row.translation.as_ref() != Some(&ends.translation) {
                row.translation = Some(Arc::clone(&ends.translation));
                row.pair_with(None);
            }
        }
        if let [Some(client), Some(server)] = slots.map(|slot| slot.map(|slot| slot as usize)) {
            let numbers = [client, server].map(|slot| self.rows[slot].number);
            self.rows[client].pair_with(Some(numbers[1]));
            self.rows[server].pair_with(Some(numbers[0]));
        }
    }

    /// A row that came since was taken for the one before.
    fn part_ends(&mut self, ends: &Ends) {
        let Some(client) = self.of_end(&ends.client) else { return };
        let row = &mut self.rows[client as usize];
        if row.closed || row.translation.as_ref() != Some(&ends.translation) {
            return;
        }
        let (key, number, other) = (row.key, row.number, row.pair.get());
        row.translation = None;
        row.pair_with(None);
        let server = self.of_end(&ends.server).map(|slot| &mut self.rows[slot as usize]);
        if let Some(server) = server.filter(|row| Some(row.number) == other) {
            server.pair_with(None);
        }
        if let Some(peer) = self.tuples.find_peer(&key).filter(|&peer| peer != client) {
            let peer_number = self.rows[peer as usize].number;
            self.rows[client as usize].pair_with(Some(peer_number));
            self.rows[peer as usize].pair_with(Some(number));
        }
    }
}
