//! A look at single flows, for whom an event is told by itself.

use netdiag_common::flow::FlowId;

use super::FlowTable;
use crate::{
    event::Past,
    flow::{Frozen, row::Row, tally::Tally},
    signal::{
        Event, Subject,
        socket::{self, What},
    },
};

/// Whose an event turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nobody's that a filter wants: it counts nowhere.
    LeftOut,
    /// Of no flow with a row: it counts in `other`.
    Nobodys,
    /// A flow's.
    Flows(Handle),
}

/// Leads to a flow for a while: until its row gives way to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub(super) slot: u32,
    pub(super) number: u64,
    pub(super) flow: FlowId,
}

impl FlowTable {
    pub(super) fn handle(&self, slot: u32) -> Handle {
        let row = &self.rows[slot as usize];
        Handle { slot, number: row.number, flow: row.flow }
    }

    fn row(&self, handle: Handle) -> Option<&Row> {
        let row = self.rows.get(handle.slot as usize)?;
        // A row may have taken over another's number, with all that it was.
        let same = row.number == handle.number || (row.flow == handle.flow && handle.flow != 0);
        same.then_some(row)
    }

    /// Whether an event's socket has a row that knows all of its owner: whose name and place need not be looked up.
    #[must_use]
    pub fn knows_owner(&self, event: &socket::Event) -> bool {
        let slot = self.by_id.get(&event.socket.flow).filter(|_| event.socket.flow != 0);
        let row = slot.map(|&slot| &self.rows[slot as usize]);
        event.what != What::Owner
            && row.zip(event.pid).is_some_and(|(row, pid)| row.knows_owner(pid))
    }

    /// What is known of the past of an event's flow, or of its entry; nothing where it is gone.
    #[must_use]
    pub fn past(&self, event: &Event, handle: Option<Handle>) -> Past {
        let row = handle.and_then(|handle| self.row(handle));
        Past {
            opened_ns: row.and_then(|row| row.opened_ns.get()),
            connecting_ns: row.and_then(|row| row.connecting_ns.get()),
            lived_ns: match event.subject() {
                Subject::Entry(entry) => self.entries.lived_ns(entry),
                _ => None,
            },
        }
    }

    /// Who and what a flow is, without its counts.
    #[must_use]
    pub fn who(&self, handle: Handle) -> Option<Frozen> {
        Some(self.row(handle)?.frozen(Tally::default(), false))
    }

    /// The same with all that it counted since the start.
    #[must_use]
    pub fn whole(&self, handle: Handle) -> Option<Frozen> {
        Some(self.row(handle)?.whole(&self.shares))
    }
}
