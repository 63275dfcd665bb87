//! What a load measured round by round, and several rounds together: the one in the middle, and how far they lie apart.

use serde::Deserialize;
use serde_json::{Value, json};

/// A measurement with something, and those without it before and after.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Round {
    pub(crate) before: f64,
    pub(crate) traced: f64,
    pub(crate) after: f64,
}

impl Round {
    /// What tracing added to the untraced ones around it.
    pub(crate) fn added(&self) -> f64 {
        self.traced - self.untraced()
    }

    /// The part of the untraced ones around it that tracing left.
    pub(crate) fn left(&self) -> f64 {
        self.traced / self.untraced()
    }

    fn untraced(&self) -> f64 {
        (self.before + self.after) / 2.0
    }
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The value in the middle, the mean of both for an even number of them.
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (middle, last) = (values.len() / 2, values.len() - 1);
        let median = (values[middle] + values[last - middle]) / 2.0;
        Self { median, least: values[0], most: values[last] }
    }

    /// Three columns of a table, under [`COLUMNS`].
    pub(crate) fn columns(&self, digits: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:>7.digits$} {least:>7.digits$} {most:>7.digits$}")
    }

    /// For programs.
    pub(crate) fn json(&self, digits: i32) -> Value {
        let [median, least, most] =
            [self.median, self.least, self.most].map(|value| rounded(value, digits));
        json!({ "median": median, "least": least, "most": most })
    }
}

/// What stands above a spread's columns.
pub(crate) const COLUMNS: &str = " median   least    most";

/// To so many digits behind the point.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        let cases: [(&[f64], [f64; 3]); 4] = [
            (&[3.0], [3.0, 3.0, 3.0]),
            (&[5.0, 1.0], [3.0, 1.0, 5.0]),
            (&[9.0, 1.0, 2.0], [2.0, 1.0, 9.0]),
            (&[9.0, 1.0, 2.0, 4.0], [3.0, 1.0, 9.0]),
        ];
        for (values, expected) in cases {
            let Spread { median, least, most } = Spread::of(values.iter().copied());
            assert_eq!([median, least, most], expected, "{values:?}");
        }
    }

    #[test]
    fn tracing_is_held_against_both_measurements_around_it() {
        let round = Round { before: 100.0, traced: 55.0, after: 120.0 };
        assert_eq!((round.added(), round.left()), (-55.0, 0.5));
        assert_eq!(Spread::of([0.125]).json(2)["median"], 0.13);
        assert_eq!(Spread::of([0.5]).columns(1).len(), COLUMNS.len());
    }
}
