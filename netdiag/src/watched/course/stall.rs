//! Intervals in a row in which the peer acknowledged nothing of what it was sent.

/// Intervals in a row in which the peer acknowledged nothing of what it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Second of the window in which it began.
    pub since: u32,
    /// How long.
    pub seconds: f64,
    /// Second of the window since which nothing at all came.
    pub silent_since: u32,
    /// How long that is, up to its end.
    pub silent_s: f64,
    /// Segments that were sent again after a timeout.
    pub timeouts: u64,
    /// Timeouts in a row at the last of them, those before the window included.
    pub in_a_row: u64,
    /// Segments that were sent again for any reason.
    pub again: u64,
    /// Payload bytes of these.
    pub again_bytes: u64,
    /// Seconds from when nothing waited last to its end; none where that was before the window.
    pub(super) most_s: Option<f64>,
    /// Seconds of the first timeout, at most, by the time between later ones.
    first_s: Option<f64>,
    /// Seconds of the window at which the interval of the last timeout began.
    counted: f64,
}

/// The shortest retransmission timeout in seconds (`TCP_RTO_MIN`, include/net/tcp.h) unless a route has another
/// one (`rto_min`), and the longest.
const TIMEOUT_S: (f64, f64) = (0.2, 120.0);

impl Stall {
    /// Timeouts that were in vain, as far as they were seen or the kernel tells.
    #[must_use]
    pub fn in_vain(&self) -> u64 {
        self.timeouts.max(self.in_a_row)
    }

    /// Seconds of the first timeout: the kernel's shortest, or less where those that were seen followed on one
    /// another sooner.
    #[must_use]
    pub fn first_timeout_s(&self) -> f64 {
        self.first_s.map_or(TIMEOUT_S.0, |first| first.min(TIMEOUT_S.0))
    }

    /// Seconds that nothing was acknowledged: what was watched, or, where it began before that, what so many
    /// timeouts take, each twice as long as the one before.
    #[must_use]
    pub fn at_least_s(&self) -> f64 {
        let (first, longest) = (self.first_timeout_s(), TIMEOUT_S.1);
        let waits = (0..self.in_a_row.min(16)).map(|n| (first * (1u64 << n) as f64).min(longest));
        let waits: f64 = waits.sum();
        waits.min(self.most_s.unwrap_or(f64::INFINITY)).max(self.seconds)
    }

    /// Seconds that nothing at all came, before the window included, as far as nothing came in it; 0 of a peer
    /// that was heard last.
    #[must_use]
    pub fn silence_s(&self) -> f64 {
        if self.silent_s < self.seconds { self.silent_s } else { self.at_least_s() }
    }

    /// Payload of a segment that was sent again, on average.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.again_bytes.checked_div(self.again).unwrap_or(0)
    }

    /// The kernel counts so many timeouts in a row, `here` of them in an interval between these seconds of the
    /// window. A kernel that counts each but the last one makes the first seem longer, not shorter.
    pub(super) fn count(&mut self, in_a_row: u64, here: u64, from: f64, to: f64) {
        if self.in_a_row > 0 && in_a_row > self.in_a_row {
            self.bound(to - self.counted, self.in_a_row, in_a_row);
        }
        if here > 1 && here <= in_a_row + 1 {
            self.bound(to - from, in_a_row + 1 - here, in_a_row);
        }
        (self.in_a_row, self.counted) = (in_a_row, from);
    }

    /// The nth timeout is 2^n - 1 times the first one after the segment was sent, until they get no longer.
    fn bound(&mut self, seconds: f64, earlier: u64, later: u64) {
        let power = |n: u64| 2_f64.powi(n.min(64) as i32);
        let first = seconds / (power(later) - power(earlier));
        if seconds < TIMEOUT_S.1 {
            self.first_s = Some(self.first_s.map_or(first, |known| known.min(first)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{snapshot::Flow, watched::kit};

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

    /// One that gets nothing, at the nth timeout in a row, so many of them in this interval.
    fn timed_out(in_a_row: u64, here: u64) -> Flow {
        flow(0, 0).count("retransmits.rto", here).count("timeouts_in_a_row", in_a_row)
    }

    fn stall(of: impl Fn(u64) -> Option<Flow>) -> Stall {
        kit::series(|second| of(second).into_iter().collect()).flows["f1"].course.stall
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} s, not {expected} s");
    }

    #[test]
    fn a_stall_lasts_until_something_is_acknowledged() {
        let of = |second| vec![flow(if second == 7 { 1_000 } else { 0 }, second % 2)];
        let course = kit::series(of).flows["f1"].course;
        assert_eq!((course.stall.since, course.stall.seconds), (8, 2.0));
        assert_eq!(course.stall.silent_s, 0.0);
        let longest = course.longest_stall();
        assert_eq!((longest.since, longest.seconds, longest.silent_s), (0, 7.0, 1.0));
        assert_eq!((longest.timeouts, longest.again, longest.segment_bytes()), (7, 14, 1_448));
        near(longest.silence_s(), 1.0);
    }

    #[test]
    fn a_timeout_now_and_then_is_one_stall() {
        let now_and_then = |first, second| {
            stall(|at| match at {
                1 => Some(timed_out(first, 1)),
                8 => Some(timed_out(second, 1)),
                _ => None,
            })
        };
        let one = now_and_then(5, 6);
        assert_eq!((one.since, one.seconds, one.silent_s, one.timeouts), (1, 8.0, 8.0, 2));
        assert_eq!(one.in_vain(), 6);
        near(one.first_timeout_s(), 0.2);
        near(one.silence_s(), 12.6);
        assert_eq!(now_and_then(3, 3).seconds, 2.0, "something was acknowledged");
    }

    /// What began before it was watched is as old as its timeouts make it.
    #[test]
    fn a_timeout_alone_is_taken_for_the_kernels_own() {
        near(stall(|at| (at == 9).then(|| timed_out(8, 1))).silence_s(), 51.0);
    }

    /// A route may let the first timeout be shorter: those that were seen tell.
    #[test]
    fn timeouts_that_follow_on_one_another_sooner_are_shorter() {
        // The 7th and the 8th timeout are 128 times the first one apart, 8 s at most.
        let two = stall(|at| (at == 1 || at == 8).then(|| timed_out(7 + at / 8, 1)));
        near(two.first_timeout_s(), 8.0 / 128.0);
        near(two.silence_s(), 8.0 / 128.0 * 255.0);
        // Six in one second, the first to the sixth: 62 times.
        let many = |at| match at {
            8 => Some(timed_out(6, 6)),
            9 => Some(timed_out(7, 1)),
            _ => None,
        };
        near(stall(many).first_timeout_s(), 1.0 / 62.0);
        near(stall(many).silence_s(), 127.0 / 62.0);
    }

    /// Where it was seen to begin, what was watched counts, and a part of an interval at most.
    #[test]
    fn a_stall_that_was_seen_to_begin_is_no_older() {
        let seen = stall(|at| {
            Some(match at {
                0..7 => flow(1_000, 1),
                9 => timed_out(9, 1),
                _ => flow(0, 0),
            })
        });
        assert_eq!(seen.seconds, 3.0);
        near(seen.silence_s(), 4.0);
    }

    /// Timeouts that are no longer than the one before tell nothing of the first.
    #[test]
    fn the_longest_timeouts_tell_nothing() {
        let mut stall = Stall::default();
        stall.count(12, 1, 0.0, 1.0);
        stall.count(13, 1, 119.0, 120.0);
        near(stall.first_timeout_s(), 0.2);
        stall.count(255, 2, 120.0, 121.0);
        assert!(stall.first_timeout_s() < 0.2 && stall.at_least_s().is_finite());
    }

    #[test]
    fn what_is_not_told_is_no_stall() {
        let of = |_| vec![kit::flow("f1").count("retransmits.rto", 1)];
        assert_eq!(kit::series(of).flows["f1"].course.longest_stall(), Stall::default());
    }
}
