//! Connects that were given no local port. They are no conversations: those to one destination have one row.

use super::FlowTable;
use crate::{flow::recency::Place, signal::Event};

impl FlowTable {
    /// What a connect without a port counted, in the row of its socket, goes to that of all of them from its address to
    /// its destination; to nobody's where there are too many of those.
    pub(super) fn gather(&mut self, slot: u32, event: &Event, now_ns: u64) {
        let Event::Socket(event) = event else { return };
        let row = &mut self.rows[slot as usize];
        if row.is_shown() || !event.found_no_port() {
            return;
        }
        let fresh = self.shares.take(&mut row.share);
        // Any row may give way to a new one, that of the socket as well.
        match self.of_asker(&event.socket.key, now_ns) {
            Some(slot) => {
                self.row_mut(slot).fresh().merge(&fresh);
                self.touch(slot, now_ns);
                self.recency.promote(slot, Place::Live);
            }
            None => {
                self.other.merge(&fresh);
                self.total_other.merge(&fresh);
            }
        }
    }
}
