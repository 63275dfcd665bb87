//! Times on a grid.

/// Fewest times that make a grid.
const LEAST: usize = 4;
/// How far from its place on the grid a time may be, as part of the period.
const OFF: f64 = 0.1;
/// The same where an interval is long against the period.
const FAR_OFF: f64 = 0.25;
/// Part of the times that lie on it, and part of its places that are taken, at least.
const MOSTLY: f64 = 0.75;
/// Candidates for the period, and for the first time on the grid.
const CANDIDATES: usize = 32;
const ANCHORS: usize = 6;
/// Times that are held against a grid in all, about: of many a few candidates are enough, since nearly all
/// steps of a period are its own.
const WORK: usize = 24_000;

/// A grid, and how well times lie on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Its period.
    pub seconds: f64,
    /// The last place of the grid at which there was one.
    pub last: f64,
    /// Which of the times lie on it.
    pub on: Vec<usize>,
    /// Places that it has between the first and the last of these, both counted.
    pub places: usize,
    /// How far they are from it in the mean (root of squares), as part of the period.
    pub jitter: f64,
    /// How likely it is that as many random times lie so well on any grid.
    pub chance: f64,
}

impl Fit {
    /// Whether another one is of the same times, as well as these are known.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let off = OFF * self.seconds;
        let apart = (self.last - other.last).rem_euclid(self.seconds);
        self.places == other.places
            && (self.seconds - other.seconds).abs() * self.places as f64 <= off
            && apart.min(self.seconds - apart) <= off
    }
}

/// The grid of the times, in order, which are known to about `resolution`; none where there is none.
pub(super) fn grid(times: &[f64], resolution: f64) -> Option<Fit> {
    if times.len() < LEAST {
        return None;
    }
    let mut steps: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
    steps.retain(|step| *step >= 2.0 * resolution);
    steps.sort_unstable_by(f64::total_cmp);
    let candidates = (WORK / ANCHORS / times.len()).clamp(4, CANDIDATES);
    let every = steps.len().div_ceil(candidates).max(1);
    let candidates: Vec<_> = steps.iter().step_by(every).copied().collect();
    let fits = candidates.iter().flat_map(|&step| {
        (0..times.len().min(ANCHORS)).filter_map(move |anchor| fit(times, anchor, step, resolution))
    });
    fits.min_by(|one, other| one.chance.total_cmp(&other.chance))
}

/// The grid of about this step from one of the times on.
fn fit(times: &[f64], anchor: usize, step: f64, resolution: f64) -> Option<Fit> {
    let tolerance = |step: f64| (OFF * step).max(0.6 * resolution).min(FAR_OFF * step);
    // From one to the next, as the step is not known well enough to count many of them.
    let mut on = vec![(anchor, 0.0)];
    for (at, &time) in times.iter().enumerate().skip(anchor + 1) {
        let &(last, place) = on.last()?;
        let steps = ((time - times[last]) / step).round();
        if steps >= 1.0 && (time - times[last] - steps * step).abs() <= 2.0 * tolerance(step) {
            on.push((at, place + steps));
        }
    }
    let (first, seconds) = regression(on.iter().map(|&(at, place)| (place, times[at])))?;
    if seconds < 2.0 * resolution {
        return None;
    }
    let off = |&(at, place): &(usize, f64)| times[at] - first - place * seconds;
    on.retain(|one| off(one).abs() <= tolerance(seconds));
    let (first, seconds) = regression(on.iter().map(|&(at, place)| (place, times[at])))?;
    let off = |&(at, place): &(usize, f64)| (times[at] - first - place * seconds) / seconds;
    let (begin, end) = (on.first()?.1, on.last()?.1);
    let places = (end - begin) as usize + 1;
    let is_mostly = |part: usize, of: usize| part as f64 >= MOSTLY * of as f64;
    if on.len() < LEAST || !is_mostly(on.len(), times.len()) || !is_mostly(on.len(), places) {
        return None;
    }
    let furthest = on.iter().map(|one| off(one).abs()).fold(0.0, f64::max);
    let squares: f64 = on.iter().map(|one| off(one).powi(2)).sum();
    Some(Fit {
        seconds,
        last: first + end * seconds,
        places,
        jitter: (squares / on.len() as f64).sqrt(),
        chance: chance(times.len(), on.len(), places, furthest.max(0.002)),
        on: on.into_iter().map(|(at, _)| at).collect(),
    })
}

/// How likely random times look so regular: `on` of `all` within `off` of as many of so many places. Two of
/// them make the grid; as many grids as there are steps were tried.
fn chance(all: usize, on: usize, places: usize, off: f64) -> f64 {
    let choose =
        |n: usize, k: usize| (0..k).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum::<f64>();
    let places = places.max(on);
    let apart: f64 = (0..on).map(|i| ((places - i) as f64 / places as f64).ln()).sum();
    let close = (on - 2) as f64 * (2.0 * off).min(1.0).ln();
    (choose(all, on) + apart + close + (all as f64).ln()).exp()
}

/// The line through points: its value at 0, and its slope; none through a single one.
fn regression(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<(f64, f64)> {
    let n = points.clone().count() as f64;
    let mean = |of: fn((f64, f64)) -> f64| points.clone().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut together, mut alone) = (0.0, 0.0);
    for (at, value) in points {
        together += (at - x) * (value - y);
        alone += (at - x).powi(2);
    }
    let slope = together / alone;
    (alone > 0.0 && slope > 0.0).then_some((y - slope * x, slope))
}
