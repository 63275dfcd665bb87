//! Whether the machine that a test runs on stood still: how late a thread wakes that only sleeps, as jHiccup
//! measures it. Who shares an emulated processor with a busy machine waits for it, and with it everything
//! that the machine's own clocks time.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long the thread sleeps at a time.
const SLEEP: Duration = Duration::from_millis(5);

/// A thread that wakes later than this in one of ten cases: path, kernel and applications are late by as much, each
/// one of them, and together by what a finding takes for long.
const LATE: Duration = Duration::from_millis(10);

/// A thread that sleeps, until it is asked how late it woke.
#[derive(Debug)]
pub struct Hiccups {
    stop: Sender<()>,
    sleeper: JoinHandle<Vec<Duration>>,
}

impl Hiccups {
    /// Watches from now on.
    #[must_use]
    pub fn watch() -> Self {
        let (stop, stopped) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let mut late = Vec::new();
            loop {
                let began = Instant::now();
                // Who is gone wants no answer.
                if stopped.recv_timeout(SLEEP) != Err(RecvTimeoutError::Timeout) {
                    return late;
                }
                late.push(began.elapsed().saturating_sub(SLEEP));
            }
        });
        Self { stop, sleeper }
    }

    /// By how much it woke too late, in one of ten cases, if that is so much that nothing was on time.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn stood_still(self) -> Option<Duration> {
        let Self { stop, sleeper } = self;
        drop(stop);
        let late = sleeper.join().expect("a thread that sleeps panicked");
        ninth_decile(late).filter(|late| *late > LATE)
    }
}

fn ninth_decile(mut late: Vec<Duration>) -> Option<Duration> {
    late.sort_unstable();
    late.get(late.len() * 9 / 10).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_ten_is_as_late() {
        let late =
            |all: &[u64]| ninth_decile(all.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(late(&[]), None);
        assert_eq!(late(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 70]), Some(Duration::from_millis(70)));
        assert_eq!(late(&[70, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Some(Duration::from_millis(1)));
    }

    #[test]
    fn it_ends_when_it_is_asked() {
        let _ = Hiccups::watch().stood_still();
    }
}
