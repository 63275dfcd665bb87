//! When an interval is due. Pure: the time is handed in.

use std::time::Duration;

use tokio::time::Instant;

/// The beat of the intervals. One that is due and cannot be put out yet, since the one before is
/// still on its way, goes on until it can: then it is a longer one, and nothing is left out.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Instant,
    due: bool,
}

impl Pace {
    /// The first interval begins now.
    pub(super) fn new(now: Instant, every: Duration) -> Self {
        Self { every, next: now + every, due: false }
    }

    /// When to look at the clock next.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// The time of [`Self::next`] has come.
    pub(super) fn tick(&mut self, now: Instant) {
        self.due = true;
        self.next += self.every;
        if self.next <= now {
            // The loop stood still: the intervals that were missed are one long one.
            self.next = now + self.every;
        }
    }

    /// Whether the interval is to end as soon as it can be put out.
    pub(super) const fn is_due(&self) -> bool {
        self.due
    }

    /// The interval could not be ended, and goes on until the next beat at least.
    pub(super) const fn go_on(&mut self) {
        self.due = false;
    }

    /// The interval ended.
    pub(super) fn cut(&mut self, now: Instant) {
        self.due = false;
        // Late: what is left until the next beat would be a short one.
        if self.next < now + self.every / 2 {
            self.next = now + self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of intervals of 10 ms, in milliseconds, where the outputs are busy in these spans.
    fn ends(busy: &[(u64, u64)], until: u64) -> Vec<u64> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start, Duration::from_millis(10));
        let mut ends = Vec::new();
        for ms in 1..=until {
            if pace.next() <= at(ms) {
                pace.tick(at(ms));
            }
            if pace.is_due() && !busy.iter().any(|&(from, to)| (from..to).contains(&ms)) {
                pace.cut(at(ms));
                ends.push(ms);
            }
        }
        ends
    }

    #[test]
    fn intervals_end_on_the_beat() {
        assert_eq!(ends(&[], 45), [10, 20, 30, 40]);
        assert_eq!(ends(&[(11, 20), (21, 29)], 45), [10, 20, 30, 40], "free in time");
    }

    #[test]
    fn an_interval_goes_on_until_it_can_be_put_out_and_none_is_short() {
        assert_eq!(ends(&[(11, 23)], 45), [10, 23, 30, 40]);
        assert_eq!(ends(&[(11, 27)], 50), [10, 27, 37, 47]);
        assert_eq!(ends(&[(11, 102)], 125), [10, 102, 110, 120]);
    }

    #[test]
    fn what_a_loop_that_stood_still_missed_is_one_interval() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start, Duration::from_millis(10));
        pace.tick(at(57));
        assert!(pace.is_due());
        pace.cut(at(58));
        assert_eq!(pace.next(), at(67));
        assert!(!pace.is_due());
    }
}
