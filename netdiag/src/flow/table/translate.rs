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
        if !event.entry.is_known_apart() {
            return;
        }
        match (event.what, &event.reply) {
            (CONFIRMED, Some(reply)) => self.translated(&event.entry, reply, event.time_ns),
            (DESTROYED, _) => self.translations.end(&event.entry, event.time_ns),
            _ => {}
        }
    }

    /// An entry is in the table since then, or was found in it.
    pub fn translated(&mut self, entry: &Entry, reply: &Tuple, time_ns: u64) {
        match self.translations.begin(entry, reply, time_ns) {
            Began::Nothing => {}
            Began::Translated(ends) => self.join_ends(&ends),
            // A row that came since was taken for the one before.
            Began::Plain(ends) => {
                let slot = self.of_end(&ends.client);
                let row = slot.and_then(|slot| self.rows.get_mut(slot as usize));
                if let Some(row) = row.filter(|row| !row.closed) {
                    row.translation = None;
                }
            }
        }
    }

    /// Tells the rows of both ends, as far as there are any.
    pub(super) fn join_ends(&mut self, ends: &Ends) {
        let slots = [self.of_end(&ends.client), self.of_end(&ends.server)];
        for slot in slots.into_iter().flatten() {
            self.rows[slot as usize].translation = Some(Arc::clone(&ends.translation));
        }
        if let [Some(client), Some(server)] = slots.map(|slot| slot.map(|slot| slot as usize)) {
            self.rows[client].pair = Some(self.rows[server].number);
            self.rows[server].pair = Some(self.rows[client].number);
        }
    }
}
