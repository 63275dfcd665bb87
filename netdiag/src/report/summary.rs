//! From what was added up to what is told.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    Fold, Report,
    columns::rfc3339,
    conversation, counts,
    counts::TROUBLES,
    course::distribution,
    told::{Coarse, Grouped, Located, NodeRow, Row, SCHEMA, Times},
};
use crate::format;

/// Columns of time in text.
const COARSE: usize = 16;
/// Seconds from which on two runs that recorded a node at once are more than the moment between them.
const OVERLAP_S: f64 = 1.0;

impl Fold {
    /// The report. `metric` is what rows are sorted by where that was asked for; `page` whether it shows what only a
    /// page does; `notes` what is to be known of the files, and `is_read` whether they could all be read.
    #[must_use]
    pub fn report(
        mut self,
        metric: Option<&str>,
        page: bool,
        mut notes: Vec<String>,
        is_read: bool,
    ) -> Report {
        let metric = metric.map(str::to_owned).or_else(|| self.all.largest(&self.names));
        let is_read = is_read && self.unread + self.without == 0;
        let nodes = std::mem::take(&mut self.chosen.nodes);
        let (mut rows, mut findings, mut left_out) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (name, node) in nodes {
            let (row, report) = node.told(name.clone());
            rows.push(row);
            let Some(report) = report else { continue };
            for (id, n) in report.left_out {
                *left_out.entry(id).or_default() += n;
            }
            let located = |finding| Located { node: name.clone(), finding };
            findings.extend(report.findings.into_iter().map(located));
        }
        notes.extend(self.notes(&rows));
        let times = rows.iter().map(|node| (&node.start, &node.end));
        let (start, end) = times.fold((None, None), |(start, end), (first, last)| {
            // All are in UTC, and compare as numbers.
            let of = |time: &str| super::nanoseconds(time);
            (start.into_iter().chain(of(first)).min(), end.into_iter().chain(of(last)).max())
        });
        let pairs = self.chosen.pairs.iter().zip(self.end_rows.chunks(2));
        Report {
            schema: SCHEMA.to_owned(),
            start: start.map(rfc3339).unwrap_or_default(),
            end: end.map(rfc3339).unwrap_or_default(),
            filtered: self.chosen.asked.filtered || rows.iter().any(|node| node.filtered),
            complete: is_read
                && rows.iter().all(|node| node.complete && node.overlap_s < OVERLAP_S),
            counted: TROUBLES.iter().map(|name| (*name).to_owned()).collect(),
            columns: self.times(),
            all: self.all.row(&self.names, page),
            by: self.grouped(metric.as_deref(), page),
            conversations: pairs
                .map(|(pair, ends)| conversation::told(pair, ends, &self.names))
                .collect(),
            coarse: self.coarse(metric.as_deref()),
            nodes: rows,
            metric,
            findings,
            findings_left_out: left_out,
            notes,
        }
    }

    fn times(&self) -> Times {
        let columns = self.columns();
        Times {
            start: columns.start(0),
            step_ns: columns.step_ns.unsigned_abs(),
            count: columns.count as u64,
            recorded_ms: self.recorded_ms.clone(),
        }
    }

    fn grouped(&self, metric: Option<&str>, page: bool) -> Vec<Grouped> {
        let kinds = self.chosen.kinds().zip(&self.kinds);
        let all = kinds.zip(self.chosen.groups.iter().zip(&self.chosen.folded));
        let uncounted = self.chosen.uncounted || self.chosen.grouped;
        all.map(|((by, kind), (names, folded))| {
            let named = |((name, flows), course): (&(String, u64), &super::course::Course)| Row {
                name: Some(name.clone()).filter(|name| !name.is_empty()),
                flows: (!uncounted).then_some(*flows),
                ..course.row(&self.names, page)
            };
            let mut rows: Vec<Row> = names.iter().zip(&kind.rows).map(named).collect();
            rows.sort_by_cached_key(|row| {
                let p99 = metric.and_then(|metric| row.metrics.get(metric)?.p99_ns);
                (Reverse(p99), Reverse(counts::trouble(&row.counts)), row.name.clone())
            });
            Grouped { by, rows, other: kind.other.row(&self.names), folded: *folded }
        })
        .collect()
    }

    fn coarse(&mut self, metric: Option<&str>) -> Vec<Coarse> {
        let columns = self.columns();
        let width = columns.count.div_ceil(COARSE).max(1);
        let metric = metric.and_then(|metric| self.names.number(metric));
        let ranges = (0..columns.count).step_by(width);
        let ranges = ranges.map(|from| from..(from + width).min(columns.count));
        ranges
            .map(|range| Coarse {
                start: columns.start(range.start),
                recorded: self.recorded_ms[range.clone()].iter().any(|ms| *ms > 0),
                latency: metric
                    .map(|metric| distribution(&self.all.spread(metric, range.clone())))
                    .unwrap_or_default(),
                counts: self.all.troubles(range),
            })
            .collect()
    }

    fn notes(&self, nodes: &[NodeRow]) -> Vec<String> {
        let mut notes = Vec::new();
        let count = format::count;
        for node in nodes {
            let name = &node.name;
            if node.overlap_s >= OVERLAP_S {
                notes.push(format!(
                    "{name}: several runs recorded at once for {:.0} s; flows that both saw count twice",
                    node.overlap_s
                ));
            }
            if !node.shed.is_empty() {
                let shed: Vec<_> = node.shed.iter().map(|signal| format!("`{signal}`")).collect();
                notes.push(format!(
                    "{name}: samples of {} were left out at times to keep the cost down; their latencies and \
                     counts are those of the others",
                    shed.join(", ")
                ));
            }
            if node.grouped {
                notes.push(format!(
                    "{name}: recorded --by, so nothing is concluded from it and no ends are known"
                ));
            }
        }
        let chosen = &self.chosen;
        if chosen.other_left_out {
            notes.push(
                "filters: what recordings sum up in `other` cannot be asked whose it is, and is left out"
                    .to_owned(),
            );
        }
        for (n, text) in [
            (self.unread, "histograms are torn or none of netdiag's, and are left out"),
            (
                self.without,
                "intervals have no histograms, only counts: their .hlog is missing or shorter",
            ),
            (
                chosen.ends_left_out,
                "times a flow was not looked at as the end of a conversation: there are too many",
            ),
        ] {
            if n > 0 {
                notes.push(format!("{} {text}", count(n)));
            }
        }
        if chosen.uncounted {
            notes.push("there are too many flows or groups to count the flows of each".to_owned());
        }
        notes
    }
}
