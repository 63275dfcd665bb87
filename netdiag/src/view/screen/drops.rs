//! Dropped packets by reason.

use std::collections::BTreeMap;

use ratatui::text::Line;

use super::{
    Body, Pane,
    chart::course,
    history::INTERVALS,
    state::State,
    style::{line, span, styled},
};
use crate::{
    format::{self, cut, left, right, sanitised},
    snapshot::{CountValue, Snapshot},
    view::{
        owner::process,
        table::{endpoint, group_name},
    },
};

pub(super) const PANE: Pane = Pane {
    name: "drops",
    help: "packets that the kernel dropped, by reason, and the flows that lost the most",
    body: Body::Text(lines),
};

/// The group of counts that it shows.
const GROUP: &str = "drops";
/// Columns of a reason.
const REASON: usize = 30;
/// Flows that are named.
const FLOWS: usize = 10;

/// What was dropped in an interval, of all flows.
pub(super) fn by_reason(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for flow in snapshot.flows.iter().chain([&snapshot.other]) {
        let Some(CountValue::Group(reasons)) = flow.counts.get(GROUP) else { continue };
        for (reason, n) in reasons {
            let Some(n) = n.filter(|n| *n > 0) else { continue };
            match sums.get_mut(reason) {
                Some(sum) => *sum += n,
                None => {
                    sums.insert(reason.clone(), n);
                }
            }
        }
    }
    sums
}

fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let reasons = state.drops.rows();
    let Some(rows) = &state.rows else { return vec![line("watching…")] };
    let is_off = !super::sees(&rows.shot.snapshot, GROUP);
    if reasons.is_empty() {
        let text = if is_off {
            "not known: no source sees dropped packets here, see pane 7"
        } else {
            "no packet was dropped since the start"
        };
        return vec![line(text)];
    }
    let room = columns.saturating_sub(REASON + 2 * 9 + 2).min(INTERVALS);
    let heading = format!(
        "{} {} {}  BY THE INTERVAL",
        left("REASON", REASON),
        right("INTERVAL", 8),
        right("SUM", 8)
    );
    let mut lines = vec![styled(&heading, state.palette.title())];
    for (reason, now, sum, values) in reasons {
        let look = if now > 0 { state.palette.bad() } else { state.palette.plain() };
        let numbers = format!(
            "{} {} {}  ",
            left(&cut(&sanitised(reason), REASON), REASON),
            right(&format::count(now), 8),
            right(&format::count(sum), 8)
        );
        let course = course(values.iter().copied().map(Some), room);
        lines.push(Line::from(vec![span(&numbers, look), span(&course, look)]));
    }
    lines.extend(flows(state, columns));
    lines
}

/// The flows of the interval that lost the most.
fn flows(state: &State, columns: usize) -> Vec<Line<'static>> {
    let Some(rows) = &state.rows else { return Vec::new() };
    let group = super::history::CountGroup::named(GROUP);
    let mut most: Vec<_> =
        rows.iter().map(|row| (group.of(row), row)).filter(|(n, _)| *n > 0).collect();
    most.sort_by_key(|&(n, row)| (std::cmp::Reverse(n), row.id));
    if most.is_empty() {
        return Vec::new();
    }
    // The reasons above are of all rows.
    let heading = match state.order.filter.as_str() {
        "" => "whose they were".to_owned(),
        filter => format!("whose they were, of the rows with {filter:?} alone"),
    };
    let mut lines = vec![Line::default(), styled(&heading, state.palette.title())];
    for (n, row) in most.into_iter().take(FLOWS) {
        let flow = rows.name(row);
        let who = match &flow.group {
            Some(group) => group_name(&flow, group, state.order.by),
            None => format!(
                "{} {} {}",
                endpoint(&flow.local),
                endpoint(&flow.peer),
                process(&flow.owner)
            ),
        };
        let text = format!("{} {}", right(&format::count(n), 8), sanitised(&who));
        lines.push(line(&cut(&text, columns)));
    }
    lines
}
