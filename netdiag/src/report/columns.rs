//! Columns of time: as wide as needed for there to be few, and never narrower than an interval.

use jiff::Timestamp;

use super::COLUMNS;

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
const MIN: i64 = 60 * S;
const H: i64 = 60 * MIN;
/// Widths that people reckon in, in nanoseconds. What is longer is a number of days.
const STEPS: [i64; 23] = [
    100 * MS,
    200 * MS,
    500 * MS,
    S,
    2 * S,
    5 * S,
    10 * S,
    15 * S,
    20 * S,
    30 * S,
    MIN,
    2 * MIN,
    5 * MIN,
    10 * MIN,
    15 * MIN,
    20 * MIN,
    30 * MIN,
    H,
    2 * H,
    3 * H,
    6 * H,
    12 * H,
    24 * H,
];

/// Columns of equal width side by side. An interval counts where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Where the first one begins, in nanoseconds since the epoch; a multiple of `step_ns`.
    pub start_ns: i64,
    /// Width, in nanoseconds.
    pub step_ns: i64,
    /// How many.
    pub count: usize,
}

impl Columns {
    /// For intervals that begin between these times, the longest of which takes that long.
    #[must_use]
    pub fn covering(first: i64, last: i64, longest: i64) -> Self {
        let of = |step_ns: i64| {
            let start = first.div_euclid(step_ns);
            let count = last.max(first).div_euclid(step_ns).saturating_sub(start);
            let count = usize::try_from(count.saturating_add(1)).unwrap_or(usize::MAX);
            Self { start_ns: start.saturating_mul(step_ns), step_ns, count }
        };
        let days =
            (1..).map(|doubled: u32| STEPS[STEPS.len() - 1].saturating_mul(1 << doubled.min(40)));
        // An interval takes a little longer than what was asked for.
        let fits = |columns: &Self| {
            columns.count <= COLUMNS
                && columns.step_ns.saturating_add(columns.step_ns / 5) >= longest
        };
        let mut all = STEPS.into_iter().chain(days).map(of);
        all.find(fits).unwrap_or_else(|| of(i64::MAX))
    }

    /// The column of a time.
    #[must_use]
    pub fn of(&self, time_ns: i64) -> Option<usize> {
        let at = time_ns.checked_sub(self.start_ns)?.div_euclid(self.step_ns);
        usize::try_from(at).ok().filter(|at| *at < self.count)
    }

    /// When a column begins, RFC 3339 in UTC.
    #[must_use]
    pub fn start(&self, at: usize) -> String {
        rfc3339(self.start_ns.saturating_add(self.step_ns.saturating_mul(at as i64)))
    }
}

/// Nanoseconds since the epoch of an RFC 3339 time.
#[must_use]
pub fn nanoseconds(time: &str) -> Option<i64> {
    let time: Timestamp = time.parse().ok()?;
    time.as_nanosecond().try_into().ok()
}

/// The other way round, in UTC.
#[must_use]
pub fn rfc3339(time_ns: i64) -> String {
    Timestamp::from_nanosecond(time_ns.into()).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_few_and_no_narrower_than_an_interval() {
        for (first, last, longest, step, count) in [
            (0, 0, S, S, 1),
            (5 * S, 14 * S, S, S, 10),
            (5 * S, 14 * S, S + 20 * MS, S, 10),
            (5 * S, 14 * S, 10 * S, 10 * S, 2),
            (0, H - S, S, 15 * S, 240),
            (0, H, S, 20 * S, 181),
            (1, 24 * H, 10 * S, 10 * MIN, 145),
            (0, 365 * 24 * H, 10 * S, 48 * H, 183),
            (-3 * S, -S, S, S, 3),
        ] {
            let columns = Columns::covering(first, last, longest);
            assert_eq!((columns.step_ns, columns.count), (step, count), "{first} to {last}");
            assert_eq!(columns.of(first), Some(0));
            assert_eq!(columns.of(last), Some(count - 1));
            assert_eq!(columns.of(last + step), None);
            assert_eq!(columns.of(first - step), None);
        }
    }

    #[test]
    fn nonsense_has_columns() {
        for (first, last, longest) in
            [(i64::MIN, i64::MAX, 1), (10, 0, i64::MAX), (i64::MAX, i64::MIN, -1)]
        {
            let columns = Columns::covering(first, last, longest);
            assert!((1..=COLUMNS).contains(&columns.count), "{columns:?}");
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        let time = "2026-11-21T04:18:00.25Z";
        assert_eq!(nanoseconds(time).map(rfc3339).as_deref(), Some(time));
        assert_eq!(nanoseconds("now"), None);
    }
}
