//! The second look at recordings: the histograms of an interval go into the rows that were chosen, bucket by
//! bucket.

use std::collections::{BTreeMap, HashMap};

use super::{
    Columns, Origin,
    columns::nanoseconds,
    conversation::End,
    course::{Course, Names, Sum},
    ends::Key,
    lines,
    survey::Chosen,
};
use crate::{
    flow::latency::encoded::Decoder,
    snapshot::{Flow, Snapshot},
};

/// The rows of one kind.
#[derive(Debug)]
pub(super) struct Kind {
    index: HashMap<String, usize>,
    pub(super) rows: Vec<Course>,
    pub(super) other: Sum,
}

/// What is added up.
#[derive(Debug)]
pub struct Fold {
    pub(super) chosen: Chosen,
    pub(super) names: Names,
    pub(super) all: Course,
    pub(super) kinds: Vec<Kind>,
    pub(super) recorded_ms: Vec<u64>,
    ends: HashMap<Key, usize>,
    /// Two for each pair, in its order.
    pub(super) end_rows: Vec<End>,
    decoder: Decoder,
    /// Histograms that could not be read.
    pub(super) unread: u64,
    /// Intervals that have no histograms.
    pub(super) without: u64,
}

/// Where a flow's share of an interval goes.
struct Places {
    /// By kind; none: into what has no row.
    rows: Vec<Option<usize>>,
    end: Option<usize>,
    wanted: bool,
}

impl Fold {
    /// Of nothing yet.
    #[must_use]
    pub fn new(chosen: Chosen) -> Self {
        let columns = chosen.columns.count;
        let kind = |rows: &Vec<(String, u64)>| Kind {
            index: rows.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect(),
            rows: rows.iter().map(|_| Course::new(columns)).collect(),
            other: Sum::default(),
        };
        let keys = chosen.pairs.iter().flat_map(|pair| &pair.ends);
        Self {
            names: Names::default(),
            all: Course::new(columns),
            kinds: chosen.groups.iter().map(kind).collect(),
            recorded_ms: vec![0; columns],
            ends: keys.cloned().zip(0..).collect(),
            end_rows: (0..chosen.pairs.len() * 2).map(|_| End::default()).collect(),
            decoder: Decoder::default(),
            unread: 0,
            without: 0,
            chosen,
        }
    }

    /// The columns of time.
    #[must_use]
    pub const fn columns(&self) -> Columns {
        self.chosen.columns
    }

    /// Adds an interval: its snapshot, the flow ids of its tags, and its lines in the log, of which there are none
    /// where that is missing.
    pub fn take(
        &mut self,
        origin: Origin<'_>,
        snapshot: &Snapshot,
        tags: &BTreeMap<String, String>,
        log: Option<&[u8]>,
    ) {
        let Some(start) = nanoseconds(&snapshot.start) else { return };
        // What came since the first look may be beyond.
        let column = self.chosen.columns.of(start).filter(|_| self.chosen.asked.has(start));
        let (Some(column), Some(run)) = (column, self.chosen.runs.get(&origin.pair).copied())
        else {
            return;
        };
        let length = nanoseconds(&snapshot.end).map_or(0, |end| end.saturating_sub(start));
        self.recorded_ms[column] += u64::try_from(length / 1_000_000).unwrap_or(0);
        let mut places = HashMap::with_capacity(snapshot.flows.len() + 1);
        for flow in &snapshot.flows {
            let place = self.places(origin.node, run, flow);
            self.count(&place, column, flow, (start, start.saturating_add(length)));
            places.insert(flow.id.as_str(), place);
        }
        if !self.chosen.asked.filtered {
            let place = self.places_of_other(origin.node);
            self.count(&place, column, &snapshot.other, (start, start.saturating_add(length)));
            places.insert(snapshot.other.id.as_str(), place);
        }
        let Some(log) = log else {
            self.without += 1;
            return;
        };
        for line in lines::histograms(log) {
            let Some(line) = line else {
                self.unread += 1;
                continue;
            };
            let Some((tag, metric)) = line.of else { continue };
            let id = tags.get(tag).map_or(tag, String::as_str);
            match places.get(id) {
                Some(place) => self.record(place, column, metric, line.encoded),
                None if self.chosen.asked.filtered && id == snapshot.other.id => {}
                // Of a flow that the sidecar does not tell of.
                None => self.unread += 1,
            }
        }
    }

    fn places(&self, node: &str, run: u32, flow: &Flow) -> Places {
        let wanted = (self.chosen.asked.wanted)(flow);
        let row = |(by, kind): (_, &Kind)| {
            let name = super::By::of(by, node, run, flow).unwrap_or_default();
            kind.index.get(&name).copied()
        };
        let rows = self.chosen.kinds().zip(&self.kinds).map(row);
        let key = Key { node: node.to_owned(), run, id: flow.id.clone() };
        Places {
            rows: if wanted { rows.collect() } else { Vec::new() },
            end: self.ends.get(&key).copied(),
            wanted,
        }
    }

    /// What recordings sum up is of a node, and of nothing else that is known.
    fn places_of_other(&self, node: &str) -> Places {
        let row = |(by, kind): (_, &Kind)| {
            (by == super::By::Node).then(|| kind.index.get(node).copied()).flatten()
        };
        let rows = self.chosen.kinds().zip(&self.kinds).map(row).collect();
        Places { rows, end: None, wanted: true }
    }

    fn count(&mut self, place: &Places, column: usize, flow: &Flow, times: (i64, i64)) {
        if let Some(end) = place.end {
            self.end_rows[end].count(flow, times);
        }
        if !place.wanted {
            return;
        }
        self.all.count(column, flow);
        for (kind, row) in self.kinds.iter_mut().zip(&place.rows) {
            match row {
                Some(row) => kind.rows[*row].count(column, flow),
                None => kind.other.count(flow),
            }
        }
    }

    fn record(&mut self, place: &Places, column: usize, metric: &str, encoded: &[u8]) {
        if !place.wanted && place.end.is_none() {
            return;
        }
        let Some(buckets) = self.decoder.decode(encoded) else {
            self.unread += 1;
            return;
        };
        let Some(metric) = self.names.number(metric) else {
            self.unread += 1;
            return;
        };
        if let Some(end) = place.end {
            self.end_rows[end].sum.record(metric, buckets);
        }
        if !place.wanted {
            return;
        }
        self.all.record(column, metric, buckets);
        for (kind, row) in self.kinds.iter_mut().zip(&place.rows) {
            match row {
                Some(row) => kind.rows[*row].record(column, metric, buckets),
                None => kind.other.record(metric, buckets),
            }
        }
    }
}
