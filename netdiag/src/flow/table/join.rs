//! Which row an event belongs to.
//!
//! The number that the programs gave the socket decides, and it is never reused: not the address
//! of the socket, which is. What has no number is joined by its key, which the kernel keeps unique
//! among the live connected sockets of a network namespace.

use netdiag_common::flow::{FlowId, FlowKey, SocketRef, TcpCounters};

use super::FlowTable;
use crate::{
    flow::{
        Role, Who, entries,
        maybe::Maybe,
        recency::Place,
        row::Row,
        tuples::{address, is_complete, reversed},
    },
    signal::{
        conntrack::{Creator, Entry, Tuple},
        socket::{self, What},
    },
};

/// Packets without a socket have at most one row of so many: a flood of them displaces no flow.
const STRAYS_SHARE: usize = 8;

/// `TCP_TIMEWAIT_LEN` (include/net/tcp.h).
const TIME_WAIT_NS: u64 = 60_000_000_000;

/// When a socket began a conversation, as far as an event tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// When it was seen to connect or to be accepted.
    opened_ns: Option<u64>,
    /// When connect was called.
    connecting_ns: Option<u64>,
}

impl Opening {
    pub(super) fn of(event: &socket::Event) -> Self {
        let opens = matches!(event.what, What::Connect | What::Connected | What::Accept);
        Self {
            opened_ns: opens.then_some(event.time_ns),
            connecting_ns: event.is_asking().then_some(event.time_ns),
        }
    }
}

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
        opening: Opening,
        tcp: Option<&TcpCounters>,
    ) -> Option<u32> {
        let Opening { opened_ns, connecting_ns } = opening;
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
        row.opened_ns = row.opened_ns.or(opened_ns.into());
        row.connecting_ns = Maybe::from(connecting_ns).or(row.connecting_ns);
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

    /// The row of a packet's conversation: a socket's where there is one or has just been one, else
    /// one of its own. None when the conversation is not known, or where there are too many.
    pub(super) fn of_packet(
        &mut self,
        key: &FlowKey,
        ends_known: bool,
        now_ns: u64,
    ) -> Option<u32> {
        if let Some(slot) = self.row_of_packet(key, ends_known, now_ns) {
            if self.strays.place(slot).is_some() {
                self.strays.promote(slot, Place::Live);
            }
            return Some(slot);
        }
        if self.leaves_out(key) || !is_complete(key) || !self.has_room_for_stray(now_ns) {
            return None;
        }
        Some(self.insert_stray(Row { key: *key, ..Row::default() }))
    }

    /// The row of all that one end asks a server, or of its connects there that found no port: the key has none. None
    /// where there are too many.
    pub(super) fn of_asker(&mut self, key: &FlowKey, now_ns: u64) -> Option<u32> {
        if let Some(slot) = self.packets.find(key) {
            self.strays.promote(slot, Place::Live);
            return Some(slot);
        }
        if !self.has_room_for_stray(now_ns) {
            return None;
        }
        let role = Some(Role::Client);
        Some(self.insert_stray(Row { key: *key, is_asker: true, role, ..Row::default() }))
    }

    fn insert_stray(&mut self, row: Row) -> u32 {
        let key = row.key;
        let slot = self.insert(row);
        self.strays.promote(slot, Place::Live);
        self.packets.insert(&key, slot);
        slot
    }

    /// The row that there is. Packets may come after their socket's close, and are decoded after it
    /// in any case: the last conversation of that tuple has them as long as TIME_WAIT would keep it.
    fn row_of_packet(&self, key: &FlowKey, ends_known: bool, now_ns: u64) -> Option<u32> {
        let other_end = (!ends_known).then(|| reversed(key));
        let keys = || std::iter::once(*key).chain(other_end);
        let is_recent =
            |slot: &u32| now_ns.saturating_sub(self.rows[*slot as usize].last_ns) < TIME_WAIT_NS;
        keys()
            .find_map(|key| self.tuples.find_in_any(&key))
            .or_else(|| keys().find_map(|key| self.closed.find_in_any(&key).filter(is_recent)))
            .or_else(|| self.packets.find(key))
    }

    /// Whether a packet without a row is left out altogether.
    pub(super) fn leaves_out(&self, key: &FlowKey) -> bool {
        self.config.known_only || self.config.known_netns_only && key.netns == 0
    }

    /// Makes room for one more row without a socket, where the oldest one is idle. No flow goes for it
    /// that is still in the table.
    fn has_room_for_stray(&mut self, now_ns: u64) -> bool {
        let most = (self.config.max_flows / STRAYS_SHARE).max(1);
        let free = self.rows.len() < self.config.max_flows || self.recency.len(Place::Left) > 0;
        if free && self.strays.len(Place::Live) < most {
            return true;
        }
        let Some(oldest) = self.strays.oldest(Place::Live) else { return false };
        let idle_ns = now_ns.saturating_sub(self.rows[oldest as usize].last_ns);
        if idle_ns < self.config.idle_ns {
            return false;
        }
        self.remove(oldest);
        true
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
    pub(super) fn close_stale(&mut self, slot: u32) {
        self.rows[slot as usize].closed = true;
        self.leave(slot);
    }

    /// A socket that connected again after `connect(AF_UNSPEC)`: the old conversation is closed
    /// and a new row follows it.
    fn succeed(&mut self, slot: u32, socket: &SocketRef, tcp: Option<&TcpCounters>) -> u32 {
        let row = &mut self.rows[slot as usize];
        row.closed = true;
        let next = Row {
            flow: socket.flow,
            cookie: row.cookie,
            who: row.who.clone(),
            readings: row.readings.next(tcp),
            ..Row::default()
        };
        self.leave(slot);
        self.insert(next)
    }

    /// Makes a row with a complete key the one that the key finds. A row that was known by its key
    /// only turns out to be the same socket; any other one's close is late or lost.
    pub(super) fn index(&mut self, slot: u32) {
        let key = self.rows[slot as usize].key;
        if let Some(older) = self.tuples.find(&key).filter(|&older| older != slot) {
            let row = &self.rows[older as usize];
            let newer = &self.rows[slot as usize];
            if row.flow == 0 && row.is_stale(newer.opened_ns.get(), newer.cookie) {
                self.close_stale(older);
            } else if row.flow == 0 && same_cookie(row.cookie, self.rows[slot as usize].cookie) {
                let older = self.take(older);
                self.row_mut(slot).absorb(older);
            }
        }
        for known in [key, FlowKey { netns: 0, ..key }] {
            // One after the other: of a socket whose namespace is not known both are the same.
            if let Some(stray) = self.packets.find(&known) {
                let stray = self.take(stray);
                self.row_mut(slot).absorb(stray);
            }
        }
        self.tuples.insert(&key, slot);
        if let Some(peer) = self.tuples.find_peer(&key).filter(|&peer| peer != slot) {
            self.rows[slot as usize].pair = Some(self.rows[peer as usize].number).into();
            self.rows[peer as usize].pair = Some(self.rows[slot as usize].number).into();
        }
        if let Some(ends) = self.translations.of(&key) {
            self.join_ends(&ends);
        }
    }

    /// Whom the other end of a flow belongs to, where both are on this node. It is kept when that end is gone.
    pub(super) fn learn_peer(&mut self, slot: u32) {
        let Some(Row { key, pair, .. }) = self.rows.get(slot as usize) else { return };
        let Some(pair) = pair.get() else { return };
        let slots = [&self.tuples, &self.closed].map(|tuples| tuples.find_peer(key));
        let beyond = self.translations.of(key);
        let beyond = beyond.iter().flat_map(|ends| [&ends.client, &ends.server]);
        let slots = slots.into_iter().flatten().chain(beyond.filter_map(|end| self.of_end(end)));
        let peers = slots.map(|peer| &self.rows[peer as usize]);
        let peer = { peers }.find(|peer| peer.number == pair && peer.who().pid.is_some());
        if let Some(who) = peer.and_then(|peer| peer.who.clone()) {
            self.rows[slot as usize].peer = Some(who);
        }
    }

    /// Tells entries of the connection tracking table which flows they are for, and who made them where
    /// a flow knows. Address translation gives the two ends different tuples.
    pub(super) fn link(&self, entries: &mut entries::Interval) {
        for row in &mut entries.rows {
            let row_of = |tuple| Some(&self.rows[self.of_tuple(&row.entry, tuple)? as usize]);
            let client = row_of(&row.entry.original);
            let server = row.reply.as_ref().and_then(row_of);
            row.flows = [client, server].into_iter().flatten().map(|row| row.number).collect();
            if let Some(client) = client.filter(|_| row.creator.is_none())
                && let Who { pid: Some(pid), comm, place } = client.who().clone()
            {
                let comm = comm.unwrap_or_default();
                row.creator = Some(Creator { pid, comm, place });
            }
        }
        entries.count_creators();
    }

    /// The row of the socket that a tuple's packets come from.
    pub(super) fn of_tuple(&self, entry: &Entry, tuple: &Tuple) -> Option<u32> {
        self.of_end(&entry.key(tuple))
    }

    /// The row of a socket with this key: in its namespace, else the only one anywhere.
    pub(super) fn of_end(&self, key: &FlowKey) -> Option<u32> {
        self.all_of_end(key).next()
    }

    /// The rows that may be that one, the likeliest first: in each place one that is there before one that was.
    pub(super) fn all_of_end(&self, key: &FlowKey) -> impl Iterator<Item = u32> {
        // A loopback address never leaves its namespace.
        let netns = if address(key.local_addr).is_loopback() { key.netns } else { 0 };
        let places = is_complete(key).then_some([*key, FlowKey { netns, ..*key }]);
        let both =
            move |key: FlowKey| [&self.tuples, &self.closed].map(|tuples| tuples.find_in_any(&key));
        places.into_iter().flatten().flat_map(both).flatten()
    }
}

/// Whether two cookies may be of one socket: 0 is unknown.
pub(super) const fn same_cookie(a: u64, b: u64) -> bool {
    a == 0 || b == 0 || a == b
}
