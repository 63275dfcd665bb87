//! When which trouble comes. Pure: the time is handed in.

use std::time::Duration;

use crate::random::Random;

/// What befalls the netdiag that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// It is stopped for a while (SIGSTOP).
    Stopped,
    /// Its disk is full for a while.
    Full,
    /// It ends, one way or another, and another one begins.
    Restarted,
}

impl Trouble {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Full => "disk full",
            Self::Restarted => "restarted",
        }
    }
}

/// Of all in turn, in any order; what it lives through for long is one life.
const TURN: [Trouble; 4] = [Trouble::Stopped, Trouble::Stopped, Trouble::Full, Trouble::Restarted];

/// The part of the time at its beginning, and at its end, in which it may be restarted.
const YOUNG: f64 = 0.15;

/// What is due when.
#[derive(Debug)]
pub(super) struct Plan {
    random: Random,
    time: Duration,
    every: Duration,
    next: Duration,
    waiting: Vec<Trouble>,
    /// It was restarted near the end.
    was_old: bool,
}

impl Plan {
    /// For so long. The first one that begins does not live long.
    pub(super) fn new(time: Duration, random: Random) -> Self {
        let every = (time / 200).clamp(Duration::from_secs(3), Duration::from_secs(30));
        let waiting = vec![Trouble::Restarted];
        Self { random, time, every, next: every, waiting, was_old: false }
    }

    /// In the mean, from one to the next.
    pub(super) const fn every(&self) -> Duration {
        self.every
    }

    /// What is due after so much of the time, if anything is.
    pub(super) fn due(&mut self, elapsed: Duration) -> Option<Trouble> {
        if elapsed < self.next {
            return None;
        }
        self.next = elapsed + self.every / 2 + self.random.up_to(self.every);
        let part = elapsed.as_secs_f64() / self.time.as_secs_f64();
        if part > 1.0 - YOUNG && !self.was_old {
            self.was_old = true;
            return Some(Trouble::Restarted);
        }
        if self.waiting.is_empty() {
            self.waiting.extend(TURN);
        }
        let one = self.waiting.swap_remove(self.random.index(self.waiting.len()));
        let is_young = !(YOUNG..=1.0 - YOUNG).contains(&part);
        Some(if one == Trouble::Restarted && !is_young { Trouble::Stopped } else { one })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_trouble_comes_and_one_life_is_long() {
        for (seconds, seed) in [(60, 1), (60, 2), (600, 3), (7_200, 4)] {
            let time = Duration::from_secs(seconds);
            let mut plan = Plan::new(time, Random::of(seed));
            let (mut came, mut restarted) = (BTreeSet::new(), vec![]);
            for half in 0..2 * seconds {
                let elapsed = Duration::from_millis(500 * half);
                let due = plan.due(elapsed);
                came.extend(due);
                restarted.extend(due.filter(|it| *it == Trouble::Restarted).map(|_| elapsed));
            }
            assert_eq!(came.len(), 3, "{seconds} s, seed {seed}: {came:?}");
            restarted.push(time);
            let lives = restarted.windows(2).map(|pair| pair[1] - pair[0]);
            let longest = lives.max().unwrap_or_default();
            assert!(longest >= time / 2, "{seconds} s, seed {seed}: {longest:?} of {restarted:?}");
            assert!(restarted.len() >= 3, "{seconds} s, seed {seed}: {restarted:?}");
        }
    }
}
