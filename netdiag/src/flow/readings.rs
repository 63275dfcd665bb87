//! The kernel's own counters of a socket, as growth.

use netdiag_common::flow::TcpCounters;

/// Growth of `bytes_sent`, `bytes_received`, `segs_out` and `drops`.
pub(super) type Growth = [u64; 4];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    bytes_sent: u64,
    bytes_received: u64,
    segs_out: u32,
    drops: u32,
}

impl Reading {
    const fn of(tcp: &TcpCounters) -> Self {
        Self {
            bytes_sent: tcp.bytes_sent,
            bytes_received: tcp.bytes_received,
            segs_out: tcp.segs_out,
            drops: tcp.drops,
        }
    }

    /// None when this one is older than `before`. `segs_out` and `drops` wrap at 2^32.
    fn since(self, before: Self) -> Option<Growth> {
        let segments = self.segs_out.wrapping_sub(before.segs_out);
        let drops = self.drops.wrapping_sub(before.drops);
        if segments > u32::MAX / 2 || drops > u32::MAX / 2 {
            return None;
        }
        Some([
            self.bytes_sent.checked_sub(before.bytes_sent)?,
            self.bytes_received.checked_sub(before.bytes_received)?,
            u64::from(segments),
            u64::from(drops),
        ])
    }
}

/// Where counting began and how far it came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readings {
    /// Counting begins here: zero when the opening was seen, else what the socket dump said, else
    /// the first report.
    base: Option<Reading>,
    last: Reading,
}

impl Readings {
    /// A report of the kernel: what the counters grew by since the last one. None when the report
    /// is older than that.
    pub(super) fn report(&mut self, tcp: &TcpCounters) -> Option<Growth> {
        let now = Reading::of(tcp);
        if self.base.is_none() {
            (self.base, self.last) = (Some(now), now);
        }
        let growth = now.since(self.last)?;
        self.last = now;
        Some(growth)
    }

    /// Counting begins at zero: the socket was new, or connects again, which leaves `drops` alone.
    /// Returns what had not been counted before.
    pub(super) fn begin_at_zero(&mut self) -> Option<Growth> {
        let drops = self.base.map_or(0, |base| base.drops);
        self.begin(Reading { drops, ..Reading::default() })
    }

    /// Counting begins at what an earlier look at the socket found. Returns what had not been
    /// counted before.
    pub(super) fn begin_at(&mut self, tcp: &TcpCounters) -> Option<Growth> {
        self.begin(Reading::of(tcp))
    }

    /// Counting goes back to where that of the same socket under another name began. Returns what
    /// neither had counted before.
    pub(super) fn begin_with(&mut self, other: &Self) -> Option<Growth> {
        let base = other.base?;
        let (Some(own), counted) = (self.base, other.last) else {
            *self = *other;
            return None;
        };
        let growth = own.since(counted)?;
        self.base = Some(base);
        (growth != Growth::default()).then_some(growth)
    }

    fn begin(&mut self, at: Reading) -> Option<Growth> {
        match self.base {
            None => {
                (self.base, self.last) = (Some(at), at);
                None
            }
            Some(base) => {
                let growth = base.since(at)?;
                self.base = Some(at);
                (growth != Growth::default()).then_some(growth)
            }
        }
    }

    /// Counting of the next conversation on the same socket: goes on from the last report, or from
    /// zero when the kernel has cleared its counters (`tcp_disconnect`, `net/ipv4/tcp.c`).
    pub(super) fn next(&self, tcp: Option<&TcpCounters>) -> Self {
        let went_on = tcp.is_none_or(|tcp| Reading::of(tcp).since(self.last).is_some());
        let anew = Reading { drops: self.last.drops, ..Reading::default() };
        let at = if went_on { self.last } else { anew };
        Self { base: Some(at), last: at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bytes_sent: u64, bytes_received: u64, segs_out: u32) -> TcpCounters {
        TcpCounters { bytes_sent, bytes_received, segs_out, ..TcpCounters::default() }
    }

    #[test]
    fn without_a_past_the_first_report_is_where_counting_begins() {
        let mut readings = Readings::default();
        assert_eq!(readings.report(&tcp(1_000, 50, 9)), Some([0, 0, 0, 0]));
        assert_eq!(readings.report(&tcp(1_500, 50, 12)), Some([500, 0, 3, 0]));
    }

    #[test]
    fn an_opening_that_is_learnt_late_adds_what_came_before() {
        let mut readings = Readings::default();
        assert_eq!(readings.report(&tcp(1_000, 50, 9)), Some([0, 0, 0, 0]));
        assert_eq!(readings.begin_at(&tcp(400, 50, 4)), Some([600, 0, 5, 0]));
        assert_eq!(readings.begin_at(&tcp(900, 50, 8)), None);
        assert_eq!(readings.begin_at_zero(), Some([400, 50, 4, 0]));
        assert_eq!(readings.begin_at_zero(), None);
        assert_eq!(readings.report(&tcp(1_001, 50, 9)), Some([1, 0, 0, 0]));
    }

    #[test]
    fn segments_wrap_and_older_reports_are_ignored() {
        let mut readings = Readings::default();
        assert_eq!(readings.begin_at(&tcp(10, 10, u32::MAX - 1)), None);
        assert_eq!(readings.report(&tcp(10, 10, 3)), Some([0, 0, 5, 0]));
        for older in [tcp(9, 10, 3), tcp(10, 9, 3), tcp(10, 10, 2), tcp(10, 10, u32::MAX)] {
            assert_eq!(readings.report(&older), None);
        }
        assert_eq!(readings.report(&tcp(10, 10, 3)), Some([0, 0, 0, 0]));
    }

    #[test]
    fn a_socket_that_connects_again_starts_where_the_kernel_does() {
        let mut readings = Readings::default();
        readings.report(&tcp(100, 100, 10));
        assert_eq!(readings.next(Some(&tcp(7, 0, 1))).report(&tcp(7, 0, 1)), Some([7, 0, 1, 0]));
        assert_eq!(readings.next(None).report(&tcp(101, 100, 11)), Some([1, 0, 1, 0]));
    }
}
