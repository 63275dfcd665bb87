//! How a flow went within a window: when what happened, and how long nothing did.

use crate::snapshot::{CountValue, Flow};

/// Seconds of a window in which something happened, each at most once; a window's 64th stands for all later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(u64);

impl Seconds {
    fn note(&mut self, second: u32) {
        self.0 |= 1 << second.min(63);
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The first of them.
    #[must_use]
    pub fn first(self) -> Option<u32> {
        (self.0 != 0).then(|| self.0.trailing_zeros())
    }

    /// The last of them.
    #[must_use]
    pub fn last(self) -> Option<u32> {
        self.0.checked_ilog2()
    }

    /// Whether there is one after that.
    #[must_use]
    pub fn after(self, second: u32) -> bool {
        self.last().is_some_and(|last| last > second)
    }

    /// Those of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Intervals in a row in which the peer acknowledged nothing of what it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Second of the window in which it began.
    pub since: u32,
    /// How long.
    pub seconds: f64,
    /// How long nothing at all came, up to its end.
    pub silent_s: f64,
    /// Segments that were sent again after a timeout.
    pub timeouts: u64,
    /// Timeouts in a row at the last of them, those before the window included.
    pub in_a_row: u64,
    /// Segments that were sent again for any reason.
    pub again: u64,
    /// Payload bytes of these.
    pub again_bytes: u64,
}

/// The shortest retransmission timeout in seconds (`TCP_RTO_MIN`, include/net/tcp.h), and the longest.
const TIMEOUT_S: (f64, f64) = (0.2, 120.0);

impl Stall {
    /// Timeouts that were in vain, as far as they were seen or the kernel tells.
    #[must_use]
    pub fn in_vain(&self) -> u64 {
        self.timeouts.max(self.in_a_row)
    }

    /// Seconds that nothing was acknowledged, before the window included: each timeout is twice as long as
    /// the one before.
    #[must_use]
    pub fn at_least_s(&self) -> f64 {
        let (first, longest) = TIMEOUT_S;
        let waits = (0..self.in_a_row.min(16)).map(|n| (first * (1u64 << n) as f64).min(longest));
        waits.sum::<f64>().max(self.seconds)
    }

    /// The same of a peer of which nothing at all came while it was watched; 0 of one that was heard last.
    #[must_use]
    pub fn silence_s(&self) -> f64 {
        if self.silent_s > 0.0 { self.at_least_s().max(self.silent_s) } else { 0.0 }
    }

    /// Payload of a segment that was sent again, on average.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.again_bytes.checked_div(self.again).unwrap_or(0)
    }
}

/// The peer's receive window as it was told, once an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Times that it was open.
    pub open: u32,
    /// Times that it was closed.
    pub closed: u32,
    sum: u64,
}

impl Windows {
    const fn note(&mut self, bytes: u64) {
        if bytes == 0 {
            self.closed += 1;
        } else {
            self.open += 1;
            self.sum = self.sum.saturating_add(bytes);
        }
    }

    /// Its size where it was open, on average; none where it never was.
    #[must_use]
    pub fn mean_bytes(&self) -> Option<u64> {
        self.sum.checked_div(self.open.into())
    }
}

/// The course of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Course {
    /// When something came from the peer.
    pub heard: Seconds,
    /// When segments were sent again that were taken for lost.
    pub lost: Seconds,
    /// When it was reset, by either end.
    pub reset: Seconds,
    /// When it was refused.
    pub refused: Seconds,
    /// When it was established.
    pub established: Seconds,
    /// When answers came: those that it waited for, or that it gave.
    pub answered: Seconds,
    /// The peer's window.
    pub windows: Windows,
    /// The stall that goes on, all 0 where there is none.
    pub stall: Stall,
    longest: Stall,
    /// Seconds of the window at which the stall began, what came last, and what was told last.
    began: f64,
    silent_since: f64,
    told: f64,
}

impl Course {
    /// The longest stall.
    #[must_use]
    pub fn longest_stall(&self) -> Stall {
        if self.stall.seconds >= self.longest.seconds { self.stall } else { self.longest }
    }

    /// An interval that began at `at` seconds of the window.
    pub(super) fn take(&mut self, flow: &Flow, at: f64, seconds: f64) {
        let told = |name: &str| number(flow, name);
        let some = |name: &str| told(name).is_some_and(|n| n > 0);
        let took = |metric: &str| flow.metrics.get(metric).is_some_and(|told| told.count > 0);
        let second = at as u32;
        for (happened, when) in [
            (some("segments_received"), &mut self.heard),
            (some("retransmits.rto") || some("retransmits.fast"), &mut self.lost),
            (some("resets_received") || some("resets_sent"), &mut self.reset),
            (some("connects_failed.ECONNREFUSED"), &mut self.refused),
            (took("connect"), &mut self.established),
            (took("response") || took("processing"), &mut self.answered),
        ] {
            if happened {
                when.note(second);
            }
        }
        if let Some(bytes) = told("snd_wnd_bytes") {
            self.windows.note(bytes);
        }
        // SYN and FIN count as one.
        let acknowledged = told("bytes_acked").max(told("delivered"));
        let waits =
            flow.closed || told("unacknowledged").map_or(some("retransmits.rto"), |n| n > 0);
        match acknowledged {
            None => {}
            Some(0 | 1) if waits => self.stalled(flow, at, at + seconds),
            Some(_) => {
                self.longest = self.longest_stall();
                self.stall = Stall::default();
            }
        }
    }

    /// Timeouts are minutes apart in the end: where no more than the next one is told between, the stall went
    /// on. What was not told for another reason counts for nothing.
    fn stalled(&mut self, flow: &Flow, from: f64, to: f64) {
        let at_least = |name: &str| number(flow, name).unwrap_or(0);
        let stall = &mut self.stall;
        if stall.seconds == 0.0 {
            stall.since = from as u32;
            (self.began, self.silent_since, self.told) = (from, from, from);
        }
        let in_a_row =
            number(flow, "timeouts_in_a_row").filter(|_| at_least("retransmits.rto") > 0);
        if in_a_row.is_none_or(|n| n <= stall.in_a_row) {
            let untold = from - self.told;
            self.began += untold;
            self.silent_since += untold;
        }
        self.told = to;
        if number(flow, "segments_received") != Some(0) {
            self.silent_since = to;
        }
        stall.seconds = to - self.began;
        stall.silent_s = to - self.silent_since;
        stall.timeouts += at_least("retransmits.rto");
        stall.again += at_least("retransmits");
        stall.again_bytes += at_least("retransmit_bytes");
        stall.in_a_row = in_a_row.unwrap_or(stall.in_a_row);
    }
}

/// A count of an interval by its name, or the sum of a group; none where it is unknown.
fn number(flow: &Flow, name: &str) -> Option<u64> {
    let (group, key) = name.split_once('.').map_or((name, None), |(group, key)| (group, Some(key)));
    match (flow.counts.get(group)?, key) {
        (CountValue::Number(n), None) => *n,
        (CountValue::Group(keys), Some(key)) => *keys.get(key)?,
        (CountValue::Group(keys), None) => keys.values().copied().sum(),
        (CountValue::Number(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::kit;

    /// A flow that gets so many bytes acknowledged and has sent one segment again.
    fn flow(acked: u64, received: u64) -> Flow {
        kit::flow("f1")
            .count("bytes_acked", acked)
            .count("segments_received", received)
            .count("unacknowledged", 3)
            .count("retransmits.rto", 1)
            .count("retransmits.tlp", 1)
            .count("retransmit_bytes", 2_896)
    }

    fn course(of: impl Fn(u64) -> Flow) -> Course {
        kit::series(|second| vec![of(second)]).flows["f1"].course
    }

    #[test]
    fn a_stall_lasts_until_something_is_acknowledged() {
        let course = course(|second| flow(if second == 7 { 1_000 } else { 0 }, second % 2));
        assert_eq!((course.stall.since, course.stall.seconds), (8, 2.0));
        assert_eq!(course.stall.silent_s, 0.0);
        let longest = course.longest_stall();
        assert_eq!((longest.since, longest.seconds, longest.silent_s), (0, 7.0, 1.0));
        assert_eq!((longest.timeouts, longest.again, longest.segment_bytes()), (7, 14, 1_448));
    }

    #[test]
    fn a_timeout_now_and_then_is_one_stall() {
        let silent = |n| flow(0, 0).count("timeouts_in_a_row", n);
        let watched = kit::series(|second| match second {
            1 => vec![silent(7)],
            8 => vec![silent(8)],
            _ => vec![],
        });
        let stall = watched.flows["f1"].course.stall;
        assert_eq!((stall.since, stall.seconds, stall.silent_s, stall.timeouts), (1, 8.0, 8.0, 2));
        let folded = kit::series(|second| match second {
            1 | 8 => vec![silent(3)],
            _ => vec![],
        });
        assert_eq!(folded.flows["f1"].course.stall.seconds, 2.0, "something was acknowledged");
        assert_eq!(stall.in_vain(), 8);
        assert!((stall.silence_s() - 51.0).abs() < 1e-9, "0.2 + 0.4 + … + 25.6 s");
    }

    #[test]
    fn what_is_not_told_is_no_stall() {
        let course = course(|_| kit::flow("f1").count("retransmits.rto", 1));
        assert_eq!(course.longest_stall(), Stall::default());
    }

    #[test]
    fn seconds_and_windows() {
        let course = course(|second| {
            kit::flow("f1")
                .count("resets_received", second % 3)
                .count("snd_wnd_bytes", second % 2 * 100)
                .latency("response", second / 4 % 2, 1)
        });
        assert_eq!((course.reset.count(), course.reset.last()), (6, Some(8)));
        let answered = course.answered;
        assert_eq!((answered.first(), answered.last(), answered.count()), (Some(4), Some(7), 4));
        assert_eq!((course.lost.first(), course.lost.last()), (None, None));
        assert!(course.reset.after(7) && !course.reset.after(8) && !course.lost.after(0));
        let windows = course.windows;
        assert_eq!((windows.open, windows.closed, windows.mean_bytes()), (5, 5, Some(100)));
    }
}
