//! Connection tracking that is nearly full, or that failed.

use std::cmp::Reverse;

use super::INDENT;
use crate::{
    format::{self, wrapped},
    snapshot::ConntrackTable,
};

/// The worst are shown.
const SHOWN: usize = 3;

/// A table so full is worth a line.
const NEARLY_FULL_PERCENT: u64 = 80;

pub(super) fn lines(tables: &[ConntrackTable], columns: usize) -> Vec<String> {
    let is_bad = |table: &&ConntrackTable| {
        percent(table).is_some_and(|percent| percent >= NEARLY_FULL_PERCENT)
            || failures(table).iter().any(|(failed, _)| *failed > 0)
    };
    let mut bad: Vec<&ConntrackTable> = tables.iter().filter(is_bad).collect();
    bad.sort_by_key(|table| {
        let failed: u64 = failures(table).iter().map(|(failed, _)| failed).sum();
        Reverse((failed, percent(table)))
    });
    let more = bad.len().saturating_sub(SHOWN);
    let mut lines: Vec<_> = bad.iter().take(SHOWN).flat_map(|one| line(one, columns)).collect();
    if more > 0 {
        lines.push(format!("{INDENT}and {more} more of conntrack (-o json has all)"));
    }
    lines
}

/// How full it is, rounded down.
fn percent(table: &ConntrackTable) -> Option<u64> {
    table.entries.saturating_mul(100).checked_div(table.max?)
}

/// Each way to fail, with its words. Clashes that were settled and packets of no connection are none.
fn failures(table: &ConntrackTable) -> [(u64, &'static str); 3] {
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
