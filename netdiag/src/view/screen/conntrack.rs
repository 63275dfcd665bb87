//! Connection tracking: how full its tables are, what failed, and who makes the entries.

use std::cmp::Reverse;

use ratatui::text::Line;

use super::{
    Body, Pane,
    chart::bar,
    state::State,
    style::{line, span},
};
use crate::{
    format::{self, MISSING, right},
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
        lines.push(of_table(state, table, columns));
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

fn of_table(state: &State, table: &ConntrackTable, columns: usize) -> Line<'static> {
    let full = percent(table);
    let room = columns.saturating_sub(62).clamp(8, 40);
    let look = match full {
        Some(full) if full >= NEARLY_FULL => state.palette.bad(),
        _ => state.palette.value(),
    };
    let of = table.max.map_or_else(|| MISSING.to_owned(), |max| max.to_string());
    let share = full.map_or_else(|| MISSING.to_owned(), |full| format!("{full} %"));
    let mut spans = vec![
        span(&format!("netns {:<10} [", table.netns), state.palette.plain()),
        span(&bar(table.entries, table.max.unwrap_or(0).max(table.entries), room), look),
        span(&format!("] {} {} of {of} entries", right(&share, 5), table.entries), look),
    ];
    for (n, what) in failures(table) {
        if n > 0 {
            spans.push(span(&format!("  {} {what}", format::count(n)), state.palette.bad()));
        }
    }
    Line::from(spans)
}
