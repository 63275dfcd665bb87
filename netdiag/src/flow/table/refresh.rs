//! The counters of sockets of which no program told them of late: those of a socket move without a
//! send, when it waits for its peer or only receives.

use netdiag_common::flow::{FlowKey, TCP, TcpCounters, TcpDetail};

use super::FlowTable;
use crate::flow::{gauges::Gauges, recency::Place, row::Row, table::join::same_cookie};

/// What the kernel said of a socket when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// When it was asked (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
    /// The conversation.
    pub key: FlowKey,
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The socket's counters.
    pub tcp: TcpCounters,
    /// What else it told.
    pub detail: Option<TcpDetail>,
}

impl FlowTable {
    /// The sockets in the table, with their cookies (0 unknown), whose counters were not told since
    /// then, by network namespace.
    #[must_use]
    pub fn untold(&self, since_ns: u64) -> Vec<(FlowKey, u64)> {
        let is_wanted = |slot: usize, row: &Row| {
            row.reported_ns < since_ns
                && !row.closed
                && row.is_shown()
                && row.key.protocol == TCP
                && row.key.netns != 0
                && self.strays.place(slot as u32).is_none()
                && self.recency.place(slot as u32) == Some(Place::Live)
        };
        let wanted = self.rows.iter().filter(|&(slot, row)| is_wanted(slot, row));
        let mut wanted: Vec<_> = wanted.map(|(_, row)| (row.key, row.cookie)).collect();
        wanted.sort_unstable_by_key(|(key, _)| key.netns);
        wanted
    }

    /// Takes in what the kernel said. Where nothing moved and nothing waits, the flow stays as idle as it is.
    pub fn refresh(&mut self, fresh: &Fresh, now_ns: u64) {
        let Some(slot) = self.tuples.find(&fresh.key) else { return };
        let row = &mut self.rows[slot as usize];
        if row.closed || !same_cookie(row.cookie, fresh.cookie) {
            return;
        }
        row.cookie = fresh.cookie;
        if self.row_mut(slot).refresh(fresh.time_ns, &fresh.tcp, fresh.detail.as_ref()) {
            self.touch(slot, now_ns);
            self.recency.promote(slot, Place::Live);
        }
    }

    /// The kernel was asked for a socket and said nothing: its states are not known any more, unless a
    /// program told them since then.
    pub fn unanswered(&mut self, key: &FlowKey, since_ns: u64) {
        let Some(slot) = self.tuples.find(key) else { return };
        let row = &mut self.rows[slot as usize];
        if !row.closed && row.reported_ns < since_ns {
            row.gauges = Gauges::default();
        }
    }
}
