//! Wall-clock times that are as far apart as what they stand for, also where the node's clock is set.

use std::time::{Duration, Instant, SystemTime};

/// A difference that no steering of a clock makes in an interval: it was set.
const STEP: Duration = Duration::from_secs(1);

/// An instant, by the node's clock and by one that runs evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    time: SystemTime,
    at: Instant,
}

impl Wall {
    pub(super) fn now() -> Self {
        Self { time: SystemTime::now(), at: Instant::now() }
    }

    /// By the node's clock.
    pub(super) const fn time(self) -> SystemTime {
        self.time
    }

    /// Start and end of what lies between two instants. Where the clock was set meanwhile, the start is
    /// told by the clock as it is now, so that the length is true.
    pub(super) fn until(self, end: Self) -> (SystemTime, Self) {
        let elapsed = end.at.saturating_duration_since(self.at);
        let expected = self.time + elapsed;
        let set = end.time.duration_since(expected).unwrap_or_else(|early| early.duration());
        if set < STEP {
            return (self.time, Self { time: expected, at: end.at });
        }
        (end.time.checked_sub(elapsed).unwrap_or(end.time), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_long_as_it_was() {
        let (time, at) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30), Instant::now());
        let began = Wall { time, at };
        let minute = Duration::from_secs(60);
        let hour = 60 * minute;
        let slewed = Duration::from_millis(5);
        for (what, clock, start, end) in [
            ("undisturbed", time + minute, time, time + minute),
            ("steered", time + minute + slewed, time, time + minute),
            ("set forward", time + hour + minute, time + hour, time + hour + minute),
            ("set back", time - hour + minute, time - hour, time - hour + minute),
        ] {
            let (from, to) = began.until(Wall { time: clock, at: at + minute });
            assert_eq!((from, to.time), (start, end), "{what}");
        }
    }
}
