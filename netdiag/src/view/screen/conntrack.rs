//! Connection tracking: how full its tables are, what failed, and who makes the entries.

use std::cmp::Reverse;

use ratatui::text::Line;

use super::{
    Body, Pane,
    chart::bar,
    state::State,
    style::{line, span, styled},
};
use crate::{
    format::{self, MISSING, right, wrapped},
    snapshot::ConntrackTable,
    view::table::conntrack::{entries, failures, percent, seconds},
};

pub(super) const PANE: Pane = Pane {
    name: "conntrack",
    help: "how full its tables are, what could not be inserted, who makes entries",
    body: Body::Text(lines),
};

/// From here on a table is nearly full, in percent.
const NEARLY_FULL: u64 = 80;
/// Tables that are shown.
const TABLES: usize = 50;

fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let Some(shot) = state.shown() else { return vec![line("watching…")] };
    let mut tables: Vec<_> = shot.snapshot.node.conntrack.iter().collect();
    let failed = |table: &ConntrackTable| -> u64 { failures(table).iter().map(|(n, _)| n).sum() };
    tables.sort_by_key(|table| Reverse((failed(table), percent(table), table.entries)));
    let mut lines = Vec::new();
    if tables.is_empty() {
        lines.push(line("nothing is tracked on this node"));
    }
    for table in tables.iter().take(TABLES) {
        lines.extend(of_table(state, table, columns));
    }
    if tables.len() > TABLES {
        lines.push(line(&format!("and {} more namespaces", tables.len() - TABLES)));
    }
    match &shot.snapshot.conntrack {
        None => lines.push(line("entries: not known, the signal is off, see pane 7")),
        Some(conntrack) => {
            let more = entries(conntrack, seconds(&shot.snapshot), columns);
            if more.is_empty() {
                lines.push(line("nothing happened to entries in the interval"));
            }
            lines.extend(more.iter().map(|text| line(text)));
        }
    }
    lines
}

fn of_table(state: &State, table: &ConntrackTable, columns: usize) -> Vec<Line<'static>> {
    let full = percent(table);
    let room = columns.saturating_sub(62).clamp(8, 40);
    let look = match full {
        Some(full) if full >= NEARLY_FULL => state.palette.bad(),
        _ => state.palette.value(),
    };
    let of = table.max.map_or_else(|| MISSING.to_owned(), |max| max.to_string());
    let share = full.map_or_else(|| MISSING.to_owned(), |full| format!("{full} %"));
    // Without a limit there is nothing to be full of.
    let limit = table.max.filter(|&max| max > 0);
    let marks = limit.map_or_else(|| " ".repeat(room), |max| bar(table.entries, max, room));
    let mut lines = vec![Line::from(vec![
        span(&format!("netns {:<10} [", table.netns), state.palette.plain()),
        span(&marks, look),
        span(&format!("] {} {} of {of} entries", right(&share, 5), table.entries), look),
    ])];
    let failed = failures(table).into_iter().filter(|(n, _)| *n > 0);
    let words: Vec<_> = failed.map(|(n, what)| format!("{} {what}", format::count(n))).collect();
    let texts = wrapped(&words, columns.saturating_sub(2), "");
    lines.extend(texts.iter().map(|text| styled(&format!("  {text}"), state.palette.bad())));
    lines
}
