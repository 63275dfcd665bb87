//! The kernel's own counters of a socket, as growth.

use std::array;

use netdiag_common::flow::{TcpCounters, TcpDetail};

use super::packed::{Bytes, Packed, get, packed, put};
use crate::signal::socket::READINGS;

const COUNTERS: usize = READINGS.len();

/// Growth of each of [`READINGS`], in the unit of its count; none of those that are not known.
pub(super) type Growth = [Option<u64>; COUNTERS];

/// Whether anything grew.
fn has_grown(growth: &Growth) -> bool {
    growth.iter().flatten().any(|&n| n != 0)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    values: [u64; COUNTERS],
    /// Bit n: the nth of them was read.
    known: u32,
}

impl Reading {
    fn of(tcp: &TcpCounters, detail: Option<&TcpDetail>) -> Self {
        let mut reading = Self::default();
        for (nth, counter) in READINGS.iter().enumerate() {
            if let Some(value) = (counter.read)(tcp, detail) {
                reading.set(nth, value);
            }
        }
        reading
    }

    /// What the kernel counts from for a new conversation: 0, but for what it leaves as it is.
    fn zero(of: Option<&Self>) -> Self {
        let mut zero = Self::default();
        for (nth, counter) in READINGS.iter().enumerate() {
            let left = of.and_then(|of| of.get(nth)).filter(|_| counter.lasts);
            zero.set(nth, left.unwrap_or(0));
        }
        zero
    }

    fn get(&self, nth: usize) -> Option<u64> {
        (self.known & 1 << nth != 0).then(|| self.values[nth])
    }

    const fn set(&mut self, nth: usize, value: u64) {
        self.values[nth] = value;
        self.known |= 1 << nth;
    }

    /// None when this one is older than `before`. Counters wrap when they are full. What only one of
    /// the two knows has not grown; nor has what fell without telling age, as a time does that was read
    /// while it changed.
    fn since(&self, before: &Self) -> Option<Growth> {
        let mut growth = [None; COUNTERS];
        for (nth, counter) in READINGS.iter().enumerate() {
            let Some(now) = self.get(nth) else { continue };
            let grown = match before.get(nth).map(|before| grown(now, before, counter.bits)) {
                Some(None) if counter.tells_age => return None,
                Some(grown) => grown.unwrap_or(0),
                None => 0,
            };
            growth[nth] = Some(grown * counter.unit);
        }
        Some(growth)
    }

    /// The same with what rose in `newer`; what fell stays until that is passed.
    fn advanced(&self, newer: &Self) -> Self {
        let mut advanced = *self;
        for (nth, counter) in READINGS.iter().enumerate() {
            let Some(now) = newer.get(nth) else { continue };
            if self.get(nth).is_none_or(|last| grown(now, last, counter.bits).is_some()) {
                advanced.set(nth, now);
            }
        }
        advanced
    }

    /// The same with what `newer` knows.
    fn updated(&self, newer: &Self) -> Self {
        let values = array::from_fn(|nth| newer.get(nth).unwrap_or(self.values[nth]));
        Self { values, known: self.known | newer.known }
    }
}

/// By how much a counter of so many bits rose; none when it fell.
const fn grown(now: u64, before: u64, bits: u32) -> Option<u64> {
    if bits == u64::BITS {
        return now.checked_sub(before);
    }
    let grown = now.wrapping_sub(before) & ((1 << bits) - 1);
    if grown < 1 << (bits - 1) { Some(grown) } else { None }
}

/// Where counting began and how far it came: packed between two reports, since both are large.
///
/// Counting begins at zero when the opening was seen, else at what the socket dump said, else at the first report.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings(Packed);

/// Appends which numbers are known and which of those are not 0, and the latter: their difference to `from`.
fn put_reading(bytes: &mut Bytes, reading: &Reading, from: &Reading) {
    let difference = |nth: usize| reading.values[nth].wrapping_sub(from.values[nth]);
    let known = (0..COUNTERS).filter(|nth| reading.known & 1 << nth != 0);
    let differ = known.filter(|&nth| difference(nth) != 0);
    put(bytes, reading.known.into());
    put(bytes, differ.clone().fold(0, |mask, nth| mask | 1 << nth));
    differ.for_each(|nth| put(bytes, difference(nth)));
}

/// Takes off the front what was appended so.
fn get_reading(bytes: &mut &[u8], from: &Reading) -> Reading {
    let (known, differ) = (get(bytes) as u32, get(bytes) as u32);
    let mut reading = Reading::default();
    for nth in (0..COUNTERS).filter(|nth| known & 1 << nth != 0) {
        let difference = if differ & 1 << nth == 0 { 0 } else { get(bytes) };
        reading.set(nth, from.values[nth].wrapping_add(difference));
    }
    reading
}

impl Readings {
    /// A report of the kernel: what the counters grew by since the last one. None when the report
    /// is older than that.
    pub(super) fn report(
        &mut self,
        tcp: &TcpCounters,
        detail: Option<&TcpDetail>,
    ) -> Option<Growth> {
        let now = Reading::of(tcp, detail);
        let Some((base, last)) = self.both() else {
            self.keep(&now, &now);
            return now.since(&now);
        };
        let growth = now.since(&last)?;
        // Of what is told for the first time counting begins now.
        self.keep(&now.updated(&base), &last.advanced(&now));
        Some(growth)
    }

    /// Whether a report tells of anything more than the last one.
    pub(super) fn grow(&self, tcp: &TcpCounters, detail: Option<&TcpDetail>) -> bool {
        let growth = self.both().and_then(|(_, last)| Reading::of(tcp, detail).since(&last));
        growth.is_some_and(|growth| has_grown(&growth))
    }

    /// Counting begins at zero: the socket was new, or connects again. Returns what had not been
    /// counted before.
    pub(super) fn begin_at_zero(&mut self) -> Option<Growth> {
        let base = self.both().map(|(base, _)| base);
        self.begin(&Reading::zero(base.as_ref()))
    }

    /// Counting begins at what an earlier look at the socket found. Returns what had not been
    /// counted before.
    pub(super) fn begin_at(
        &mut self,
        tcp: &TcpCounters,
        detail: Option<&TcpDetail>,
    ) -> Option<Growth> {
        self.begin(&Reading::of(tcp, detail))
    }

    /// Counting goes back to where that of the same socket under another name began. Returns what
    /// neither had counted before.
    pub(super) fn begin_with(&mut self, other: &Self) -> Option<Growth> {
        let (base, counted) = other.both()?;
        let Some((own, last)) = self.both() else {
            *self = other.clone();
            return None;
        };
        let growth = own.since(&counted)?;
        self.keep(&own.updated(&base), &counted.advanced(&last));
        has_grown(&growth).then_some(growth)
    }

    fn begin(&mut self, at: &Reading) -> Option<Growth> {
        let Some((base, last)) = self.both() else {
            self.keep(at, at);
            return None;
        };
        let growth = base.since(at)?;
        self.keep(&base.updated(at), &at.advanced(&last));
        has_grown(&growth).then_some(growth)
    }

    fn both(&self) -> Option<(Reading, Reading)> {
        let mut bytes = self.0.as_deref()?;
        let base = get_reading(&mut bytes, &Reading::default());
        Some((base, get_reading(&mut bytes, &base)))
    }

    fn keep(&mut self, base: &Reading, last: &Reading) {
        let mut bytes = Bytes::new();
        put_reading(&mut bytes, base, &Reading::default());
        put_reading(&mut bytes, last, base);
        self.0 = packed(&bytes);
    }

    /// Counting of the next conversation on the same socket: goes on from the last report, or from
    /// zero when the kernel has cleared its counters (`tcp_disconnect`, `net/ipv4/tcp.c`).
    pub(super) fn next(&self, tcp: Option<&TcpCounters>) -> Self {
        let last = self.both().map(|(_, last)| last).unwrap_or_default();
        let went_on = tcp.is_none_or(|tcp| Reading::of(tcp, None).since(&last).is_some());
        let at = if went_on { last } else { Reading::zero(Some(&last)) };
        let mut next = Self::default();
        next.keep(&at, &at);
        next
    }
}

#[cfg(test)]
mod tests {
    use netdiag_common::flow::Detail;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn tcp(bytes_sent: u64, bytes_received: u64, segs_out: u32) -> TcpCounters {
        TcpCounters { bytes_sent, bytes_received, segs_out, ..TcpCounters::default() }
    }

    /// Of these three.
    fn first(growth: Option<Growth>) -> Option<[Option<u64>; 3]> {
        growth.map(|[sent, received, segments, ..]| [sent, received, segments])
    }

    fn of(sent: u64, received: u64, segments: u64) -> Option<[Option<u64>; 3]> {
        Some([Some(sent), Some(received), Some(segments)])
    }

    /// `Delivered` and `RwndLimited`, in the order of [`READINGS`].
    fn detail(delivered: u32, rwnd_limited_us: u64) -> TcpDetail {
        let mut detail = TcpDetail::default();
        detail.set(Detail::Delivered, delivered);
        detail.set_time(Detail::RwndLimited, rwnd_limited_us);
        detail
    }

    fn of_detail(growth: Option<Growth>) -> Option<(Option<u64>, Option<u64>)> {
        growth.map(|growth| (growth[12], growth[8]))
    }

    #[test]
    fn without_a_past_the_first_report_is_where_counting_begins() {
        let mut readings = Readings::default();
        assert_eq!(first(readings.report(&tcp(1_000, 50, 9), None)), of(0, 0, 0));
        assert_eq!(first(readings.report(&tcp(1_500, 50, 12), None)), of(500, 0, 3));
    }

    #[test]
    fn an_opening_that_is_learnt_late_adds_what_came_before() {
        let mut readings = Readings::default();
        assert_eq!(first(readings.report(&tcp(1_000, 50, 9), None)), of(0, 0, 0));
        assert_eq!(first(readings.begin_at(&tcp(400, 50, 4), None)), of(600, 0, 5));
        assert_eq!(readings.begin_at(&tcp(900, 50, 8), None), None);
        assert_eq!(first(readings.begin_at_zero()), of(400, 50, 4));
        assert_eq!(readings.begin_at_zero(), None);
        assert_eq!(first(readings.report(&tcp(1_001, 50, 9), None)), of(1, 0, 0));
    }

    #[test]
    fn segments_wrap_and_older_reports_are_ignored() {
        let mut readings = Readings::default();
        assert_eq!(readings.begin_at(&tcp(10, 10, u32::MAX - 1), None), None);
        assert_eq!(first(readings.report(&tcp(10, 10, 3), None)), of(0, 0, 5));
        for older in [tcp(9, 10, 3), tcp(10, 9, 3), tcp(10, 10, 2), tcp(10, 10, u32::MAX)] {
            assert_eq!(readings.report(&older, None), None);
        }
        assert_eq!(first(readings.report(&tcp(10, 10, 3), None)), of(0, 0, 0));
    }

    #[test]
    fn a_socket_that_connects_again_starts_where_the_kernel_does() {
        let mut readings = Readings::default();
        readings.report(&tcp(100, 100, 10), Some(&detail(8, 5)));
        let (anew, further) = (tcp(7, 0, 1), tcp(101, 100, 11));
        let mut next = readings.next(Some(&anew));
        let growth = next.report(&anew, Some(&detail(1, 6)));
        assert_eq!(first(growth), of(7, 0, 1));
        assert_eq!(of_detail(growth), Some((Some(1), Some(1_000))), "times go on");
        assert_eq!(first(readings.next(None).report(&further, None)), of(1, 0, 1));
    }

    #[test]
    fn what_a_report_does_not_tell_is_unknown_and_goes_on_later() {
        let mut readings = Readings::default();
        readings.begin_at_zero();
        let at = tcp(1, 1, 1);
        assert_eq!(of_detail(readings.report(&at, None)), Some((None, None)));
        let growth = readings.report(&at, Some(&detail(5, 7)));
        assert_eq!(of_detail(growth), Some((Some(5), Some(7_000))));
        assert_eq!(of_detail(readings.report(&at, None)), Some((None, None)));
        let growth = readings.report(&at, Some(&detail(6, 7)));
        assert_eq!(of_detail(growth), Some((Some(1), Some(0))));
        assert!(has_grown(&growth.unwrap()));
    }

    #[test]
    fn a_time_that_falls_stays_until_it_is_passed_and_holds_up_nothing() {
        let mut readings = Readings::default();
        readings.begin_at_zero();
        let mut report = |sent, time| {
            let growth = readings.report(&tcp(sent, 1, 1), Some(&detail(1, time)))?;
            Some((growth[0]?, growth[8]?))
        };
        assert_eq!(report(10, 900), Some((10, 900_000)), "a span of 400 twice");
        assert_eq!(report(20, 500), Some((10, 0)));
        assert_eq!(report(30, 800), Some((10, 0)));
        assert_eq!(report(29, 2_000), None, "older");
        assert_eq!(report(40, 1_000), Some((10, 100_000)));
    }

    #[test]
    fn a_time_that_falls_stays_where_two_names_meet() {
        let (mut first, mut second) = (Readings::default(), Readings::default());
        first.begin_at_zero();
        first.report(&tcp(10, 1, 1), Some(&detail(1, 900)));
        second.report(&tcp(20, 1, 1), Some(&detail(1, 500)));
        assert_eq!(of_detail(second.begin_with(&first)), Some((Some(0), Some(0))));
        let growth = second.report(&tcp(20, 1, 1), Some(&detail(1, 1_000)));
        assert_eq!(of_detail(growth), Some((Some(0), Some(100_000))));
    }

    #[test]
    fn of_what_is_told_late_counting_begins_late_unless_the_opening_is_known() {
        let mut readings = Readings::default();
        readings.report(&tcp(1, 1, 1), None);
        let growth = readings.report(&tcp(1, 1, 1), Some(&detail(50, 9)));
        assert_eq!(of_detail(growth), Some((Some(0), Some(0))));
        assert_eq!(of_detail(readings.begin_at_zero()), Some((Some(50), Some(0))), "times last");
    }

    #[test]
    fn narrow_counters_wrap_where_they_end() {
        assert_eq!(grown(3, 65_535, 16), Some(4));
        assert_eq!(grown(65_535, 3, 16), None, "older");
        assert_eq!(grown(0, u64::from(u32::MAX), 32), Some(1));
        assert_eq!((grown(5, 3, 64), grown(3, 5, 64)), (Some(2), None));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_read(
            base in vec(any::<u64>(), COUNTERS),
            last in vec(prop_oneof![0..9_u64, any::<u64>()], COUNTERS),
            known in vec(0..1_u32 << COUNTERS, 2),
        ) {
            let reading = |values: &[u64], known: u32| {
                let mut reading = Reading::default();
                let known = (0..COUNTERS).filter(|nth| known & 1_u32 << nth != 0);
                known.for_each(|nth| reading.set(nth, values[nth]));
                reading
            };
            let both = (reading(&base, known[0]), reading(&last, known[1]));
            let mut readings = Readings::default();
            prop_assert!(readings.both().is_none());
            readings.keep(&both.0, &both.1);
            prop_assert_eq!(readings.both(), Some(both));
        }
    }
}
