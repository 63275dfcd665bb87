//! Latencies interval by interval over a whole run: for what comes again and again. Bounded in lines and
//! in time.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::{Backend, sums::approximate};
use crate::{
    flow::latency::Latency,
    snapshot::{Distribution, Flow, Role, Snapshot},
};

/// Intervals that are remembered; of a longer run the last.
const MOST_INTERVALS: usize = 2_048;
/// Lines that are remembered: those with the most samples.
const MOST_LINES: usize = 192;

/// What of a conversation is followed, the most telling first; of a server the last ones.
pub const METRICS: [&str; 5] = ["response", "connect", "rtt", PROCESSING, SERVICE];
/// What a server takes for what it has read.
const PROCESSING: &str = "processing";
/// The same with what requests take to arrive, which is not the server's: of flows of an older netdiag, that told
/// nothing else.
const SERVICE: &str = "service";

/// Whose latency it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// A server that this node asks.
    Backend(Backend),
    /// A service of this node, by namespace and port.
    Service(Option<u32>, u16),
    /// All flows.
    Node,
}

/// Parts of the samples that [`Point::at`] tells of.
pub const QUANTILES: [f64; 7] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// The samples of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    interval: u64,
    /// How many.
    pub count: u32,
    /// Microseconds that [`QUANTILES`] of them took at most.
    pub at: [u32; QUANTILES.len()],
}

/// One latency.
#[derive(Clone, Debug, Default)]
pub struct Line {
    points: VecDeque<Point>,
    samples: u64,
}

/// An interval: when it began, in seconds since the first, how long it took, and what a line has in it.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Seconds since the first interval of the run began.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
    /// None without a sample.
    pub point: Option<Point>,
}

/// Latencies of a run.
#[derive(Clone, Debug, Default)]
pub struct Series {
    origin: Option<Timestamp>,
    /// Number of the first interval in `intervals`.
    first: u64,
    intervals: VecDeque<(f64, f64)>,
    lines: BTreeMap<(Of, usize), Line>,
}

impl Series {
    /// Adds an interval that took so many seconds. One without a time is left out.
    pub fn take(&mut self, snapshot: &Snapshot, seconds: f64) {
        let Ok(start) = snapshot.start.parse::<Timestamp>() else { return };
        let origin = *self.origin.get_or_insert(start);
        let number = self.first + self.intervals.len() as u64;
        self.intervals.push_back((start.duration_since(origin).as_secs_f64(), seconds));
        for (key, latency) in lines(snapshot) {
            self.add(key, &latency, number);
        }
        while self.intervals.len() > MOST_INTERVALS {
            self.intervals.pop_front();
            self.first += 1;
            let first = self.first;
            for line in self.lines.values_mut() {
                line.points.pop_front_if(|point| point.interval < first);
            }
        }
    }

    fn add(&mut self, key: (Of, usize), latency: &Latency, interval: u64) {
        if !self.lines.contains_key(&key) && self.lines.len() >= MOST_LINES {
            let least = self.lines.iter().min_by_key(|(_, line)| line.samples);
            let Some((&least, line)) = least else { return };
            if line.samples >= latency.count() {
                return;
            }
            self.lines.remove(&least);
        }
        let at = QUANTILES.map(|quantile| {
            let ns = latency.quantile(quantile).unwrap_or(0);
            u32::try_from(ns / 1_000).unwrap_or(u32::MAX)
        });
        let count = u32::try_from(latency.count()).unwrap_or(u32::MAX);
        let line = self.lines.entry(key).or_default();
        line.samples += latency.count();
        line.points.push_back(Point { interval, count, at });
    }

    /// All of them, the most telling of each first: whose, which of [`METRICS`], and how many samples.
    pub fn lines(&self) -> impl Iterator<Item = (Of, &'static str, &Line)> {
        self.lines.iter().map(|(&(of, metric), line)| (of, METRICS[metric], line))
    }

    /// The intervals with what a line has in them.
    #[must_use]
    pub fn cells(&self, line: &Line) -> Vec<Cell> {
        let cell = |&(start, seconds): &(f64, f64)| Cell { start, seconds, point: None };
        let mut cells: Vec<_> = self.intervals.iter().map(cell).collect();
        for point in &line.points {
            let at = point.interval.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
            if let Some(cell) = at.and_then(|at| cells.get_mut(at)) {
                cell.point = Some(*point);
            }
        }
        cells
    }

    /// Seconds from the first interval that is remembered to the end of the last.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let (Some(first), Some(last)) = (self.intervals.front(), self.intervals.back()) else {
            return 0.0;
        };
        last.0 + last.1 - first.0
    }

    /// Seconds of an interval, in the mean; 0 before there was one.
    #[must_use]
    pub fn every(&self) -> f64 {
        self.seconds() / self.intervals.len().max(1) as f64
    }

    /// When the last interval ended, in seconds since the first of the run began.
    #[must_use]
    pub fn end(&self) -> f64 {
        self.intervals.back().map_or(0.0, |last| last.0 + last.1)
    }

    /// So many seconds after the first interval began, RFC 3339; none before there was one.
    #[must_use]
    pub fn time(&self, seconds: f64) -> Option<String> {
        let after = SignedDuration::try_from_secs_f64(seconds).ok()?;
        let time = self.origin?.checked_add(after).ok()?;
        Some(format!("{time:.1}"))
    }
}

/// What the flows of an interval say of each line.
fn lines(snapshot: &Snapshot) -> BTreeMap<(Of, usize), Latency> {
    let mut lines: BTreeMap<(Of, usize), Latency> = BTreeMap::new();
    for flow in snapshot.flows.iter().chain([&snapshot.other]) {
        for (number, metric) in METRICS.iter().enumerate() {
            let Some(distribution) = told(flow, metric) else { continue };
            let latency = approximate(distribution);
            if latency.count() == 0 {
                continue;
            }
            for of in [of(flow, metric), Some(Of::Node)].into_iter().flatten() {
                lines.entry((of, number)).or_default().merge(&latency);
            }
        }
    }
    lines
}

/// What a flow tells of a metric that is followed of it.
fn told<'a>(flow: &'a Flow, metric: &str) -> Option<&'a Distribution> {
    // Of each answer both are told, or the one.
    let processing = flow.metrics.get(PROCESSING).filter(|_| metric == SERVICE);
    if processing.is_some_and(|told| told.count + told.out_of_range > 0) {
        return None;
    }
    flow.metrics.get(metric)
}

fn of(flow: &Flow, metric: &str) -> Option<Of> {
    if flow.protocol.as_deref() != Some("tcp") {
        return None;
    }
    match flow.role? {
        Role::Client => Some(Of::Backend((flow.netns, flow.peer.ip?, flow.peer.port?))),
        Role::Server if [PROCESSING, SERVICE].contains(&metric) => {
            Some(Of::Service(flow.netns, flow.local.port?))
        }
        Role::Server => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::{Watched, kit};

    #[test]
    fn a_run_is_followed_across_windows() {
        let flow = || kit::flow("f1").latency("response", 10, 5_000_000).latency("send", 10, 5);
        let mut watched = Watched::default();
        watched.take(&kit::snapshot(0, vec![flow()]));
        let mut watched = watched.next();
        watched.take(&kit::snapshot(3, vec![flow(), flow().to("10.0.0.3", 443)]));
        let told: Vec<_> = watched
            .series
            .lines()
            .map(|(of, metric, line)| {
                let cells = watched.series.cells(line);
                let counts: Vec<_> =
                    cells.iter().map(|cell| cell.point.map(|point| point.count)).collect();
                (matches!(of, Of::Backend(_)), metric, counts)
            })
            .collect();
        assert_eq!(
            told,
            [
                (true, "response", vec![Some(10), Some(10)]),
                (true, "response", vec![None, Some(10)]),
                (false, "response", vec![Some(10), Some(20)]),
            ]
        );
        assert!((watched.series.seconds() - 4.0).abs() < 1e-9);
        assert_eq!(watched.series.time(2.5).as_deref(), Some("2026-11-28T14:00:02.5Z"));
    }

    #[test]
    fn a_server_is_followed_by_its_own_time_where_that_is_told() {
        let followed = |metrics: &[&str]| {
            let served = metrics.iter().fold(kit::flow("f1").serving(80), |flow, metric| {
                flow.latency(metric, 10, 5_000_000)
            });
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![served]));
            let lines = watched.series.lines();
            lines.map(|(of, metric, _)| (of, metric)).collect::<Vec<_>>()
        };
        let both = |metric| [(Of::Service(Some(kit::NETNS), 80), metric), (Of::Node, metric)];
        assert_eq!(followed(&["processing", "service"]), both("processing"));
        assert_eq!(followed(&["service"]), both("service"));
        assert_eq!(followed(&["read_wait"]), []);
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_has_the_most_samples() {
        let mut watched = Watched::default();
        for second in 0..MOST_INTERVALS as u64 + 5 {
            let rare = kit::flow("f2").to("10.0.1.1", second as u16 + 1).latency("rtt", 1, 1_000);
            let busy = kit::flow("f1").latency("response", 100, 1_000_000);
            watched = watched.next();
            watched.take(&kit::snapshot(second, vec![busy, rare]));
        }
        let series = &watched.series;
        assert_eq!((series.lines.len(), series.intervals.len()), (MOST_LINES, MOST_INTERVALS));
        let busy = series.lines().map(|(_, _, line)| line.samples).max();
        assert_eq!(busy, Some(100 * (MOST_INTERVALS as u64 + 5)));
        assert!(series.lines().all(|(_, _, line)| line.points.len() <= MOST_INTERVALS));
    }
}
