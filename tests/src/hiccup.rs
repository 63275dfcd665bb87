//! Whether the machine that a test runs on kept up: how late a thread wakes that only sleeps, as jHiccup measures
//! it, and for how much of an emulated machine's time some thread waited for its processor, by the kernel's word
//! (`/proc/pressure/cpu`, Documentation/accounting/psi.rst). What is slow in one that does not is slow indeed.

use std::{
    fs, iter,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::machine;

/// How long the thread sleeps at a time.
const SLEEP: Duration = Duration::from_millis(5);

/// A thread that wakes later than this in one of ten cases: path, kernel and applications are late by as much, each
/// one of them, and together by what a finding takes for long.
const LATE: Duration = Duration::from_millis(10);

/// Some thread waited for an emulated processor for more than this part of the time: also the kernel's own that
/// process packets, and whoever answers.
const WAITED: f64 = 0.5;

/// A thread that sleeps, until it is asked how late it woke.
#[derive(Debug)]
pub struct Hiccups {
    began: Instant,
    waited: Option<Duration>,
    stop: Sender<()>,
    sleeper: JoinHandle<Vec<Duration>>,
}

impl Hiccups {
    /// Watches from now on.
    #[must_use]
    pub fn watch() -> Self {
        let (began, waited) = (Instant::now(), waited());
        let (stop, stopped) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let mut late = Vec::new();
            loop {
                let began = Instant::now();
                // Who is gone wants no answer.
                if stopped.recv_timeout(SLEEP) != Err(RecvTimeoutError::Timeout) {
                    return late;
                }
                late.extend(missed(began.elapsed().saturating_sub(SLEEP)));
            }
        });
        Self { began, waited, stop, sleeper }
    }

    /// Why nothing was on time, if that is so.
    ///
    /// # Panics
    /// When its thread did.
    #[must_use]
    pub fn stood_still(self) -> Option<String> {
        let Self { began, waited: before, stop, sleeper } = self;
        drop(stop);
        let late = sleeper.join().expect("a thread that sleeps panicked");
        let late = ninth_decile(late).filter(|late| *late > LATE);
        let late = late.map(|late| format!("one of ten sleeps ended {late:?} late"));
        late.or_else(|| {
            let waited = waited()?.saturating_sub(before?);
            let part = waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9);
            let is_much = machine::emulated() && part > WAITED;
            is_much.then(|| {
                format!("threads waited for the processor {:.0} % of the time", part * 100.0)
            })
        })
    }
}

/// Time since the machine started in which some thread waited for a processor; none where the kernel does not tell.
fn waited() -> Option<Duration> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let total = some.split(' ').find_map(|word| word.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

/// Who sleeps for one time that is too long would have slept several times in it, each late by what was left of it: a
/// stall of seconds is not one case among hundreds.
fn missed(late: Duration) -> impl Iterator<Item = Duration> {
    iter::successors(Some(late), |late| late.checked_sub(SLEEP).filter(|late| !late.is_zero()))
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
    fn a_long_stall_is_many() {
        let late: Vec<_> = missed(3 * SLEEP).collect();
        assert_eq!(late, [3 * SLEEP, 2 * SLEEP, SLEEP]);
        assert_eq!(missed(Duration::ZERO).count(), 1);
        let on_time = iter::repeat_n(Duration::ZERO, 200);
        let all = on_time.chain(missed(Duration::from_secs(1))).collect();
        assert!(ninth_decile(all).is_some_and(|late| late > LATE));
    }

    #[test]
    fn it_counts_its_sleeps_until_it_is_asked() {
        let Hiccups { began, stop, sleeper, .. } = Hiccups::watch();
        thread::sleep(100 * SLEEP);
        drop(stop);
        let late = sleeper.join().expect("a thread that sleeps panicked");
        // Each that is counted stands for so long a sleep at least, however late it ended.
        assert!(!late.is_empty());
        assert!(SLEEP * late.len() as u32 <= began.elapsed(), "{} of {SLEEP:?}", late.len());
    }
}
