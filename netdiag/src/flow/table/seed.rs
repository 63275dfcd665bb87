//! Sockets that were there before the programs.

use std::sync::Arc;

use netdiag_common::flow::{FlowKey, TcpCounters, TcpDetail};

use super::{FlowTable, join::same_cookie};
use crate::{
    flow::{Role, recency::Place, row::Row, tuples::is_complete},
    owner,
};

/// What a dump of the kernel's sockets says of a socket older than the programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The conversation.
    pub key: FlowKey,
    /// The kernel's socket cookie, 0 when unknown.
    pub cookie: u64,
    /// Which end it is, where known.
    pub role: Option<Role>,
    /// Process id of the owner, where known.
    pub pid: Option<u32>,
    /// Name of the owner, where known.
    pub comm: Option<String>,
    /// Where the owner lives, where known.
    pub place: Option<Arc<owner::Place>>,
    /// The socket's counters, where known.
    pub tcp: Option<TcpCounters>,
    /// What else the kernel tells of it.
    pub detail: Option<TcpDetail>,
}

impl FlowTable {
    /// Fills in what is unknown of a socket, or adds an idle row for it. False when there is no
    /// room for one, or the socket is no conversation (a listener).
    pub fn seed(&mut self, seed: &Seed, now_ns: u64) -> bool {
        if !is_complete(&seed.key) {
            return false;
        }
        let slot = match self.tuples.find(&seed.key) {
            Some(slot) if same_cookie(self.rows[slot as usize].cookie, seed.cookie) => slot,
            Some(_) => return false, // a socket that came after the dump
            None if self.rows.len() >= self.config.max_flows => return false,
            None => {
                let seeded_ns = Some(now_ns).into();
                let slot = self.insert(Row { key: seed.key, seeded_ns, ..Row::default() });
                self.index(slot);
                self.recency.promote(slot, Place::Live);
                self.rows[slot as usize].last_ns = now_ns;
                slot
            }
        };
        let row = &mut self.rows[slot as usize];
        row.owner_seeded = row.who().pid.is_none();
        row.owner(seed.role, seed.pid, seed.comm.as_deref(), seed.place.as_ref());
        self.owners.share(&mut row.who);
        row.cookie = if row.cookie == 0 { seed.cookie } else { row.cookie };
        if let Some(tcp) = &seed.tcp {
            self.row_mut(slot).begin_at(tcp, seed.detail.as_ref());
        }
        let share = self.rows[slot as usize].share;
        if self.shares.get(share).is_some_and(|fresh| !fresh.is_empty()) {
            // It grew between the dump and its first report, or packets told of it before.
            self.touch(slot, now_ns);
        }
        true
    }
}
