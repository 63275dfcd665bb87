//! Which row an event belongs to.
//!
//! The number that the programs gave the socket decides, and it is never reused: not the address
//! of the socket, which is. What has no number is joined by its key, which the kernel keeps unique
//! among the live connected sockets of a network namespace.

use std::mem;

use netdiag_common::flow::{FlowId, FlowKey, SocketRef, TcpCounters};

use super::FlowTable;
use crate::flow::{
    recency::Place,
    row::Row,
    tuples::{is_complete, reversed},
};

/// Packets without a socket have at most one row of so many: a flood of them displaces no flow.
const STRAYS_SHARE: usize = 8;

impl FlowTable {
    /// The row of a socket that only its number names; a placeholder when no record introduced it.
    pub(super) fn of_id(&mut self, id: FlowId) -> u32 {
        match self.by_id.get(&id) {
            Some(&slot) => slot,
            None => self.insert(Row { flow: id, ..Row::default() }),
        }
    }

    /// The row of a socket or connection request; none when nothing identifies it.
    pub(super) fn of_socket(
        &mut self,
        socket: &SocketRef,
        closing: bool,
        opened_ns: Option<u64>,
        tcp: Option<&TcpCounters>,
    ) -> Option<u32> {
        let slot = match self.by_id.get(&socket.flow) {
            Some(&slot) if socket.flow != 0 => {
                let row = &self.rows[slot as usize];
                let moved = row.is_shown() && is_complete(&socket.key) && row.key != socket.key;
                if moved && !closing && !row.closed {
                    self.succeed(slot, socket, tcp)
                } else {
                    slot
                }
            }
            _ => match self.of_key(socket, opened_ns) {
                Some(slot) => {
                    let row = &mut self.rows[slot as usize];
                    if socket.flow != 0 {
                        row.flow = socket.flow;
                        self.by_id.insert(socket.flow, slot);
                    }
                    self.strays -= usize::from(mem::take(&mut row.stray));
                    slot
                }
                None if socket.flow != 0 => {
                    self.insert(Row { flow: socket.flow, ..Row::default() })
                }
                // Its close changes nothing when it was never seen; without a complete key another
                // record cannot be joined to it.
                None if closing || !is_complete(&socket.key) => return None,
                None => self.insert(Row::default()),
            },
        };
        let row = &mut self.rows[slot as usize];
        row.opened_ns = row.opened_ns.or(opened_ns);
        if row.cookie == 0 {
            row.cookie = socket.cookie;
        }
        if !row.is_shown() && (is_complete(&socket.key) || !row.is_introduced()) {
            row.key = socket.key;
            if row.is_shown() && !row.closed {
                self.index(slot);
            }
        }
        Some(slot)
    }

    /// The row of a packet's conversation: a socket's where there is one, else one of its own. None
    /// when the conversation is not known, or where there are too many.
    pub(super) fn of_packet(&mut self, key: &FlowKey, ends_known: bool) -> Option<u32> {
        if let Some(slot) = self.tuples.find_in_any(key) {
            return Some(slot);
        }
        if !ends_known && let Some(slot) = self.tuples.find_in_any(&reversed(key)) {
            return Some(slot);
        }
        let room = self.strays < (self.config.max_flows / STRAYS_SHARE).max(1);
        if self.config.known_only || !is_complete(key) || !room {
            return None;
        }
        let slot = self.insert(Row { key: *key, stray: true, ..Row::default() });
        self.strays += 1;
        self.index(slot);
        Some(slot)
    }

    /// The live row with the key of a socket: any for a request, which has no number; for a
    /// socket only one that has none yet.
    fn of_key(&mut self, socket: &SocketRef, opened_ns: Option<u64>) -> Option<u32> {
        if !is_complete(&socket.key) {
            return None;
        }
        let slot = self.tuples.find(&socket.key)?;
        let row = &self.rows[slot as usize];
        if row.flow == 0 && row.is_stale(opened_ns, socket.cookie) {
            self.close_stale(slot);
            return None;
        }
        let joins = socket.flow == 0 || row.flow == 0 && same_cookie(row.cookie, socket.cookie);
        joins.then_some(slot)
    }

    /// Closes the row of a socket whose end nothing told.
    fn close_stale(&mut self, slot: u32) {
        let row = &mut self.rows[slot as usize];
        row.closed = true;
        let key = row.key;
        self.tuples.remove(&key, slot);
        self.recency.promote(slot, Place::Left);
    }

    /// A socket that connected again after `connect(AF_UNSPEC)`: the old conversation is closed
    /// and a new row follows it.
    fn succeed(&mut self, slot: u32, socket: &SocketRef, tcp: Option<&TcpCounters>) -> u32 {
        let row = &mut self.rows[slot as usize];
        row.closed = true;
        let next = Row {
            flow: socket.flow,
            cookie: row.cookie,
            pid: row.pid,
            comm: row.comm.clone(),
            readings: row.readings.next(tcp),
            ..Row::default()
        };
        self.tuples.remove(&row.key, slot);
        self.recency.promote(slot, Place::Left);
        self.insert(next)
    }

    /// Makes a row with a complete key the one that the key finds. A row that was known by its key
    /// only turns out to be the same socket; any other one's close is late or lost.
    pub(super) fn index(&mut self, slot: u32) {
        let key = self.rows[slot as usize].key;
        if let Some(older) = self.tuples.find(&key).filter(|&older| older != slot) {
            let row = &self.rows[older as usize];
            let newer = &self.rows[slot as usize];
            if row.flow == 0 && row.is_stale(newer.opened_ns, newer.cookie) {
                self.close_stale(older);
            } else if row.flow == 0 && same_cookie(row.cookie, self.rows[slot as usize].cookie) {
                let older = self.take(older);
                self.rows[slot as usize].absorb(&older);
            }
        }
        self.tuples.insert(&key, slot);
        if let Some(peer) = self.tuples.find_peer(&key).filter(|&peer| peer != slot) {
            self.rows[slot as usize].pair = Some(self.rows[peer as usize].number);
            self.rows[peer as usize].pair = Some(self.rows[slot as usize].number);
        }
    }
}

/// Whether two cookies may be of one socket: 0 is unknown.
pub(super) const fn same_cookie(a: u64, b: u64) -> bool {
    a == 0 || b == 0 || a == b
}
