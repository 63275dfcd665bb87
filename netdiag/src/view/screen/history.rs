//! How rows went of late: a bounded number of intervals of a bounded number of rows.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    flow::Frozen,
    signal::{Cost, CountId, DEFINITIONS, MetricId, counts, metrics},
};

/// Intervals that are kept.
pub(super) const INTERVALS: usize = 60;
/// Rows of an interval that are followed from then on: more than any screen has lines.
const FOLLOWED: usize = 256;
/// Rows that are followed at most.
const ROWS: usize = 1_024;

/// Which row of the screen it is, the same in every interval.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum RowId {
    /// A flow, by its number.
    Flow(u64),
    /// A group, by its id.
    Group(String),
}

impl RowId {
    pub(super) fn of(row: &Frozen) -> Self {
        row.group.as_ref().map_or(Self::Flow(row.id), |group| Self::Group(group.id()))
    }
}

/// Counts that have something in common.
#[derive(Clone, Debug)]
pub(super) struct CountGroup {
    /// As in outputs: `retransmits`.
    pub(super) name: &'static str,
    ids: Vec<CountId>,
}

impl CountGroup {
    /// All that have a column in tables, and how many these are; then what else is counted where something is lost.
    fn followed() -> (Vec<Self>, usize) {
        let mut groups: Vec<Self> = Vec::new();
        fn add(groups: &mut Vec<CountGroup>, name: &'static str, id: CountId) {
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.ids.push(id),
                None => groups.push(CountGroup { name, ids: vec![id] }),
            }
        }
        for (id, _, count) in counts().filter(|(_, _, count)| count.column) {
            if let Some(name) = count.group() {
                add(&mut groups, name, id);
            }
        }
        let in_columns = groups.len();
        let is_loss =
            |signal| DEFINITIONS.iter().any(|it| it.signal == signal && it.cost == Cost::Loss);
        let is_of_bytes = |name: &str| name.split('_').any(|word| word == "bytes");
        for (id, signal, count) in counts() {
            let name = count.group().unwrap_or(count.name);
            let is_told = groups[..in_columns].iter().any(|group| group.name == name);
            if is_loss(signal) && count.adds_up && !is_told && !is_of_bytes(name) {
                add(&mut groups, name, id);
            }
        }
        (groups, in_columns)
    }

    /// The one of that name, whether or not it has a column.
    pub(super) fn named(name: &'static str) -> Self {
        let of_it = counts().filter(|(_, _, count)| count.group() == Some(name));
        Self { name, ids: of_it.map(|(id, ..)| id).collect() }
    }

    /// Its sum; what a flow has none of it counted 0 of.
    pub(super) fn of(&self, row: &Frozen) -> u64 {
        self.ids.iter().filter_map(|&id| row.count(id)).fold(0, u64::saturating_add)
    }
}

/// What a row did in one interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Point {
    /// The 99th percentiles in nanoseconds, in the order of [`metrics`].
    p99_ns: Vec<Option<u64>>,
    /// Sums in the order of [`History::groups`]; empty where nothing was heard of it.
    sums: Vec<u64>,
}

/// One row.
#[derive(Clone, Debug)]
struct Course {
    points: VecDeque<Point>,
    /// The interval that it was last in.
    last: u64,
    /// Where it stood then.
    rank: usize,
}

impl Course {
    fn push(&mut self, point: Point) {
        if self.points.len() == INTERVALS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }
}

/// All that is followed.
#[derive(Clone, Debug)]
pub(super) struct History {
    metrics: Vec<MetricId>,
    groups: Vec<CountGroup>,
    /// How many of them have a column.
    in_columns: usize,
    rows: HashMap<RowId, Course>,
    intervals: u64,
}

impl History {
    pub(super) fn new() -> Self {
        let metrics = metrics().map(|(id, ..)| id).collect();
        let (groups, in_columns) = CountGroup::followed();
        Self { metrics, groups, in_columns, rows: HashMap::new(), intervals: 0 }
    }

    /// The groups that it keeps the sums of.
    pub(super) fn groups(&self) -> &[CountGroup] {
        &self.groups
    }

    /// Those of them that have a column, which are the first.
    pub(super) fn columns(&self) -> &[CountGroup] {
        &self.groups[..self.in_columns]
    }

    /// An interval has passed, with these rows in the order in which they are shown; `open` is followed wherever
    /// it stands.
    pub(super) fn take<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Frozen>,
        open: Option<&RowId>,
    ) {
        self.intervals += 1;
        for (rank, row) in rows.enumerate() {
            let id = RowId::of(row);
            let is_followed = rank < FOLLOWED || open == Some(&id) || self.rows.contains_key(&id);
            if !is_followed {
                continue;
            }
            let point = self.point(row);
            let course = self.rows.entry(id).or_insert_with(|| Course {
                points: VecDeque::new(),
                last: 0,
                rank,
            });
            (course.last, course.rank) = (self.intervals, rank);
            course.push(point);
        }
        let now = self.intervals;
        for course in self.rows.values_mut().filter(|course| course.last != now) {
            course.push(Point::default());
        }
        self.rows.retain(|_, course| now - course.last < INTERVALS as u64);
        if self.rows.len() > ROWS {
            let key = |course: &Course| (std::cmp::Reverse(course.last), course.rank);
            let mut keys: Vec<_> = self.rows.values().map(key).collect();
            keys.sort_unstable();
            let last = keys[ROWS - 1];
            self.rows.retain(|id, course| key(course) <= last || open == Some(id));
        }
    }

    fn point(&self, row: &Frozen) -> Point {
        let p99 = |&id: &MetricId| row.latency(id).and_then(|latency| latency.quantile(0.99));
        Point {
            p99_ns: self.metrics.iter().map(p99).collect(),
            sums: self.groups.iter().map(|group| group.of(row)).collect(),
        }
    }

    /// Forgets all: rows are others from now on.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    fn points(&self, id: &RowId) -> impl DoubleEndedIterator<Item = &Point> {
        self.rows.get(id).into_iter().flat_map(|course| &course.points)
    }

    /// 99th percentiles of a metric by its place in [`metrics`], the oldest first.
    pub(super) fn p99_ns(
        &self,
        id: &RowId,
        metric: usize,
    ) -> impl DoubleEndedIterator<Item = Option<u64>> {
        self.points(id).map(move |point| point.p99_ns.get(metric).copied().flatten())
    }

    /// Sums of a group by its place in [`Self::groups`].
    pub(super) fn sums(
        &self,
        id: &RowId,
        group: usize,
    ) -> impl DoubleEndedIterator<Item = Option<u64>> {
        self.points(id).map(move |point| point.sums.get(group).copied())
    }
}

/// Numbers by name, interval by interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Trends {
    by_name: HashMap<String, (VecDeque<u64>, u64)>,
}

/// Names that are followed at most: reasons of drops are some hundred.
const NAMES: usize = 512;

impl Trends {
    /// An interval has passed. A name that is not among these has 0.
    pub(super) fn take(&mut self, values: &BTreeMap<String, u64>) {
        for name in values.keys() {
            if self.by_name.len() < NAMES && !self.by_name.contains_key(name) {
                self.by_name.insert(name.clone(), (VecDeque::new(), 0));
            }
        }
        for (name, (course, sum)) in &mut self.by_name {
            let value = values.get(name).copied().unwrap_or(0);
            *sum = sum.saturating_add(value);
            if course.len() == INTERVALS {
                course.pop_front();
            }
            course.push_back(value);
        }
    }

    /// Names with their last value, their sum and their course; the largest sum first.
    pub(super) fn rows(&self) -> Vec<(&str, u64, u64, &VecDeque<u64>)> {
        let mut rows: Vec<_> = self
            .by_name
            .iter()
            .map(|(name, (course, sum))| {
                (name.as_str(), course.back().copied().unwrap_or(0), *sum, course)
            })
            .collect();
        rows.sort_by(|one, other| other.2.cmp(&one.2).then_with(|| one.0.cmp(other.0)));
        rows
    }
}
