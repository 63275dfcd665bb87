//! What is said of a collector: once that it does not get what it should, once that it does again, and at the end what
//! it lacks. Pure: the time is handed in.

use std::time::{Duration, Instant};

use super::client::Failure;
use crate::{
    format::{cut, sanitised},
    view::otlp::Taken,
};

/// Between two lines that say the same at least.
const QUIET: Duration = Duration::from_secs(60);
/// Columns of what a collector says itself.
const COLUMNS: usize = 160;

/// What became of the intervals so far.
#[derive(Debug)]
pub(super) struct Said {
    /// The collector, as lines name it.
    collector: String,
    /// Intervals that it got.
    arrived: u64,
    /// Which of them was the last.
    last: u64,
    /// One failed since.
    fails: bool,
    /// And that was said.
    is_told: bool,
    failure: Option<Instant>,
    lateness: Option<Instant>,
    rejection: Option<Instant>,
}

impl Said {
    pub(super) const fn new(collector: String) -> Self {
        Self {
            collector,
            arrived: 0,
            last: 0,
            fails: false,
            is_told: false,
            failure: None,
            lateness: None,
            rejection: None,
        }
    }

    /// An interval was sent, which is the `nth` one; those between it and the one before were left out.
    pub(super) fn pushed(
        &mut self,
        nth: u64,
        result: &Result<Taken, Failure>,
        now: Instant,
    ) -> Vec<String> {
        match result {
            Ok(taken) => {
                let line = self.taken(nth, now);
                line.into_iter().chain(self.rejected(taken, now)).collect()
            }
            Err(failure) => self.failed(failure, now).into_iter().collect(),
        }
    }

    fn failed(&mut self, failure: &Failure, now: Instant) -> Option<String> {
        self.fails = true;
        if self.is_told || !is_due(&mut self.failure, now) {
            return None;
        }
        self.is_told = true;
        let Self { collector, .. } = self;
        Some(format!(
            "metrics do not reach the collector at {collector}: {failure}; tracing goes on, and what it lacks is in the \
             sums of the next interval that reaches it; {}",
            failure.advice()
        ))
    }

    fn taken(&mut self, nth: u64, now: Instant) -> Option<String> {
        let lacks = nth.saturating_sub(self.last + 1);
        (self.arrived, self.last) = (self.arrived + 1, nth);
        let (fails, is_told) = (self.fails, self.is_told);
        (self.fails, self.is_told) = (false, false);
        let Self { collector, lateness, .. } = self;
        if is_told {
            return Some(format!(
                "metrics reach the collector at {collector} again; it lacks {lacks} intervals, which are in the sums of \
                 this one"
            ));
        }
        // That one failed is said now and then, that it did is in the last line.
        if fails || lacks == 0 || !is_due(lateness, now) {
            return None;
        }
        Some(format!(
            "the collector at {collector} takes longer than an interval: {lacks} were left out, which are in the sums of \
             the next one; give a longer --interval"
        ))
    }

    fn rejected(&mut self, taken: &Taken, now: Instant) -> Option<String> {
        let Taken { rejected, message } = taken;
        if (*rejected == 0 && message.is_empty()) || !is_due(&mut self.rejection, now) {
            return None;
        }
        let Self { collector, .. } = self;
        let message = shown(message);
        Some(if *rejected == 0 {
            format!("the collector at {collector} takes metrics and says {message}")
        } else {
            format!(
                "the collector at {collector} rejects {rejected} data points of an interval and says {message}; it lacks \
                 these series, look for the reason there"
            )
        })
    }

    /// The run has ended, in which so many intervals were handed over.
    pub(super) fn end(&self, handed: u64) -> Option<String> {
        let Self { collector, arrived, last, .. } = self;
        let lacks = handed.saturating_sub(*arrived);
        if lacks == 0 {
            return None;
        }
        let consequence = if *last == handed {
            "which are in the sums of the last one"
        } else {
            "among them the last one: what was counted since the one that it got last is not there"
        };
        Some(format!(
            "the collector at {collector} lacks {lacks} of {handed} intervals, {consequence}"
        ))
    }
}

/// Whether it was not said of late; then it is now.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// What others say, short and in quotation marks.
pub(super) fn shown(message: &str) -> String {
    if message.is_empty() {
        return "nothing of why".to_owned();
    }
    format!("`{}`", cut(&sanitised(message), COLUMNS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> Result<Taken, Failure> {
        Ok(Taken::default())
    }

    fn silent() -> Result<Taken, Failure> {
        Err(Failure::Silent)
    }

    /// The collector, and what says lines of what happens at these seconds: the number of the interval, and what became
    /// of it.
    fn lines(happens: Vec<(u64, u64, Result<Taken, Failure>)>) -> (Said, Vec<String>) {
        let start = Instant::now();
        let mut said = Said::new("http://c/".to_owned());
        let mut lines = Vec::new();
        for (second, nth, result) in happens {
            lines.extend(said.pushed(nth, &result, start + Duration::from_secs(second)));
        }
        (said, lines)
    }

    #[track_caller]
    fn say(lines: &[String], expected: &[&str]) {
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, words) in lines.iter().zip(expected) {
            assert!(line.contains(words) && line.contains("http://c/"), "{line} lacks {words}");
        }
    }

    #[test]
    fn all_is_well_in_silence() {
        let (said, lines) = lines((1..9).map(|nth| (nth, nth, taken())).collect());
        say(&lines, &[]);
        assert_eq!(said.end(8), None);
    }

    #[test]
    fn what_lasts_is_said_once_and_that_it_is_over() {
        let (said, lines) = lines(vec![
            (1, 1, taken()),
            (2, 2, silent()),
            (14, 9, silent()),
            (90, 60, silent()),
            (91, 61, taken()),
            (92, 62, taken()),
        ]);
        say(&lines, &["does not answer within 10 s; tracing goes on", "it lacks 59 intervals"]);
        say(said.end(62).as_slice(), &["lacks 59 of 62 intervals, which are in the sums"]);
    }

    #[test]
    fn what_comes_and_goes_is_said_once_a_minute() {
        let all = (1..=120).map(|nth| (nth, nth, if nth % 2 == 0 { taken() } else { silent() }));
        let (said, lines) = lines(all.collect());
        let both = ["do not reach", "again; it lacks 1 intervals"];
        say(&lines, &[both, both].concat());
        say(said.end(120).as_slice(), &["lacks 60 of 120"]);
    }

    #[test]
    fn a_slow_collector_is_told_from_one_that_fails() {
        let (said, lines) = lines(vec![(1, 1, taken()), (5, 5, taken()), (9, 9, taken())]);
        say(&lines, &["takes longer than an interval: 3 were left out"]);
        say(said.end(9).as_slice(), &["lacks 6 of 9 intervals, which are in the sums"]);
        say(said.end(10).as_slice(), &["lacks 7 of 10 intervals, among them the last one"]);
        say(Said::new("http://c/".to_owned()).end(3).as_slice(), &["lacks 3 of 3"]);
    }

    #[test]
    fn what_it_rejects_is_said() {
        let rejects = |rejected, message: &str| Ok(Taken { rejected, message: message.to_owned() });
        let (said, told) = lines(vec![
            (1, 1, rejects(3, "too\u{1b}[2J\nmany")),
            (2, 2, rejects(3, "too many")),
            (70, 3, rejects(0, "old")),
        ]);
        say(&told, &["rejects 3 data points", "takes metrics and says `old`"]);
        assert!(told[0].contains("`too\u{fffd}[2J\u{fffd}many`"), "{}", told[0]);
        assert_eq!(said.end(3), None);
        let (_, told) = lines(vec![(1, 1, rejects(1, &"x".repeat(10_000)))]);
        assert!(told[0].len() < 500, "{}", told[0]);
    }
}
