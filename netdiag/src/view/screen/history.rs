//! How rows went of late: a bounded number of intervals of a bounded number of rows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
};

use crate::{
    flow::Frozen,
    signal::{Cost, CountId, DEFINITIONS, MetricId, counts, metrics},
};

/// Intervals that are kept.
pub(super) const INTERVALS: usize = 60;
/// Rows of an interval that are followed from then on: more than any screen has lines.
const FOLLOWED: usize = 256;
/// Rows that are followed at most.
const ROWS: usize = 512;

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

/// Where a row stood when it was heard of last.
#[derive(Clone, Copy, Debug)]
struct Place {
    interval: u64,
    rank: usize,
}

/// In cells: there is no such percentile.
const NONE: u64 = u64::MAX;

/// What the rows did in one interval that were followed then: of all of them in one piece, since an interval has
/// hundreds.
#[derive(Clone, Debug, Default)]
struct Past {
    /// Where in `cells` a row begins.
    starts: HashMap<RowId, usize>,
    /// Of each row first the 99th percentiles in nanoseconds, in the order of [`metrics`], then sums in that of
    /// [`History::groups`].
    cells: Vec<u64>,
}

/// All that is followed.
#[derive(Clone, Debug)]
pub(super) struct History {
    metrics: Vec<MetricId>,
    groups: Vec<CountGroup>,
    /// How many of them have a column.
    in_columns: usize,
    followed: HashMap<RowId, Place>,
    /// The oldest first.
    pasts: VecDeque<Past>,
    intervals: u64,
}

impl History {
    pub(super) fn new() -> Self {
        let metrics = metrics().map(|(id, ..)| id).collect();
        let (groups, in_columns) = CountGroup::followed();
        let (followed, pasts) = (HashMap::new(), VecDeque::new());
        Self { metrics, groups, in_columns, followed, pasts, intervals: 0 }
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
        // Its room is that of the next one.
        let oldest = if self.pasts.len() == INTERVALS { self.pasts.pop_front() } else { None };
        let Past { mut starts, mut cells } = oldest.unwrap_or_default();
        starts.clear();
        cells.clear();
        for (rank, row) in rows.enumerate() {
            let id = RowId::of(row);
            let place = Place { interval: self.intervals, rank };
            if let Some(before) = self.followed.get_mut(&id) {
                *before = place;
            } else if rank < FOLLOWED || open == Some(&id) {
                self.followed.insert(id.clone(), place);
            } else {
                continue;
            }
            starts.insert(id, cells.len());
            let p99 = |&id: &MetricId| row.latency(id).and_then(|latency| latency.quantile(0.99));
            cells.extend(self.metrics.iter().map(p99).map(|p99| p99.unwrap_or(NONE)));
            cells.extend(self.groups.iter().map(|group| group.of(row)));
        }
        self.pasts.push_back(Past { starts, cells });
        self.forget(open);
    }

    /// What was not heard of for long, and where there are too many, the lowest of those heard of longest ago.
    fn forget(&mut self, open: Option<&RowId>) {
        let now = self.intervals;
        self.followed.retain(|_, place| now - place.interval < INTERVALS as u64);
        if self.followed.len() > ROWS {
            let key = |place: &Place| (Reverse(place.interval), place.rank);
            let mut keys: Vec<_> = self.followed.values().map(key).collect();
            let (_, &mut last, _) = keys.select_nth_unstable(ROWS - 1);
            self.followed.retain(|id, place| key(place) <= last || open == Some(id));
        }
    }

    /// Forgets all: rows are others from now on.
    pub(super) fn clear(&mut self) {
        self.followed.clear();
        self.pasts.clear();
    }

    /// One cell of a row in each interval; none in those that it was not followed in, or nothing was heard of it.
    fn cells(
        &self,
        id: &RowId,
        cell: usize,
    ) -> impl DoubleEndedIterator<Item = Option<u64>> + use<'_> {
        let id = id.clone();
        self.pasts.iter().map(move |past| past.cells.get(past.starts.get(&id)? + cell).copied())
    }

    /// 99th percentiles of a metric by its place in [`metrics`], the oldest first.
    pub(super) fn p99_ns(
        &self,
        id: &RowId,
        metric: usize,
    ) -> impl DoubleEndedIterator<Item = Option<u64>> + use<'_> {
        self.cells(id, metric).map(|cell| cell.filter(|&p99| p99 != NONE))
    }

    /// Sums of a group by its place in [`Self::groups`], likewise.
    pub(super) fn sums(
        &self,
        id: &RowId,
        group: usize,
    ) -> impl DoubleEndedIterator<Item = Option<u64>> + use<'_> {
        self.cells(id, self.metrics.len() + group)
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

#[cfg(test)]
mod tests;
