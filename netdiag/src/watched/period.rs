//! Whether a latency is high again and again at regular times.
//!
//! A spike begins where quick answers fail to come, which tells its beginning and end within an interval;
//! where answers are too few for that, or come too unevenly, the part of slow ones tells. A period is one if
//! nearly all spikes lie on its grid, hardly a place of the grid is empty, and random spikes would hardly ever
//! look so.

use super::series::{Cell, QUANTILES};

mod fit;

pub use fit::Fit;

/// What makes a spike.
#[derive(Clone, Copy, Debug)]
pub struct Spiky {
    /// So many times the usual.
    pub times: f64,
    /// And so many nanoseconds above it.
    pub above_ns: f64,
}

/// A time of high latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// When it began, in seconds since the run did.
    pub start: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How high it was, in nanoseconds.
    pub height_ns: u64,
    /// Part of all answers in its intervals that were slow, or did not come.
    pub share: f64,
    /// Answers that were slow, or did not come, at least.
    pub answers: f64,
}

/// Spikes that come again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Period {
    /// The grid on which they lie.
    pub fit: Fit,
    /// How long each takes, in seconds.
    pub lasts: f64,
    /// How high they are, in nanoseconds.
    pub height_ns: u64,
    /// The usual latency, in nanoseconds.
    pub usual_ns: u64,
    /// Part of all answers in their intervals that were slow, or did not come.
    pub share: f64,
    /// Answers of each that were slow, or did not come, at least.
    pub answers: f64,
}

/// Intervals between which slow ones are still one spike, if all are quick in them: what is tried.
const BRIDGES: [usize; 3] = [0, 2, 5];
/// Which of [`QUANTILES`] are looked at: the slow tenth, and the slowest.
const LEVELS: [usize; 2] = [3, QUANTILES.len() - 1];
/// Fewest answers of an interval from which on missing ones tell anything.
const STEADY: f64 = 8.0;

/// The most regular spikes of a latency, none where there are too few.
#[must_use]
pub fn period(cells: &[Cell], spiky: Spiky) -> Option<Period> {
    let seconds = median(cells.iter().map(|cell| cell.seconds))?;
    let mut tries: Vec<(Vec<Spike>, u64)> = Vec::new();
    for level in LEVELS {
        let Some(watch) = Watch::of(cells, level, spiky) else { continue };
        for bridge in BRIDGES {
            let spikes = watch.spikes(bridge);
            // Who sees the same spikes tries nothing else.
            if !tries.iter().any(|(known, _)| are_same(known, &spikes, seconds)) {
                tries.push((spikes, watch.usual_ns));
            }
        }
    }
    let all = tries.iter().filter_map(|(spikes, usual_ns)| regular(spikes, *usual_ns, seconds));
    let mut best = all.min_by(|one, other| one.fit.chance.total_cmp(&other.fit.chance))?;
    best.fit.chance *= tries.len() as f64;
    Some(best)
}

/// Whether they are of the same times, as well as these are known.
fn are_same(some: &[Spike], others: &[Spike], resolution: f64) -> bool {
    let mut pairs = some.iter().zip(others);
    some.len() == others.len()
        && pairs.all(|(one, other)| (one.start - other.start).abs() <= resolution / 2.0)
}

fn regular(spikes: &[Spike], usual_ns: u64, resolution: f64) -> Option<Period> {
    let starts: Vec<_> = spikes.iter().map(|spike| spike.start).collect();
    let fit = fit::grid(&starts, resolution)?;
    let of = |value: fn(&Spike) -> f64| median(fit.on.iter().map(|&on| value(&spikes[on])));
    let height_ns = of(|spike| spike.height_ns as f64)? as u64;
    // What takes that long recurs by itself: its end is where the next begins.
    if height_ns as f64 > fit.seconds * 1e9 / 2.0 {
        return None;
    }
    Some(Period {
        lasts: of(|spike| spike.seconds)?,
        height_ns,
        usual_ns,
        share: of(|spike| spike.share)?,
        answers: of(|spike| spike.answers)?,
        fit,
    })
}

/// A latency with what is usual of it.
struct Watch<'a> {
    cells: &'a [Cell],
    level: usize,
    /// Microseconds from which on it is slow.
    slow: f64,
    usual_ns: u64,
    /// Quick answers a second, and from which part on missing ones tell; none where they come unevenly.
    steady: Option<(f64, f64)>,
}

impl<'a> Watch<'a> {
    fn of(cells: &'a [Cell], level: usize, spiky: Spiky) -> Option<Self> {
        let points = || cells.iter().filter_map(|cell| cell.point);
        let usual = median(points().map(|point| f64::from(point.at[level])))?;
        let slow = (usual * spiky.times).max(usual + spiky.above_ns / 1e3);
        let usual_ns = median(points().map(|point| f64::from(point.at[1])))? as u64 * 1_000;
        let mut watch = Self { cells, level, slow, usual_ns, steady: None };
        let rates: Vec<_> = (0..cells.len())
            .filter(|&at| !watch.is_slow(at))
            .map(|at| watch.quick(at) / cells[at].seconds.max(1e-9))
            .collect();
        let rate = median(rates.iter().copied())?;
        let spread = median(rates.iter().map(|one| (one - rate).abs()))? / rate.max(1e-9);
        let seconds = median(cells.iter().map(|cell| cell.seconds))?;
        if rate * seconds >= STEADY && spread <= 0.15 {
            watch.steady = Some((rate, (3.0 * spread).max(0.1)));
        }
        Some(watch)
    }

    fn is_slow(&self, at: usize) -> bool {
        self.cells[at].point.is_some_and(|point| f64::from(point.at[self.level]) >= self.slow)
    }

    /// The first of [`QUANTILES`] that is slow in an interval.
    fn slow_from(&self, at: usize) -> Option<usize> {
        self.cells[at].point?.at.iter().position(|&us| f64::from(us) >= self.slow)
    }

    fn count(&self, at: usize) -> f64 {
        self.cells[at].point.map_or(0.0, |point| f64::from(point.count))
    }

    /// Answers of an interval that were not slow.
    fn quick(&self, at: usize) -> f64 {
        let part = match self.slow_from(at) {
            None => 1.0,
            Some(0) => 0.0,
            // Somewhere between two that are known.
            Some(nth) => f64::midpoint(QUANTILES[nth - 1], QUANTILES[nth]),
        };
        self.count(at) * part
    }

    /// Answers of an interval that were slow, at least.
    fn slow_answers(&self, at: usize) -> f64 {
        let least = self.slow_from(at).map(|nth| self.count(at) * (1.0 - QUANTILES[nth]));
        least.map_or(0.0, |least| least.max(1.0))
    }

    /// Quick answers that were due in an interval and did not come.
    fn due(&self, at: usize) -> f64 {
        self.steady.map_or(0.0, |(rate, _)| self.missing(at) * rate * self.cells[at].seconds)
    }

    /// Part of an interval in which quick answers did not come as they do.
    fn missing(&self, at: usize) -> f64 {
        let Some((rate, least)) = self.steady else { return 0.0 };
        let due = rate * self.cells[at].seconds;
        let part = (1.0 - self.quick(at) / due).clamp(0.0, 1.0);
        if part < least { 0.0 } else { part }
    }

    /// Part of an interval's answers that were slow; all where there is none.
    fn slow_part(&self, at: usize) -> f64 {
        let count = self.count(at);
        if count > 0.0 { 1.0 - self.quick(at) / count } else { 1.0 }
    }

    fn spikes(&self, bridge: usize) -> Vec<Spike> {
        let mut spikes: Vec<(usize, usize)> = Vec::new();
        for at in (0..self.cells.len()).filter(|&at| self.is_slow(at)) {
            match spikes.last_mut() {
                Some((_, last)) if self.goes_on(*last, at, bridge) => *last = at,
                _ => spikes.push((at, at)),
            }
        }
        spikes.into_iter().map(|(first, last)| self.spike(first, last)).collect()
    }

    /// Whether two slow intervals are of one spike: nothing between them tells that it was over.
    fn goes_on(&self, last: usize, at: usize, bridge: usize) -> bool {
        let between = last + 1..at;
        between.len() <= bridge
            || between.clone().all(|at| self.cells[at].point.is_none())
            || self.steady.is_some() && between.clone().all(|at| self.missing(at) >= 0.5)
    }

    fn spike(&self, first: usize, last: usize) -> Spike {
        let slow = |at: &usize| self.is_slow(*at);
        let heights = (first..=last).filter(slow).filter_map(|at| self.cells[at].point);
        let height_ns =
            heights.map(|point| u64::from(point.at[self.level])).max().unwrap_or(0) * 1_000;
        let parts = (first..=last).filter(slow).map(|at| self.slow_part(at).max(self.missing(at)));
        let share = parts.fold(0.0, f64::max);
        let (start, end) = self.by_missing(first, last, height_ns).unwrap_or_else(|| {
            // Told when it was over.
            let late = height_ns as f64 / 1e9;
            let (start, end) = self.edges(first, last, &|at| self.slow_part(at));
            (start - late, end - late)
        });
        let slow_answers: f64 = (first..=last).map(|at| self.slow_answers(at)).sum();
        let due: f64 = (first..=last).map(|at| self.due(at)).sum();
        let answers = slow_answers.max(due);
        Spike { start, seconds: (end - start).max(0.0), height_ns, share, answers }
    }

    /// Beginning and end by the quick answers that did not come: that long before the slow ones came, or since.
    fn by_missing(&self, first: usize, last: usize, height_ns: u64) -> Option<(f64, f64)> {
        let (mut first, mut last) = (first, last);
        let since = self.cells[first].start - height_ns as f64 / 1e9;
        while first > 0 && (self.cells[first].start > since || self.missing(first - 1) >= 0.5) {
            first -= 1;
        }
        while last + 1 < self.cells.len() && self.missing(last + 1) >= 0.5 {
            last += 1;
        }
        let (from, to) = (first.saturating_sub(1), (last + 1).min(self.cells.len() - 1));
        let mut missing = (from..=to).filter(|&at| self.missing(at) > 0.0);
        let begin = missing.next()?;
        let end = missing.next_back().unwrap_or(begin);
        Some(self.edges(begin, end, &|at| self.missing(at)))
    }

    /// Beginning and end of what covers such a part of each interval.
    fn edges(&self, first: usize, last: usize, part: &dyn Fn(usize) -> f64) -> (f64, f64) {
        let (begin, end) = (&self.cells[first], &self.cells[last]);
        if first == last {
            let seconds = part(first) * begin.seconds;
            let start = begin.start + (begin.seconds - seconds) / 2.0;
            return (start, start + seconds);
        }
        let start = begin.start + begin.seconds * (1.0 - part(first));
        (start, end.start + end.seconds * part(last))
    }
}

/// Of the middle one; none of none.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests;
