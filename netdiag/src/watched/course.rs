//! How a flow went within a window: when what happened, and how long nothing did.

use crate::snapshot::{CountValue, Flow};

mod stall;

pub use stall::Stall;

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
    /// Payload bytes that this end has sent in the intervals since one in which some came.
    pub asked_bytes: u64,
    /// Payload bytes that have come in the intervals since one in which this end sent some.
    pub owed_bytes: u64,
    /// Payload bytes that this end has sent in the last interval with any, where some came in it as well: how many of
    /// them were sent after those is not known.
    pub asked_beside_bytes: u64,
    /// The same the other way round.
    pub owed_beside_bytes: u64,
    /// When SYNs were sent again, or connecting failed.
    pub asked_again: Seconds,
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
    /// When the last interval began in which something was acknowledged, or at whose end nothing waited for that: no
    /// stall is older.
    calm: Option<f64>,
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
        // An older netdiag told of `service` alone.
        let answered = ["response", "processing", "service"].into_iter().any(took);
        let second = at as u32;
        for (happened, when) in [
            (some("segments_received"), &mut self.heard),
            (some("retransmits.rto") || some("retransmits.fast"), &mut self.lost),
            (some("resets_received") || some("resets_sent"), &mut self.reset),
            (some("connects_failed.ECONNREFUSED"), &mut self.refused),
            (took("connect"), &mut self.established),
            (some("retransmits.syn") || some("connects_failed"), &mut self.asked_again),
            (answered, &mut self.answered),
        ] {
            if happened {
                when.note(second);
            }
        }
        let [sent, received] = ["bytes_sent", "bytes_received"].map(|name| told(name).unwrap_or(0));
        self.asked_bytes = if received > 0 { 0 } else { self.asked_bytes.saturating_add(sent) };
        self.owed_bytes = if sent > 0 { 0 } else { self.owed_bytes.saturating_add(received) };
        if sent > 0 || received > 0 {
            self.asked_beside_bytes = if received > 0 { sent } else { 0 };
            self.owed_beside_bytes = if sent > 0 { received } else { 0 };
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
            Some(n) => {
                // That nothing is acknowledged where nobody tells what waits is no calm.
                if n > 1 || told("unacknowledged").is_some() {
                    self.calm = Some(at);
                }
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
            (stall.since, stall.silent_since) = (from as u32, from as u32);
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
            stall.silent_since = to as u32;
        }
        stall.seconds = to - self.began;
        stall.most_s = self.calm.map(|calm| to - calm);
        stall.silent_s = to - self.silent_since;
        stall.timeouts += at_least("retransmits.rto");
        stall.again += at_least("retransmits");
        stall.again_bytes += at_least("retransmit_bytes");
        if let Some(in_a_row) = in_a_row {
            stall.count(in_a_row, at_least("retransmits.rto"), from, to);
        }
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
    use crate::watched::kit;

    #[test]
    fn who_waits_for_whom_is_told_by_whole_intervals() {
        let course = |end: u64, sent: [u64; 3], received: [u64; 3]| {
            let mut watched = crate::watched::Watched::default();
            for (second, (sent, received)) in (0..end).zip(sent.into_iter().zip(received)) {
                let flow = kit::flow("f1").count("bytes_sent", sent);
                let flow = flow.count("bytes_received", received);
                watched.take(&kit::snapshot(second, vec![flow]));
            }
            let course = watched.flows["f1"].course;
            let beside = (course.asked_beside_bytes, course.owed_beside_bytes);
            ((course.asked_bytes, course.owed_bytes), beside)
        };
        assert_eq!(course(1, [70, 0, 0], [900, 0, 0]), ((0, 0), (70, 900)));
        assert_eq!(course(2, [70, 0, 0], [900, 0, 0]), ((0, 0), (70, 900)));
        assert_eq!(course(2, [70, 80, 0], [900, 0, 0]), ((80, 0), (0, 0)));
        assert_eq!(course(3, [70, 80, 9], [900, 0, 0]), ((89, 0), (0, 0)));
        assert_eq!(course(3, [70, 80, 0], [900, 0, 7]), ((0, 7), (0, 0)));
        assert_eq!(course(3, [70, 80, 9], [900, 0, 7]), ((0, 0), (9, 7)));
    }

    #[test]
    fn a_server_answers_by_whatever_is_told_of_it() {
        for metric in ["processing", "service"] {
            let flow = |second| kit::flow("f1").serving(80).latency(metric, second / 5, 1);
            let answered = kit::series(|second| vec![flow(second)]).flows["f1"].course.answered;
            assert_eq!((answered.first(), answered.count()), (Some(5), 5), "{metric}");
        }
    }

    #[test]
    fn seconds_and_windows() {
        let flow = |second| {
            kit::flow("f1")
                .count("resets_received", second % 3)
                .count("snd_wnd_bytes", second % 2 * 100)
                .latency("response", second / 4 % 2, 1)
        };
        let course = kit::series(|second| vec![flow(second)]).flows["f1"].course;
        assert_eq!((course.reset.count(), course.reset.last()), (6, Some(8)));
        let answered = course.answered;
        assert_eq!((answered.first(), answered.last(), answered.count()), (Some(4), Some(7), 4));
        assert_eq!((course.lost.first(), course.lost.last()), (None, None));
        assert!(course.reset.after(7) && !course.reset.after(8) && !course.lost.after(0));
        let windows = course.windows;
        assert_eq!((windows.open, windows.closed, windows.mean_bytes()), (5, 5, Some(100)));
    }
}
