//! How often something that may cost much is done: it takes at most a hundredth of one CPU.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// By how much longer than it took it is not done again.
const SHARE: u32 = 100;

/// When it is to be done again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Due at once.
    pub const NEW: Self = Self { due: None };

    /// Whether it is time.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due.is_none_or(|due| Instant::now() >= due)
    }

    /// Does it on this thread, and not again for at least `least`.
    pub fn run<R>(&mut self, least: Duration, work: impl FnOnce() -> R) -> R {
        let before = thread_time();
        let result = work();
        self.spent(least, thread_time().saturating_sub(before));
        result
    }

    /// It was done and took so much CPU time.
    pub fn spent(&mut self, least: Duration, cost: Duration) {
        self.due = Some(Instant::now() + least.max(cost * SHARE).saturating_sub(SLACK));
    }
}

/// What intervals may differ by.
const SLACK: Duration = Duration::from_millis(50);

/// CPU time of the calling thread.
#[must_use]
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cost_much_waits() {
        let mut pace = Pace::default();
        assert!(pace.is_due());
        pace.spent(Duration::ZERO, Duration::ZERO);
        assert!(pace.is_due());
        pace.spent(Duration::ZERO, Duration::from_secs(1));
        assert!(!pace.is_due());
        pace.spent(Duration::from_secs(30), Duration::ZERO);
        assert!(!pace.is_due());
    }
}
