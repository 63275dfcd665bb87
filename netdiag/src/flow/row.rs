//! One row of the table.

use std::{mem, sync::Arc};

use netdiag_common::flow::{Detail, FlowId, FlowKey, TcpCounters, TcpDetail};

use crate::{
    flow::{
        Frozen, Role, Who,
        readings::{Growth, Readings, has_grown},
        tally::Tally,
        translations::{Ends, Translation},
        tuples::is_complete,
    },
    owner::Place,
    signal::{
        CountId, Fold, Label, MetricId, Path,
        socket::{self, CONNECT_LATENCY, GAUGES, LIFETIME, What, gauge_id, reading_id},
    },
};

/// ctnetlink tells of an entry when its message is read, so that its conversation may be over by then.
const TOLD_WITHIN_NS: u64 = 1_000_000_000;

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
    pub(super) pair: Option<u64>,
    /// What it was addressed to and who answers.
    pub(super) translation: Option<Arc<Translation>>,
    /// Whom that belongs to.
    pub(super) peer: Option<Box<Who>>,
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
    pub(super) seeded_ns: Option<u64>,
    /// When it was seen to connect or to be accepted.
    pub(super) opened_ns: Option<u64>,
    /// When connect was called, where that was seen.
    pub(super) connecting_ns: Option<u64>,
    /// When it was closed, where that was seen.
    pub(super) closed_ns: Option<u64>,
    /// Owner as the socket dump told it: any event knows better.
    pub(super) owner_seeded: bool,
    pub(super) role: Option<Role>,
    pub(super) pid: Option<u32>,
    pub(super) comm: Option<String>,
    pub(super) place: Option<Arc<Place>>,
    pub(super) srtt_ns: Option<u64>,
    pub(super) rtt_min_ns: Option<u64>,
    /// When those two were so.
    pub(super) path_ns: u64,
    pub(super) cwnd: Option<u32>,
    pub(super) readings: Readings,
    /// When all that the kernel tells was read last.
    pub(super) reported_ns: u64,
    /// What the kernel held then, sorted by id.
    pub(super) gauges: Vec<(CountId, u64)>,
    /// Since the last freeze.
    pub(super) fresh: Tally,
    /// Until the last freeze.
    pub(super) past: Tally,
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
            && matches!((self.seeded_ns, opened_ns), (Some(seeded), Some(opened)) if seeded < opened)
    }

    /// Whether the entries that lead from end to end may be of this conversation, by the time at which they were put
    /// into their tables.
    pub(super) fn may_have(&self, ends: &Ends, is_client: bool) -> bool {
        // What comes in is accepted after it was tracked.
        let began = !is_client || self.connecting_ns.is_none_or(|at| at <= ends.first_ns);
        let ended = self.closed_ns.map(|closed_ns| {
            let is_untold = self.translation.as_ref().is_none_or(|it| *it == ends.translation);
            ends.last_ns <= closed_ns || is_untold && ends.last_ns <= closed_ns + TOLD_WITHIN_NS
        });
        began && (!self.closed || ended == Some(true))
    }

    /// Tells whose the other end is. What was known of another one goes.
    pub(super) fn pair_with(&mut self, other: Option<u64>) {
        if self.pair != other {
            (self.pair, self.peer) = (other, None);
        }
    }

    /// Takes out what happened since the last freeze and adds it to the past.
    pub(super) fn freeze(&mut self) -> Frozen {
        let fresh = mem::take(&mut self.fresh);
        if self.past.is_empty() {
            self.past = fresh.clone();
        } else {
            self.past.merge(&fresh);
        }
        self.frozen(fresh, !self.touched)
    }

    /// Everything since the start, as it stands.
    pub(super) fn whole(&self) -> Frozen {
        let mut tally = self.past.clone();
        tally.merge(&self.fresh);
        self.frozen(tally, !self.heard)
    }

    pub(super) fn frozen(&self, tally: Tally, idle: bool) -> Frozen {
        Frozen {
            id: self.number,
            key: self.key,
            role: self.role,
            pid: self.pid,
            comm: self.comm.clone(),
            place: self.place.clone(),
            translation: self.translation.clone(),
            pair: self.pair,
            peer: self.peer.as_deref().cloned(),
            closed: self.closed,
            idle,
            srtt_ns: self.srtt_ns,
            rtt_min_ns: self.rtt_min_ns,
            cwnd: self.cwnd,
            group: None,
            latencies: tally.latencies,
            counts: tally.counts,
            gauges: self.gauges.clone(),
            labelled: tally.labelled,
        }
    }

    /// Takes over everything of a row that turned out to be the same socket, known by its key
    /// until now. That one may have been shown, this one never was: its number stays.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.number = other.number;
        self.pair = self.pair.or(other.pair);
        self.translation = self.translation.take().or_else(|| other.translation.clone());
        self.heard |= other.heard;
        self.owner(other.role, other.pid, other.comm.as_deref(), other.place.as_ref());
        self.cookie = if self.cookie == 0 { other.cookie } else { self.cookie };
        self.srtt_ns = self.srtt_ns.or(other.srtt_ns);
        self.rtt_min_ns = self.rtt_min_ns.or(other.rtt_min_ns);
        self.cwnd = self.cwnd.or(other.cwnd);
        for &(gauge, value) in &other.gauges {
            if self.gauges.binary_search_by_key(&gauge, |entry| entry.0).is_err() {
                self.gauge(gauge, value);
            }
        }
        self.fresh.merge(&other.fresh);
        self.past.merge(&other.past);
        let growth = self.readings.begin_with(&other.readings);
        self.grow(growth);
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
        if self.pid.is_none() {
            self.pid = pid;
        } else if pid.is_some() && pid != self.pid {
            return; // the name would be another process's
        }
        if self.comm.is_none() {
            self.comm = comm.map(str::to_owned);
        }
        if self.place.is_none() {
            self.place = place.cloned();
        }
    }

    /// Whether nothing more can be learnt of an owner with this process id.
    pub(super) fn knows_owner(&self, pid: u32) -> bool {
        let known = self.comm.is_some() && self.place.is_some();
        self.pid == Some(pid) && known && !self.owner_seeded
    }

    /// Counting of the kernel's counters begins at what the socket dump found.
    pub(super) fn begin_at(&mut self, tcp: &TcpCounters, detail: Option<&TcpDetail>) {
        let growth = self.readings.begin_at(tcp, detail);
        self.grow(growth);
        // Older than whatever an event tells.
        self.report_path(0, tcp);
        if let Some(detail) = detail.filter(|_| self.reported_ns == 0) {
            self.report_gauges(detail);
        }
    }

    fn grow(&mut self, growth: Option<Growth>) {
        for (nth, n) in growth.iter().flatten().enumerate() {
            if let Some(n) = n {
                self.fresh.count(reading_id(nth), *n);
            }
        }
    }

    fn report(&mut self, time_ns: u64, tcp: &TcpCounters, detail: Option<&TcpDetail>) {
        let growth = self.readings.report(tcp, detail);
        if growth.is_some() {
            self.grow(growth);
            self.report_path(time_ns, tcp);
            if let Some(detail) = detail
                && time_ns >= self.reported_ns
            {
                self.reported_ns = time_ns;
                self.report_gauges(detail);
            }
        }
    }

    /// The kernel was asked, and no program told it. Returns whether anything came of it: something moved,
    /// or something waits that does not move, which is worse.
    pub(super) fn refresh(
        &mut self,
        time_ns: u64,
        tcp: &TcpCounters,
        detail: Option<&TcpDetail>,
    ) -> bool {
        let mut next = self.readings;
        let grown = next.report(tcp, detail).is_some_and(|growth| has_grown(&growth));
        if grown {
            self.report(time_ns, tcp, detail);
        } else if let Some(detail) = detail
            && time_ns >= self.reported_ns
        {
            self.report_path(time_ns, tcp);
            self.report_gauges(detail);
        }
        grown || detail.is_some_and(has_waiting)
    }

    fn report_gauges(&mut self, detail: &TcpDetail) {
        for (nth, value) in GAUGES.iter().enumerate() {
            if let Some(value) = value(detail) {
                self.gauge(gauge_id(nth), value);
            }
        }
    }

    fn gauge(&mut self, gauge: CountId, value: u64) {
        match self.gauges.binary_search_by_key(&gauge, |entry| entry.0) {
            Ok(at) => self.gauges[at].1 = value,
            Err(at) => self.gauges.insert(at, (gauge, value)),
        }
    }

    /// The kernel starts them at 0 or leaves them so until it has a sample.
    fn report_path(&mut self, time_ns: u64, tcp: &TcpCounters) {
        self.path(time_ns, Path::of(tcp.srtt_us, tcp.rtt_min_us));
        if tcp.cwnd != 0 {
            self.cwnd = Some(tcp.cwnd);
        }
    }

    /// An event names the owner: better than the socket dump, which may be of an earlier socket.
    fn owner_of_event(&mut self, pid: Option<u32>, comm: Option<&str>, place: Option<&Arc<Place>>) {
        if self.owner_seeded && pid.is_some() {
            self.owner_seeded = false;
            if pid != self.pid {
                (self.pid, self.comm, self.place) = (None, None, None);
            }
        }
        self.owner(None, pid, comm, place);
    }
}

/// Whether data waits on the socket: to be read, to be sent or to be acknowledged. A FIN counts as one byte
/// (`tcp_diag_get_info`, net/ipv4/tcp_diag.c), and is no data.
fn has_waiting(detail: &TcpDetail) -> bool {
    let more_than = |what, n| detail.get(what).is_some_and(|amount| amount > n);
    more_than(Detail::Unread, 1)
        || more_than(Detail::Unsent, 1)
        || more_than(Detail::Unacknowledged, 0)
}

impl Fold for Row {
    fn latency(&mut self, metric: MetricId, nanoseconds: u64) {
        self.fresh.latency(metric, nanoseconds);
    }

    fn count(&mut self, count: CountId, n: u64) {
        self.fresh.count(count, n);
    }

    fn labelled(&mut self, count: CountId, label: Label, n: u64) {
        self.fresh.labelled(count, label, n);
    }

    fn state(&mut self, count: CountId, value: u64) {
        self.gauge(count, value);
    }

    fn socket(&mut self, event: &socket::Event) {
        let opened = match event.what {
            What::Connect | What::Connected => Some(Role::Client),
            What::Accept => Some(Role::Server),
            What::Taken => {
                self.role = Some(Role::Server);
                None
            }
            What::Owner if event.pid.is_some() => {
                if event.pid != self.pid {
                    (self.pid, self.comm) = (event.pid, event.comm.clone());
                    self.place.clone_from(&event.place);
                } else {
                    self.comm = event.comm.clone().or(self.comm.take());
                    self.place = event.place.clone().or(self.place.take());
                }
                self.owner_seeded = false;
                None
            }
            _ => None,
        };
        if event.what == What::Established
            && let Some(began_ns) = self.connecting_ns
        {
            self.latency(CONNECT_LATENCY, event.time_ns.saturating_sub(began_ns));
        }
        if opened.is_some() {
            self.role = opened;
            let growth = self.readings.begin_at_zero();
            self.grow(growth);
        }
        if event.what == What::Close {
            self.closed = true;
            self.closed_ns = Some(event.time_ns);
            if let Some(opened_ns) = self.opened_ns {
                self.gauge(LIFETIME, event.time_ns.saturating_sub(opened_ns));
            }
        }
        if let Some(tcp) = &event.tcp {
            self.report(event.time_ns, tcp, event.detail.as_deref());
        }
        self.owner_of_event(event.pid, event.comm.as_deref(), event.place.as_ref());
    }

    fn asks(&self) -> Option<bool> {
        Some(self.role? == Role::Client)
    }

    /// CPUs hand their batches over in any order.
    fn path(&mut self, time_ns: u64, path: Path) {
        if time_ns >= self.path_ns {
            self.path_ns = time_ns;
            self.srtt_ns = path.srtt_ns.or(self.srtt_ns);
            self.rtt_min_ns = path.rtt_min_ns.or(self.rtt_min_ns);
        }
    }

    fn rtt_min_ns(&self) -> Option<u64> {
        self.rtt_min_ns
    }

    fn seen(&mut self, time_ns: u64, pid: Option<u32>, tcp: Option<&TcpCounters>) {
        self.owner_of_event(pid, None, None);
        if let Some(tcp) = tcp {
            self.report(time_ns, tcp, None);
        }
    }
}
