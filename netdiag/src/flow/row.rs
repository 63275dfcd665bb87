//! One row of the table.

use std::{num::NonZeroU32, sync::Arc};

use netdiag_common::flow::{FlowId, FlowKey};

use crate::{
    flow::{
        Frozen, Role, Who,
        gauges::Gauges,
        maybe::Maybe,
        readings::Readings,
        shares::{Share, Shares},
        sums::Past,
        tally::Tally,
        translations::{Ends, Translation},
        tuples::is_complete,
    },
    owner::Place,
};

mod fold;

pub(super) use fold::RowMut;

/// ctnetlink tells of an entry when its message is read, so that its conversation may be over by then.
const TOLD_WITHIN_NS: u64 = 1_000_000_000;

/// Of an owner who is not known.
static NOBODY: Who = Who { pid: None, comm: None, place: None };

/// A hundred thousand of them are no rarity.
const _: () = assert!(size_of::<Row>() <= 256);

/// What is known of one flow.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Shown as `f12`.
    pub(super) number: u64,
    /// The number the programs gave the socket; 0 when it is known by its key only.
    pub(super) flow: FlowId,
    /// The kernel's cookie of the socket, 0 unknown.
    pub(super) cookie: u64,
    /// All zero until a record introduces the socket.
    pub(super) key: FlowKey,
    /// It is of all that one end asks a server, whatever its ports, or of its connects there that found none.
    pub(super) is_asker: bool,
    /// Number of the other end's row.
    pub(super) pair: Maybe,
    /// What it was addressed to and who answers.
    pub(super) translation: Option<Arc<Translation>>,
    /// Whom the other end belongs to.
    pub(super) peer: Option<Arc<Who>>,
    /// The socket is gone.
    pub(super) closed: bool,
    /// Something was heard of it since the last freeze; the slot is in the table's list of those.
    pub(super) touched: bool,
    /// Something was ever heard of it; otherwise it is known from the socket dump only.
    pub(super) heard: bool,
    /// The last freeze left it out because its key was not complete.
    pub(super) held: bool,
    /// When something was heard of it last.
    pub(super) last_ns: u64,
    /// When the socket dump told of it, for a row that came from there.
    pub(super) seeded_ns: Maybe,
    /// When it was seen to connect or to be accepted.
    pub(super) opened_ns: Maybe,
    /// When connect was called, where that was seen.
    pub(super) connecting_ns: Maybe,
    /// When it was closed, where that was seen.
    pub(super) closed_ns: Maybe,
    /// Owner as the socket dump told it: any event knows better.
    pub(super) owner_seeded: bool,
    pub(super) role: Option<Role>,
    /// Whom it belongs to; shared with other rows.
    pub(super) who: Option<Arc<Who>>,
    pub(super) srtt_ns: Maybe,
    pub(super) rtt_min_ns: Maybe,
    /// When those two were so.
    pub(super) path_ns: u64,
    pub(super) cwnd: Option<NonZeroU32>,
    pub(super) readings: Readings,
    /// When all that the kernel tells was read last.
    pub(super) reported_ns: u64,
    /// What the kernel held then.
    pub(super) gauges: Gauges,
    /// Leads to what it counted since the last freeze.
    pub(super) share: Share,
    /// Until the last freeze.
    pub(super) past: Past,
}

impl Row {
    /// Whether it can stand in an interval under its own name.
    pub(super) fn is_shown(&self) -> bool {
        self.is_asker || is_complete(&self.key)
    }

    /// Whether a record has introduced the socket.
    pub(super) fn is_introduced(&self) -> bool {
        self.key != FlowKey::default()
    }

    /// Whether this row is of an earlier socket than one that opened then with the same key: the
    /// dump saw it before, and nothing told of its end.
    pub(super) fn is_stale(&self, opened_ns: Option<u64>, cookie: u64) -> bool {
        let same = self.cookie != 0 && self.cookie == cookie;
        !same
            && matches!((self.seeded_ns.get(), opened_ns), (Some(seeded), Some(opened)) if seeded < opened)
    }

    /// Whether the entries that lead from end to end may be of this conversation, by the time at which they were put
    /// into their tables.
    pub(super) fn may_have(&self, ends: &Ends, is_client: bool) -> bool {
        // What comes in is accepted after it was tracked.
        let began = !is_client || self.connecting_ns.get().is_none_or(|at| at <= ends.first_ns);
        let ended = self.closed_ns.get().map(|closed_ns| {
            let is_untold = self.translation.as_ref().is_none_or(|it| *it == ends.translation);
            ends.last_ns <= closed_ns || is_untold && ends.last_ns <= closed_ns + TOLD_WITHIN_NS
        });
        began && (!self.closed || ended == Some(true))
    }

    /// Tells whose the other end is. What was known of another one goes.
    pub(super) fn pair_with(&mut self, other: Option<u64>) {
        if self.pair.get() != other {
            (self.pair, self.peer) = (other.into(), None);
        }
    }

    /// Takes out what happened since the last freeze and adds it to the past.
    pub(super) fn freeze(&mut self, shares: &mut Shares) -> Frozen {
        let fresh = shares.take(&mut self.share);
        self.past.add(&fresh);
        self.frozen(fresh.tally(), !self.touched)
    }

    /// Everything since the start, as it stands.
    pub(super) fn whole(&self, shares: &Shares) -> Frozen {
        let mut sums = self.past.sums();
        shares.get(self.share).iter().for_each(|fresh| sums.merge(fresh));
        self.frozen(sums.tally(), !self.heard)
    }

    pub(super) fn frozen(&self, tally: Tally, idle: bool) -> Frozen {
        let Who { pid, comm, place } = self.who().clone();
        Frozen {
            id: self.number,
            key: self.key,
            role: self.role,
            pid,
            comm,
            place,
            translation: self.translation.clone(),
            pair: self.pair.get(),
            peer: self.peer.as_deref().cloned(),
            closed: self.closed,
            idle,
            srtt_ns: self.srtt_ns.get(),
            rtt_min_ns: self.rtt_min_ns.get(),
            cwnd: self.cwnd.map(NonZeroU32::get),
            group: None,
            latencies: tally.latencies,
            counts: tally.counts,
            gauges: self.gauges.counts().iter().collect(),
            labelled: tally.labelled,
        }
    }

    /// The owner, as far as it is known.
    pub(super) fn who(&self) -> &Who {
        self.who.as_deref().unwrap_or(&NOBODY)
    }

    /// Fills in what is unknown of the owner.
    pub(super) fn owner(
        &mut self,
        role: Option<Role>,
        pid: Option<u32>,
        comm: Option<&str>,
        place: Option<&Arc<Place>>,
    ) {
        self.role = self.role.or(role);
        let known = self.who();
        if known.pid.is_some() && pid.is_some() && pid != known.pid {
            return; // the name would be another process's
        }
        let pid = pid.filter(|_| known.pid.is_none());
        let comm = comm.filter(|_| known.comm.is_none());
        let place = place.filter(|_| known.place.is_none());
        if pid.is_none() && comm.is_none() && place.is_none() {
            return;
        }
        let who = Arc::make_mut(self.who.get_or_insert_default());
        who.pid = who.pid.or(pid);
        who.comm = who.comm.take().or_else(|| comm.map(str::to_owned));
        who.place = who.place.take().or_else(|| place.cloned());
    }

    /// Whether nothing more can be learnt of an owner with this process id.
    pub(super) fn knows_owner(&self, pid: u32) -> bool {
        let who = self.who();
        let known = who.comm.is_some() && who.place.is_some();
        who.pid == Some(pid) && known && !self.owner_seeded
    }
}
