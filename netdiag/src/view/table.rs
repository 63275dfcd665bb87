//! The plain table: what flows did in an interval, for people, at any width from 40 columns.
//!
//! Columns are learnt from the definitions of the signals: a metric with columns has samples, p50, p99
//! and max; every group of counts has its total, unless it is to have none; every other metric and
//! every count that is not zero stands below its flow. So a new signal shows up without an edit here.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    flow::Grouping,
    format::{self, MISSING, left, or_missing, paragraph, right, sanitised, width, wrapped},
    signal,
    snapshot::{CountValue, Distribution, Flow, Snapshot, Status},
    view::{
        own,
        owner::{home, process},
    },
};

mod accounting;
pub(super) mod conntrack;
mod identity;
pub(super) mod listeners;

pub use accounting::accounting;
pub(super) use accounting::{lines as accounting_lines, losses};
pub(super) use identity::{endpoint, group_name, translation};

/// Columns of a terminal that does not say how wide it is.
pub const COLUMNS: usize = 80;

const INDENT: &str = "  ";

/// Writes the table of one interval, or of a run, `columns` wide.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn table(snapshot: &Snapshot, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = String::new();
    for line in lines(snapshot, columns.max(40)) {
        text.push_str(&line);
        text.push('\n');
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn lines(snapshot: &Snapshot, columns: usize) -> Vec<String> {
    let mut lines = head(snapshot, columns);
    lines.extend(losses(snapshot, columns));
    let by = snapshot.by;
    let mut rows: Vec<Row> = snapshot.flows.iter().map(|flow| Row::new(flow, by)).collect();
    if snapshot.other.is_active() {
        rows.push(Row::new(&snapshot.other, by));
    }
    if rows.is_empty() {
        lines.push("no flow was active".to_owned());
    } else {
        lines.extend(body(&identity::names(by), &rows, columns));
    }
    lines.extend(listeners::lines(&snapshot.node.listeners, columns));
    lines.extend(conntrack::lines(snapshot, columns));
    lines.extend(
        own::line(&snapshot.own).iter().flat_map(|line| paragraph(line, columns, "", INDENT)),
    );
    lines.push(String::new());
    lines
}

/// Which node, when, and how the signals are observed.
fn head(snapshot: &Snapshot, columns: usize) -> Vec<String> {
    let mut words = vec![
        sanitised(&snapshot.host),
        sanitised(&snapshot.kernel),
        format!("{} to {}", milliseconds(&snapshot.start), time_of_day(&snapshot.end)),
    ];
    for signal in &snapshot.signals {
        let source = signal.source.as_deref().unwrap_or("off");
        let degraded = if signal.status == Status::Degraded { " (degraded)" } else { "" };
        words.push(format!("{}:{source}{degraded}", signal.signal));
    }
    if snapshot.filtered {
        words.push("filtered".to_owned());
    }
    wrapped(&words, columns, INDENT)
}

/// An RFC 3339 timestamp in UTC with at most three decimals.
fn milliseconds(time: &str) -> String {
    match time.trim_end_matches('Z').split_once('.') {
        Some((seconds, decimals)) => {
            format!("{seconds}.{}Z", decimals.chars().take(3).collect::<String>())
        }
        None => time.to_owned(),
    }
}

/// The same without its date.
fn time_of_day(time: &str) -> String {
    let time = milliseconds(time);
    time.split_once('T').map_or(time.clone(), |(_, time)| time.to_owned())
}

/// A flow, ready to be laid out.
struct Row {
    /// Which flow it is: ends and process.
    identity: Vec<String>,
    /// Metric by metric of the columns.
    cells: Vec<String>,
    /// What has no column.
    notes: Vec<String>,
}

impl Row {
    fn new(flow: &Flow, by: Grouping) -> Self {
        let identity = identity::of(flow, by);
        let mut cells = Vec::new();
        let mut notes = Vec::new();
        if !matches!(by, Grouping::Container | Grouping::Pod) {
            notes.extend(home(&flow.owner).map(|home| format!("in {home}")));
        }
        for name in metrics_in_columns() {
            cells.extend(values(flow.metrics.get(name)).map(|(_, value)| value));
        }
        for (name, distribution) in &flow.metrics {
            if !metrics_in_columns().any(|known| known == name) {
                notes.push(metric_note(name, Some(distribution)));
            }
            if distribution.out_of_range > 0 {
                notes.push(format!("{name} out of range {}", distribution.out_of_range));
            }
        }
        for name in groups() {
            cells.push(total(flow.counts.get(name)));
        }
        let repeated: Vec<String> =
            flow.metrics.keys().map(|metric| format!("{metric}s")).collect();
        let counts =
            flow.counts.iter().filter(|(name, _)| !repeated.contains(name) && is_below(name));
        notes.extend(counts.filter_map(|(name, value)| note(name, value)));
        if let Some(smallest) = flow.rtt_min_ns {
            notes.push(format!("rtt_min {}", format::duration(smallest)));
        }
        if flow.group.is_none() {
            let (service, backend) = (flow.service.as_ref(), flow.backend.as_ref());
            notes.extend(translation(&flow.local, service, backend));
        }
        if let Some(peer) = &flow.peer_owner {
            let home = home(peer).map(|home| format!(" in {home}")).unwrap_or_default();
            notes.push(format!("peer {}{home}", process(peer)));
        }
        if flow.closed {
            notes.push("closed".to_owned());
        }
        Self { identity, cells, notes }
    }
}

fn metrics_in_columns() -> impl Iterator<Item = &'static str> {
    signal::metrics().filter(|(_, _, metric)| metric.columns).map(|(_, _, metric)| metric.name)
}

/// Names of the groups of counts that have a column.
fn groups() -> Vec<&'static str> {
    let with_column = signal::counts().filter(|(_, _, count)| count.column);
    let mut groups: Vec<&str> = with_column.filter_map(|(_, _, count)| count.group()).collect();
    groups.dedup();
    groups
}

/// Whether a count may stand below its flow.
fn is_below(name: &str) -> bool {
    signal::counts().all(|(_, _, count)| count.name != name || count.below)
}

/// That of a group, no wider than the numbers below it.
fn heading(group: &str) -> String {
    group.to_uppercase().chars().take(7).collect()
}

fn headings() -> Vec<String> {
    let metrics = metrics_in_columns().flat_map(|name| {
        [name.to_uppercase(), "P50".to_owned(), "P99".to_owned(), "MAX".to_owned()]
    });
    metrics.chain(groups().into_iter().map(heading)).collect()
}

fn values(distribution: Option<&Distribution>) -> [(&'static str, String); 4] {
    let time = |value: Option<u64>| or_missing(value, format::duration);
    [
        ("n", or_missing(distribution, |d| format::count(d.count))),
        ("p50", time(distribution.and_then(|d| d.p50_ns))),
        ("p99", time(distribution.and_then(|d| d.p99_ns))),
        ("max", time(distribution.and_then(|d| d.max_ns))),
    ]
}

fn metric_note(name: &str, distribution: Option<&Distribution>) -> String {
    let values = values(distribution).map(|(key, value)| format!("{key} {value}")).join(", ");
    format!("{} ({values})", sanitised(name))
}

/// Sum of a group; missing where nothing of it is known.
fn total(value: Option<&CountValue>) -> String {
    match value {
        None => MISSING.to_owned(),
        Some(CountValue::Number(number)) => or_missing(*number, format::count),
        Some(CountValue::Group(group)) => {
            let mut known = group.values().flatten().peekable();
            // One whose keys are the kernel's has none where nothing came.
            let is_known = known.peek().is_some() || group.is_empty();
            or_missing(is_known.then(|| known.sum()), format::count)
        }
    }
}

/// A count that is not zero, bytes in units; the kinds of a group in brackets.
pub(super) fn note(name: &str, value: &CountValue) -> Option<String> {
    match value {
        CountValue::Number(number) => {
            let number = number.filter(|&number| number != 0)?;
            let said = name.strip_suffix("_ns").unwrap_or(name);
            Some(format!("{} {}", sanitised(said), amount(name, number)))
        }
        CountValue::Group(group) if name.ends_with("_ns") => shares(name, group),
        CountValue::Group(group) => {
            let kinds: Vec<String> = group
                .iter()
                .filter_map(|(key, number)| {
                    let number = number.filter(|&number| number != 0)?;
                    Some(format!("{} {}", sanitised(key), amount(name, number)))
                })
                .collect();
            (!kinds.is_empty()).then(|| format!("{} ({})", sanitised(name), kinds.join(", ")))
        }
    }
}

/// A group of times by their shares, the largest first.
fn shares(name: &str, group: &BTreeMap<String, Option<u64>>) -> Option<String> {
    let mut parts: Vec<(&str, u64)> = group
        .iter()
        .filter_map(|(key, ns)| Some((key.as_str(), ns.filter(|&ns| ns != 0)?)))
        .collect();
    parts.sort_by_key(|&(_, ns)| Reverse(ns));
    let all: u128 = parts.iter().map(|&(_, ns)| u128::from(ns)).sum();
    let percent = |ns: u64| match (u128::from(ns) * 100 + all / 2) / all {
        0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    };
    let said: Vec<String> =
        parts.iter().map(|&(key, ns)| format!("{} {}", sanitised(key), percent(ns))).collect();
    let name = name.strip_suffix("_ns").unwrap_or(name);
    (!said.is_empty()).then(|| format!("{} ({})", sanitised(name), said.join(", ")))
}

fn amount(name: &str, number: u64) -> String {
    if name.split('_').any(|word| word == "bytes") {
        format::bytes(number)
    } else if name.ends_with("_ns") {
        format::duration(number)
    } else {
        format::count(number)
    }
}

/// All rows on one line each where they fit, otherwise with the numbers on a line of their own.
fn body(names: &[String], rows: &[Row], columns: usize) -> Vec<String> {
    let identities = widths(names, rows.iter().map(|row| &row.identity));
    let headings = headings();
    let cells = widths(&headings, rows.iter().map(|row| &row.cells));
    let numbers = |cells_of: &[String]| -> String {
        let cells = cells_of.iter().zip(&cells).map(|(cell, &columns)| right(cell, columns));
        cells.collect::<Vec<_>>().join(" ")
    };
    let all: usize = identities.iter().chain(&cells).map(|width| width + 1).sum();
    let wide = all <= columns + 1;
    let mut lines = Vec::new();
    let mut put = |identity: &[String], row: &[String]| {
        if wide {
            let identity =
                identity.iter().zip(&identities).map(|(text, &columns)| left(text, columns));
            let identity = identity.collect::<Vec<_>>().join(" ");
            lines.push(format!("{identity} {}", numbers(row)));
        } else {
            let words: Vec<String> =
                identity.iter().filter(|word| !word.is_empty()).cloned().collect();
            lines.extend(wrapped(&words, columns, INDENT));
            lines.push(right(&numbers(row), columns));
        }
        lines.len()
    };
    put(names, &headings);
    let mut breaks = Vec::new();
    for row in rows {
        breaks.push(put(&row.identity, &row.cells));
    }
    // notes go in from the last row up, so that the places found stay right
    for (row, at) in rows.iter().zip(&breaks).rev() {
        let notes = wrapped(&row.notes, columns - INDENT.len(), "");
        lines.splice(*at..*at, notes.into_iter().map(|line| format!("{INDENT}{line}")));
    }
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    lines
}

fn widths<'a>(headings: &[String], rows: impl Iterator<Item = &'a Vec<String>>) -> Vec<usize> {
    let mut widths: Vec<usize> = headings.iter().map(|heading| width(heading)).collect();
    for row in rows {
        for (columns, cell) in widths.iter_mut().zip(row) {
            *columns = (*columns).max(width(cell));
        }
    }
    widths
}

#[cfg(test)]
mod tests;
