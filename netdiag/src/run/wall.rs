//! Wall-clock times that are as far apart as what they stand for, also where the node's clock is set.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use crate::format;

/// A difference that no steering of a clock makes in an interval: it was set.
const STEP: Duration = Duration::from_secs(1);

/// An instant, by the node's clock and by one that runs evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    time: SystemTime,
    at: Instant,
}

/// By how much a clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Forward(Duration),
    Back(Duration),
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, way) = match self {
            Self::Forward(by) => (by, "forward"),
            Self::Back(by) => (by, "back"),
        };
        let nanoseconds = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        write!(f, "{way} by {}", format::duration(nanoseconds))
    }
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
        if self.set_before(end).is_none() {
            return (self.time, Self { time: self.time + elapsed, at: end.at });
        }
        (end.time.checked_sub(elapsed).unwrap_or(end.time), end)
    }

    /// By how much the clock was set between two instants, if it was.
    pub(super) fn set_before(self, end: Self) -> Option<Set> {
        let expected = self.time + end.at.saturating_duration_since(self.at);
        let set = match end.time.duration_since(expected) {
            Ok(late) => Set::Forward(late),
            Err(early) => Set::Back(early.duration()),
        };
        let (Set::Forward(by) | Set::Back(by)) = set;
        (by >= STEP).then_some(set)
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
        for (what, clock, start, end, set) in [
            ("undisturbed", time + minute, time, time + minute, None),
            ("steered", time + minute + slewed, time, time + minute, None),
            (
                "set forward",
                time + hour + minute,
                time + hour,
                time + hour + minute,
                Some("forward by 3600s"),
            ),
            (
                "set back",
                time - hour + minute,
                time - hour,
                time - hour + minute,
                Some("back by 3600s"),
            ),
        ] {
            let now = Wall { time: clock, at: at + minute };
            let (from, to) = began.until(now);
            assert_eq!((from, to.time), (start, end), "{what}");
            let said = began.set_before(now).map(|set| set.to_string());
            assert_eq!(said.as_deref(), set, "{what}");
        }
    }
}
