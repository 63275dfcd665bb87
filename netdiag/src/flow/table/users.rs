//! Sockets that are used by whom no filter asks for: the programs let them pass, since they could not tell.

use netdiag_common::flow::FlowId;

use super::FlowTable;
use crate::signal::{Event, Subject, socket::What};

/// Sockets that are left out at once. They close, or are the next ones whose user is met.
const MOST: usize = 1 << 20;

impl FlowTable {
    /// Whether the events of a socket count from now on. What it counted before, it keeps.
    pub fn admit(&mut self, flow: FlowId, is_wanted: bool) {
        if is_wanted {
            self.left_out.remove(&flow);
        } else if flow != 0 && self.left_out.len() < MOST {
            self.left_out.insert(flow);
        }
    }

    /// Whether an event is of a socket that is left out.
    pub(super) fn is_left_out(&mut self, event: &Event) -> bool {
        match event.subject() {
            Subject::Flow(flow) => self.left_out.contains(&flow),
            Subject::Socket(socket) => match event {
                Event::Socket(event) if event.what == What::Close => {
                    self.left_out.remove(&socket.flow)
                }
                _ => self.left_out.contains(&socket.flow),
            },
            Subject::Packet { .. } | Subject::Asker(_) | Subject::Entry(_) => false,
        }
    }
}
