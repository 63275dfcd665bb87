//! Connection tracking: how full it is and what it cost, what happened to its entries, and who makes them.

use std::cmp::Reverse;

use super::{INDENT, endpoint};
use crate::{
    format::{self, wrapped},
    signal::{Rows, counts_of},
    snapshot::{Conntrack, ConntrackTable, Owner, Snapshot, TopCreator},
    view::owner::process,
};

/// Tables and creators that are shown, the worst first.
const SHOWN: usize = 3;

/// A table so full is worth a line beside others.
const NEARLY_FULL_PERCENT: u64 = 80;

pub(super) fn lines(snapshot: &Snapshot, columns: usize) -> Vec<String> {
    let mut lines = tables(&snapshot.node.conntrack, columns);
    if let Some(conntrack) = &snapshot.conntrack {
        lines.extend(entries(conntrack, seconds(snapshot), columns));
    }
    lines
}

/// The tables that are nearly full or failed; where there is none, the fullest.
fn tables(tables: &[ConntrackTable], columns: usize) -> Vec<String> {
    let failed = |table: &ConntrackTable| -> u64 { failures(table).iter().map(|(n, _)| n).sum() };
    let is_bad = |table: &ConntrackTable| {
        failed(table) > 0 || percent(table).is_some_and(|percent| percent >= NEARLY_FULL_PERCENT)
    };
    let mut worst: Vec<_> =
        tables.iter().filter(|table| table.entries > 0 || is_bad(table)).collect();
    worst.sort_by_key(|table| Reverse((failed(table), percent(table), table.entries)));
    let bad = worst.iter().filter(|table| is_bad(table)).count();
    let shown = worst.iter().take(SHOWN.min(bad.max(1)));
    let mut lines: Vec<_> = shown.flat_map(|table| line(table, columns)).collect();
    if bad > SHOWN {
        lines.push(format!("{INDENT}and {} more of conntrack (-o json has all)", bad - SHOWN));
    }
    lines
}

/// How full it is, rounded down.
pub(in crate::view) fn percent(table: &ConntrackTable) -> Option<u64> {
    table.entries.saturating_mul(100).checked_div(table.max?)
}

/// Each way to fail, with its words. Clashes that were settled and packets of no connection are none.
pub(in crate::view) fn failures(table: &ConntrackTable) -> [(u64, &'static str); 3] {
    [
        (table.insert_failed, "not inserted"),
        (table.drop, "dropped"),
        (table.early_drop, "thrown out early"),
    ]
    .map(|(failed, words)| (failed.unwrap_or(0), words))
}

fn line(table: &ConntrackTable, columns: usize) -> Vec<String> {
    let of = match (table.max, percent(table)) {
        (Some(max), Some(percent)) => format!("{} of {max} entries ({percent} %)", table.entries),
        _ => format!("{} entries", table.entries),
    };
    let mut words = vec![format!("conntrack in netns {}", table.netns), of];
    let failures = failures(table).into_iter().filter(|(failed, _)| *failed > 0);
    words.extend(failures.map(|(failed, what)| format!("{} {what}", format::count(failed))));
    wrapped(&words, columns, INDENT)
}

/// What happened to entries, the first of it by the second as well, and who made them.
pub(in crate::view) fn entries(
    conntrack: &Conntrack,
    seconds: Option<f64>,
    columns: usize,
) -> Vec<String> {
    let counts = || {
        let entries = conntrack.entries.iter().map(|entry| &entry.counts);
        entries.chain([&conntrack.other.counts])
    };
    let sum = |name: &str| counts().filter_map(|counts| *counts.get(name)?).sum::<u64>();
    let mut words: Vec<_> = counts_of(Rows::Entries)
        .map(|(_, _, count)| (count.name, sum(count.name)))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| (n, format!("{} {}", name.replace('_', " "), format::count(n))))
        .collect();
    if let Some((n, first)) = words.first_mut()
        && let Some(seconds) = seconds
    {
        *first =
            format!("{first} ({} a second)", format::count((*n as f64 / seconds).round() as u64));
    }
    if words.is_empty() {
        return Vec::new();
    }
    let words: Vec<_> = words.into_iter().map(|(_, words)| words).collect();
    let mut lines =
        wrapped(&[&["conntrack entries".to_owned()], &words[..]].concat(), columns, INDENT);
    for creator in conntrack.creators.iter().take(SHOWN) {
        let words = wrapped(&words_of(creator), columns.saturating_sub(INDENT.len()), INDENT);
        lines.extend(words.iter().map(|line| format!("{INDENT}{line}")));
    }
    lines
}

fn words_of(top: &TopCreator) -> Vec<String> {
    let by = process(top.creator.as_ref().unwrap_or(&Owner::default()));
    let mut words = vec![format!("{by} to {}", endpoint(&top.destination))];
    words.extend(top.protocol.clone());
    // What was made and what came into the table are mostly the same.
    let made = if top.new.is_some() { ("new", top.new) } else { ("confirmed", top.confirmed) };
    let counts = [made, ("table full", top.table_full)];
    let counts = counts.into_iter().filter_map(|(name, n)| Some((name, n.filter(|n| *n > 0)?)));
    words.extend(counts.map(|(name, n)| format!("{name} {}", format::count(n))));
    words
}

/// How long the snapshot took; none where it took no time.
pub(in crate::view) fn seconds(snapshot: &Snapshot) -> Option<f64> {
    passed(&snapshot.start, &snapshot.end)
}

/// Seconds from one time of snapshots to a later one; none where nothing lies between them.
pub(in crate::view) fn passed(from: &str, to: &str) -> Option<f64> {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let took = time(to)?.duration_since(time(from)?).as_secs_f64();
    (took > 0.0).then_some(took)
}
