//! What is added up for a row: histograms and counts, in all or by column of time.

use std::collections::BTreeMap;

use super::{
    counts::{self, Counts, TROUBLES},
    told::{Course as Told, Row, Series},
};
use crate::{
    flow::latency::{encoded::Buckets, spread::Spread},
    signal,
    snapshot::{Distribution, Flow},
};

/// Quarters of a power of two have so many buckets each.
const QUARTER: u16 = 32;

/// Names of metrics, in the order in which they were met: none that netdiag does not have.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// The number of a metric; none of one that is not known.
    pub(super) fn number(&mut self, name: &str) -> Option<usize> {
        if let Some(at) = self.0.iter().position(|known| known == name) {
            return Some(at);
        }
        signal::metrics().find(|(_, _, metric)| metric.name == name)?;
        self.0.push(name.to_owned());
        Some(self.0.len() - 1)
    }
}

/// Counts, and samples that no histogram holds.
#[derive(Debug, Default)]
struct Counted {
    counts: Counts,
    out_of_range: BTreeMap<String, u64>,
}

impl Counted {
    fn add(&mut self, flow: &Flow) {
        counts::add(&mut self.counts, &flow.counts);
        for (metric, told) in flow.metrics.iter().filter(|(_, told)| told.out_of_range > 0) {
            let known = self.out_of_range.entry(metric.clone()).or_default();
            *known = known.saturating_add(told.out_of_range);
        }
    }

    fn distributions(&self, names: &Names, spreads: &[Spread]) -> BTreeMap<String, Distribution> {
        let mut all = BTreeMap::new();
        for (name, spread) in names.0.iter().zip(spreads).filter(|(_, spread)| !spread.is_empty()) {
            all.insert(name.clone(), distribution(spread));
        }
        for (name, n) in &self.out_of_range {
            all.entry(name.clone()).or_default().out_of_range = *n;
        }
        all
    }
}

/// Without a look at time.
#[derive(Debug, Default)]
pub(super) struct Sum {
    spreads: Vec<Spread>,
    counted: Counted,
}

impl Sum {
    pub(super) fn count(&mut self, flow: &Flow) {
        self.counted.add(flow);
    }

    pub(super) fn record(&mut self, metric: usize, buckets: &Buckets) {
        at(&mut self.spreads, metric).add(buckets);
    }

    pub(super) fn metrics(&self, names: &Names) -> BTreeMap<String, Distribution> {
        self.counted.distributions(names, &self.spreads)
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counted.counts
    }

    pub(super) fn row(&self, names: &Names) -> Row {
        Row { metrics: self.metrics(names), counts: self.counted.counts.clone(), ..Row::default() }
    }
}

/// By column of time.
#[derive(Debug)]
pub(super) struct Course {
    columns: usize,
    /// By metric, then column.
    spreads: Vec<Vec<Spread>>,
    /// By [`TROUBLES`], then column.
    troubles: Vec<Vec<Option<u64>>>,
    counted: Counted,
}

impl Course {
    pub(super) fn new(columns: usize) -> Self {
        let troubles = TROUBLES.iter().map(|_| vec![None; columns]).collect();
        Self { columns, spreads: Vec::new(), troubles, counted: Counted::default() }
    }

    pub(super) fn count(&mut self, column: usize, flow: &Flow) {
        self.counted.add(flow);
        for (name, columns) in TROUBLES.iter().zip(&mut self.troubles) {
            if let Some(n) = counts::total(&flow.counts, name) {
                columns[column] = Some(columns[column].unwrap_or(0).saturating_add(n));
            }
        }
    }

    pub(super) fn record(&mut self, column: usize, metric: usize, buckets: &Buckets) {
        let columns = at(&mut self.spreads, metric);
        columns.resize(self.columns, Spread::default());
        columns[column].add(buckets);
    }

    /// A metric in all, over these columns.
    pub(super) fn spread(&self, metric: usize, columns: std::ops::Range<usize>) -> Spread {
        let mut all = Spread::default();
        let of_metric = self.spreads.get(metric).and_then(|spreads| spreads.get(columns));
        of_metric.into_iter().flatten().for_each(|spread| all.merge(spread));
        all
    }

    /// By [`TROUBLES`], over these columns.
    pub(super) fn troubles(&self, columns: std::ops::Range<usize>) -> Vec<Option<u64>> {
        let sum = |all: &Vec<Option<u64>>| {
            all[columns.clone()].iter().copied().flatten().reduce(u64::saturating_add)
        };
        self.troubles.iter().map(sum).collect()
    }

    /// The metric in which most time was spent.
    pub(super) fn largest(&self, names: &Names) -> Option<String> {
        let spent = |metric: usize| self.spread(metric, 0..self.columns).sum_ns();
        let metrics = (0..self.spreads.len()).filter(|metric| !self.spreads[*metric].is_empty());
        let largest = metrics.max_by_key(|metric| (spent(*metric), std::cmp::Reverse(*metric)))?;
        names.0.get(largest).cloned()
    }

    /// All of it; with what only a page shows where that is wanted.
    pub(super) fn row(&self, names: &Names, page: bool) -> Row {
        let (mut metrics, mut spreads) = (BTreeMap::new(), Vec::new());
        for (metric, name) in names.0.iter().enumerate() {
            let all = self.spread(metric, 0..self.columns);
            if !all.is_empty() {
                metrics.insert(name.clone(), series(&self.spreads[metric], &all, page));
            }
            spreads.push(all);
        }
        let counts: BTreeMap<_, _> = TROUBLES
            .iter()
            .map(|name| (*name).to_owned())
            .zip(self.troubles.iter().cloned())
            .collect();
        Row {
            metrics: self.counted.distributions(names, &spreads),
            counts: self.counted.counts.clone(),
            over_time: Some(Told { metrics, counts }),
            ..Row::default()
        }
    }
}

fn at<T: Default>(list: &mut Vec<T>, at: usize) -> &mut T {
    if list.len() <= at {
        list.resize_with(at + 1, T::default);
    }
    &mut list[at]
}

/// Count, extremes and percentiles.
pub(super) fn distribution(spread: &Spread) -> Distribution {
    let [p50_ns, p90_ns, p99_ns, p999_ns] = spread.quantiles([0.5, 0.9, 0.99, 0.999]);
    Distribution {
        count: spread.count(),
        min_ns: spread.min(),
        p50_ns,
        p90_ns,
        p99_ns,
        p999_ns,
        max_ns: spread.max(),
        out_of_range: 0,
    }
}

fn series(columns: &[Spread], all: &Spread, page: bool) -> Series {
    let mut series = Series::default();
    for spread in columns {
        let told = distribution(spread);
        series.count.push(told.count);
        series.p50_ns.push(told.p50_ns);
        series.p90_ns.push(told.p90_ns);
        series.p99_ns.push(told.p99_ns);
        series.p999_ns.push(told.p999_ns);
        series.max_ns.push(told.max_ns);
    }
    if page {
        series.heat = columns.iter().map(heat).collect();
        series.curve = curve(all);
    }
    series
}

/// Samples by quarter of a power of two, in pairs of its number and the samples.
fn heat(spread: &Spread) -> Vec<u64> {
    let mut cells: Vec<u64> = Vec::new();
    for (bucket, n) in spread.recorded() {
        let quarter = u64::from(bucket / QUARTER);
        match cells[..] {
            [.., last, ref mut sum] if last == quarter => *sum = sum.saturating_add(n),
            _ => cells.extend([quarter, n]),
        }
    }
    cells
}

/// The percentile curve: five points for each halving of what is left to 1, as HdrHistogram's own tools have it, as
/// far as there are samples.
fn curve(spread: &Spread) -> Vec<(f64, u64)> {
    let count = spread.count() as f64;
    let mut points = Vec::new();
    let mut left = 1.0_f64;
    while left * count > 1.0 {
        for fifth in 0..5 {
            let quantile = 1.0 - left * (1.0 - f64::from(fifth) / 10.0);
            if let [Some(value)] = spread.quantiles([quantile.max(f64::MIN_POSITIVE)]) {
                points.push((quantile, value));
            }
        }
        left /= 2.0;
    }
    points.extend(spread.max().map(|max| (1.0, max)));
    points
}
