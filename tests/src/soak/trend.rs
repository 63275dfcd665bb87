//! Whether something grows: what it was at the quarters of a time, and the line that fits it best. Pure.

/// Seconds since a beginning, and a value then.
pub type Reading = (f64, f64);

/// Readings are taken together to so many, each the median of its time: a peak of a moment is no growth, and one reading
/// says much of the next.
const BLOCKS: usize = 32;

/// The part of a time that is left out at its beginning: what is needed once is had by then.
pub const WARM_UP: f64 = 0.25;

/// A slope by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// By how much it grows in an hour.
    pub per_hour: f64,
    /// How far that may be off: twice its standard error.
    pub error: f64,
    /// Hours from the first to the last reading that it was made of.
    pub hours: f64,
}

impl Growth {
    /// The least by which it has grown in that time, as far as can be told.
    #[must_use]
    pub fn least(&self) -> f64 {
        (self.per_hour - self.error) * self.hours
    }
}

/// The growth behind the warm-up; none of fewer than three blocks.
#[must_use]
pub fn growth(readings: &[Reading]) -> Option<Growth> {
    let (first, last) = (readings.first()?.0, readings.last()?.0);
    let from = first + (last - first) * WARM_UP;
    let warm: Vec<Reading> = readings.iter().copied().filter(|(at, _)| *at >= from).collect();
    let blocks = blocks(&warm);
    let number = blocks.len() as f64;
    if blocks.len() < 3 {
        return None;
    }
    let mean = |of: fn(&Reading) -> f64| blocks.iter().map(of).sum::<f64>() / number;
    let (mean_x, mean_y) = (mean(|(x, _)| *x), mean(|(_, y)| *y));
    let spread: f64 = blocks.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if spread <= 0.0 {
        return None;
    }
    let slope = blocks.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    let rest: f64 = blocks.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let error = (rest / (number - 2.0) / spread).sqrt();
    let hour = 3_600.0;
    Some(Growth { per_hour: slope * hour, error: 2.0 * error * hour, hours: (last - from) / hour })
}

/// Values at the beginning, the three quarters and the end, each the median of the block there; none without a reading.
#[must_use]
pub fn quarters(readings: &[Reading]) -> Option<[f64; 5]> {
    let blocks = blocks(readings);
    let last = blocks.len().checked_sub(1)?;
    Some([0, 1, 2, 3, 4].map(|quarter| blocks[last * quarter / 4].1))
}

/// Medians of equal parts of the readings.
fn blocks(readings: &[Reading]) -> Vec<Reading> {
    let size = readings.len().div_ceil(BLOCKS).max(1);
    let median = |part: &[Reading]| {
        let of = |value: fn(&Reading) -> f64| {
            let mut all: Vec<f64> = part.iter().map(value).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        (of(|(at, _)| *at), of(|(_, value)| *value))
    };
    readings.chunks(size).map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Readings of an hour, one in five seconds.
    fn hour(value: impl Fn(f64) -> f64) -> Vec<Reading> {
        (0..720).map(|at| (f64::from(at) * 5.0, value(f64::from(at) / 720.0))).collect()
    }

    #[test]
    fn a_line_is_found_whatever_stands_out_of_it() {
        let mut readings = hour(|at| 100.0 + 8.0 * at);
        readings[300].1 = 1e6;
        let growth = growth(&readings).unwrap();
        assert!((growth.per_hour - 8.0).abs() < 0.1, "{growth:?}");
        assert!(growth.error < 0.1 && (growth.hours - 0.75).abs() < 0.01, "{growth:?}");
        assert!((growth.least() - 6.0).abs() < 0.2, "{growth:?}");
        let found = quarters(&readings).unwrap();
        for (found, expected) in found.iter().zip([100.1, 101.9, 103.9, 105.9, 107.9]) {
            assert!((found - expected).abs() < 0.3, "{found} {expected}");
        }
    }

    #[test]
    fn what_goes_up_and_down_does_not_grow() {
        let mut random = Random::of(7);
        let mut readings = hour(|_| 100.0);
        for (_, value) in &mut readings {
            *value += random.below(50) as f64;
        }
        let growth = growth(&readings).unwrap();
        assert!(growth.per_hour.abs() < 2.0 * growth.error, "{growth:?}");
    }

    #[test]
    fn what_is_needed_once_is_no_growth() {
        let readings = hour(|at| 100.0 + 400.0 * at.min(0.2));
        let growth = growth(&readings).unwrap();
        assert!(growth.per_hour.abs() < 1e-6, "{growth:?}");
    }

    #[test]
    fn of_hardly_anything_nothing_is_said() {
        assert_eq!(growth(&[]), None);
        assert_eq!(growth(&[(0.0, 1.0), (1.0, 1.0)]), None);
        assert_eq!(growth(&[(1.0, 1.0); 40]), None, "no time passed");
        assert_eq!(quarters(&[]), None);
        assert_eq!(quarters(&[(0.0, 3.0)]), Some([3.0; 5]));
    }
}
