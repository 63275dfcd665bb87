//! What events and the kernel tell of a flow, written into its row.

use std::{num::NonZeroU32, sync::Arc};

use netdiag_common::flow::{Detail, TcpCounters, TcpDetail};

use super::{NOBODY, Row};
use crate::{
    flow::{Role, Who, maybe::Maybe, readings::Growth, shares::Shares, sums::Sums},
    owner::Place,
    signal::{
        CountId, Fold, Label, MetricId, Path,
        socket::{self, CONNECT_LATENCY, GAUGES, LIFETIME, What, gauge_id, reading_id},
    },
};

/// A row, and with it what it counts in this interval.
pub(in crate::flow) struct RowMut<'a> {
    pub(in crate::flow) row: &'a mut Row,
    pub(in crate::flow) shares: &'a mut Shares,
}

impl RowMut<'_> {
    /// What it counted since the last freeze.
    #[inline]
    pub(in crate::flow) fn fresh(&mut self) -> &mut Sums {
        self.shares.of(&mut self.row.share)
    }

    /// Takes over everything of a row that turned out to be the same socket, known by its key
    /// until now. That one may have been shown, this one never was: its number stays.
    pub(in crate::flow) fn absorb(&mut self, mut other: Row) {
        let fresh = self.shares.take(&mut other.share);
        if !fresh.is_empty() {
            self.fresh().merge(&fresh);
        }
        let growth = self.row.readings.begin_with(&other.readings);
        self.grow(growth);
        let row = &mut *self.row;
        row.number = other.number;
        row.pair = row.pair.or(other.pair);
        row.translation = row.translation.take().or_else(|| other.translation.take());
        row.heard |= other.heard;
        let Who { pid, comm, place } = other.who();
        row.owner(other.role, *pid, comm.as_deref(), place.as_ref());
        row.cookie = if row.cookie == 0 { other.cookie } else { row.cookie };
        row.srtt_ns = row.srtt_ns.or(other.srtt_ns);
        row.rtt_min_ns = row.rtt_min_ns.or(other.rtt_min_ns);
        row.cwnd = row.cwnd.or(other.cwnd);
        row.gauges.fill_in(&other.gauges);
        row.past.add(&other.past.sums());
    }

    /// Counting of the kernel's counters begins at what the socket dump found.
    pub(in crate::flow) fn begin_at(&mut self, tcp: &TcpCounters, detail: Option<&TcpDetail>) {
        let growth = self.row.readings.begin_at(tcp, detail);
        self.grow(growth);
        // Older than whatever an event tells.
        self.row.report_path(0, tcp);
        if let Some(detail) = detail.filter(|_| self.row.reported_ns == 0) {
            self.row.report_gauges(detail);
        }
    }

    fn grow(&mut self, growth: Option<Growth>) {
        let Some(growth) = growth else { return };
        let fresh = self.fresh();
        for (nth, n) in growth.into_iter().enumerate() {
            if let Some(n) = n {
                fresh.count(reading_id(nth), n);
            }
        }
    }

    fn report(&mut self, time_ns: u64, tcp: &TcpCounters, detail: Option<&TcpDetail>) {
        let growth = self.row.readings.report(tcp, detail);
        if growth.is_some() {
            self.grow(growth);
            self.row.report_path(time_ns, tcp);
            if let Some(detail) = detail
                && time_ns >= self.row.reported_ns
            {
                self.row.reported_ns = time_ns;
                self.row.report_gauges(detail);
            }
        }
    }

    /// The kernel was asked, and no program told it. Returns whether anything came of it: something moved,
    /// or something waits that does not move, which is worse.
    pub(in crate::flow) fn refresh(
        &mut self,
        time_ns: u64,
        tcp: &TcpCounters,
        detail: Option<&TcpDetail>,
    ) -> bool {
        let grown = self.row.readings.grow(tcp, detail);
        if grown {
            self.report(time_ns, tcp, detail);
        } else if let Some(detail) = detail
            && time_ns >= self.row.reported_ns
        {
            self.row.report_path(time_ns, tcp);
            self.row.report_gauges(detail);
        }
        grown || detail.is_some_and(has_waiting)
    }
}

impl Row {
    fn report_gauges(&mut self, detail: &TcpDetail) {
        let values = GAUGES.iter().enumerate();
        self.gauges.set(values.filter_map(|(nth, value)| Some((gauge_id(nth), value(detail)?))));
    }

    /// The kernel starts them at 0 or leaves them so until it has a sample.
    fn report_path(&mut self, time_ns: u64, tcp: &TcpCounters) {
        self.path(time_ns, Path::of(tcp.srtt_us, tcp.rtt_min_us));
        self.cwnd = NonZeroU32::new(tcp.cwnd).or(self.cwnd);
    }

    /// CPUs hand their batches over in any order.
    fn path(&mut self, time_ns: u64, path: Path) {
        if time_ns >= self.path_ns {
            self.path_ns = time_ns;
            self.srtt_ns = Maybe::from(path.srtt_ns).or(self.srtt_ns);
            self.rtt_min_ns = Maybe::from(path.rtt_min_ns).or(self.rtt_min_ns);
        }
    }

    /// An event names the owner: better than the socket dump, which may be of an earlier socket.
    fn owner_of_event(&mut self, pid: Option<u32>, comm: Option<&str>, place: Option<&Arc<Place>>) {
        if self.owner_seeded && pid.is_some() {
            self.owner_seeded = false;
            if pid != self.who().pid {
                self.who = None;
            }
        }
        self.owner(None, pid, comm, place);
    }

    /// The owner is another one now, or the same one elsewhere or by another name.
    fn change_owner(&mut self, event: &socket::Event) {
        let known = Some(self.who()).filter(|who| who.pid == event.pid).unwrap_or(&NOBODY);
        let comm = event.comm.clone().or_else(|| known.comm.clone());
        let place = event.place.clone().or_else(|| known.place.clone());
        self.who = Some(Arc::new(Who { pid: event.pid, comm, place }));
        self.owner_seeded = false;
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

impl Fold for RowMut<'_> {
    fn latency(&mut self, metric: MetricId, nanoseconds: u64) {
        self.fresh().latency(metric, nanoseconds);
    }

    fn count(&mut self, count: CountId, n: u64) {
        self.fresh().count(count, n);
    }

    fn labelled(&mut self, count: CountId, label: Label, n: u64) {
        self.fresh().labelled(count, label, n);
    }

    fn state(&mut self, count: CountId, value: u64) {
        self.row.gauges.set([(count, value)]);
    }

    fn socket(&mut self, event: &socket::Event) {
        let opened = match event.what {
            What::Connect | What::Connected => Some(Role::Client),
            What::Accept => Some(Role::Server),
            What::Taken => {
                self.row.role = Some(Role::Server);
                None
            }
            What::Owner if event.pid.is_some() => {
                self.row.change_owner(event);
                None
            }
            _ => None,
        };
        if event.what == What::Established
            && let Some(began_ns) = self.row.connecting_ns.get()
        {
            self.latency(CONNECT_LATENCY, event.time_ns.saturating_sub(began_ns));
        }
        if opened.is_some() {
            self.row.role = opened;
            let growth = self.row.readings.begin_at_zero();
            self.grow(growth);
        }
        if event.what == What::Close {
            self.row.closed = true;
            self.row.closed_ns = Some(event.time_ns).into();
            if let Some(opened_ns) = self.row.opened_ns.get() {
                self.state(LIFETIME, event.time_ns.saturating_sub(opened_ns));
            }
        }
        if let Some(tcp) = &event.tcp {
            self.report(event.time_ns, tcp, event.detail.as_deref());
        }
        self.row.owner_of_event(event.pid, event.comm.as_deref(), event.place.as_ref());
    }

    fn asks(&self) -> Option<bool> {
        Some(self.row.role? == Role::Client)
    }

    fn path(&mut self, time_ns: u64, path: Path) {
        self.row.path(time_ns, path);
    }

    fn rtt_min_ns(&self) -> Option<u64> {
        self.row.rtt_min_ns.get()
    }

    fn seen(&mut self, time_ns: u64, pid: Option<u32>, tcp: Option<&TcpCounters>) {
        self.row.owner_of_event(pid, None, None);
        if let Some(tcp) = tcp {
            self.report(time_ns, tcp, None);
        }
    }
}
