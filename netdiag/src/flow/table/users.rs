//! Sockets that are used by whom no filter asks for: the programs let them pass, since they could not tell.

use netdiag_common::flow::FlowId;

use super::{FlowTable, join::Opening};
use crate::signal::{
    Event, Fold as _, Subject,
    socket::{self, What},
};

/// Sockets that are left out at once. They close, or are the next ones whose user is met.
const MOST: usize = 1 << 20;

impl FlowTable {
    /// Whether the events of a socket count from now on. What it counted before, it keeps.
    pub fn admit(&mut self, flow: FlowId, is_wanted: bool) {
        if is_wanted {
            self.left_out.remove(&flow);
        } else if flow != 0 {
            if self.left_out.len() < MOST {
                self.left_out.insert(flow);
            } else {
                self.lacks_room_to_leave_out |= !self.left_out.contains(&flow);
            }
        }
    }

    /// Some sockets that no filter asks for found no room among those that are left out, so that they may be shown.
    #[must_use]
    pub const fn lacks_room_to_leave_out(&self) -> bool {
        self.lacks_room_to_leave_out
    }

    /// A socket that was left out is wanted after all. It has a row again, which knows what `event` says of it and of
    /// its owner; what it did before was left out.
    pub fn readmit(&mut self, event: &socket::Event, now_ns: u64) {
        self.admit(event.socket.flow, true);
        let opening = Opening::of(event);
        let slot = self.of_socket(&event.socket, false, opening, event.tcp.as_ref());
        let Some(slot) = slot else { return };
        self.touch(slot, now_ns);
        self.row_mut(slot).socket(event);
        self.owners.share(&mut self.rows[slot as usize].who);
        self.recency.promote(slot, super::Place::Live);
    }

    /// Whether an event is of a socket that is left out. Its close counts nowhere, but ends the row that it may have.
    pub(super) fn is_left_out(&mut self, event: &Event) -> bool {
        match event.subject() {
            Subject::Flow(flow) => self.left_out.contains(&flow),
            Subject::Socket(socket) => match event {
                Event::Socket(event) if event.what == What::Close => {
                    let is_left_out = self.left_out.contains(&socket.flow);
                    if is_left_out {
                        self.close_left_out(socket.flow);
                    }
                    is_left_out
                }
                _ => self.left_out.contains(&socket.flow),
            },
            Subject::Packet { .. } | Subject::Asker(_) | Subject::Entry(_) => false,
        }
    }

    /// A socket closes whose events do not count.
    pub fn close_left_out(&mut self, flow: FlowId) {
        self.left_out.remove(&flow);
        if let Some(&slot) = self.by_id.get(&flow)
            && !self.rows[slot as usize].closed
        {
            self.close_stale(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::table::Config;

    #[test]
    fn what_finds_no_room_to_be_left_out_is_known() {
        let mut table = FlowTable::new(Config::default());
        for flow in 1..=MOST as FlowId {
            table.admit(flow, false);
        }
        table.admit(1, false);
        assert!(!table.lacks_room_to_leave_out());
        table.admit(MOST as FlowId + 1, false);
        assert!(table.lacks_room_to_leave_out());
    }
}
