//! Names asked for: by server, how long answers took and how many did not come.

use ratatui::text::Line;

use super::{
    Body, Pane,
    history::CountGroup,
    state::State,
    style::{line, span, styled},
};
use crate::{
    flow::{Frozen, Grouping, Interval},
    format::{self, cut, left, or_missing, right, sanitised},
    signal::metrics,
    snapshot::{CountValue, Flow},
    view::table::group_name,
};

pub(super) const PANE: Pane = Pane {
    name: "DNS",
    help: "queries by server: latency, what was not answered, result codes",
    body: Body::Text(lines),
};

/// The metric, and the group of counts, that it shows.
const NAME: &str = "dns";
/// The group of answers by result code.
const ANSWERS: &str = "dns_answers";
/// Columns of a server.
const SERVER: usize = 28;
/// Servers that are shown.
const SERVERS: usize = 50;

fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let Some(rows) = &state.rows else { return vec![line("watching…")] };
    if !super::sees(&rows.shot.snapshot, NAME) {
        return vec![line("not known: no source sees queries here, see pane 7")];
    }
    let (asked, answered) = (CountGroup::named(NAME), CountGroup::named(ANSWERS));
    let metric = metrics().find(|(_, _, metric)| metric.name == NAME).map(|(id, ..)| id);
    let is_one = |row: &&Frozen| {
        let has_latency = metric.is_some_and(|id| row.latency(id).is_some());
        has_latency || asked.of(row) > 0 || answered.of(row) > 0
    };
    let Interval { flows, other, .. } = &rows.shot.interval;
    // What the table summed up is of no server.
    let summed_up = is_one(&other).then(|| {
        let queries = or_missing(count(&rows.name(other), "queries"), format::count);
        format!("{queries} queries of flows that are summed up")
    });
    let flows: Vec<_> = flows.iter().filter(is_one).cloned().collect();
    if flows.is_empty() {
        let none = || "no name was asked for in the interval".to_owned();
        return vec![line(&summed_up.unwrap_or_else(none))];
    }
    let mut interval = Interval { flows, ..Interval::default() };
    interval.group(Grouping::Backend);
    let mut servers: Vec<Flow> = interval.flows.iter().map(|row| rows.name(row)).collect();
    servers.sort_by_key(|server| std::cmp::Reverse(count(server, "queries")));
    let heading = format!(
        "{} {} {} {} {} {} {} {}",
        left("SERVER", SERVER),
        right("QUERIES", 7),
        right("P50", 6),
        right("P99", 6),
        right("MAX", 6),
        right("NONE", 5),
        right("AGAIN", 5),
        right("LATE", 5)
    );
    let mut lines = vec![styled(&heading, state.palette.title())];
    for server in servers.iter().take(SERVERS) {
        lines.extend(of_server(state, server, columns));
    }
    if servers.len() > SERVERS {
        lines.push(line(&format!("and {} more servers", servers.len() - SERVERS)));
    }
    lines.extend(summed_up.map(|text| line(&format!("and {text}"))));
    lines
}

/// A number of the group by its key.
fn count(server: &Flow, key: &str) -> Option<u64> {
    match server.counts.get(NAME)? {
        CountValue::Group(keys) => *keys.get(key)?,
        CountValue::Number(number) => *number,
    }
}

fn of_server(state: &State, server: &Flow, columns: usize) -> Vec<Line<'static>> {
    let name = server
        .group
        .as_ref()
        .map_or_else(String::new, |group| group_name(server, group, Grouping::Backend));
    let number = |key| or_missing(count(server, key), format::count);
    let told = server.metrics.get(NAME);
    let time = |value: Option<u64>| right(&or_missing(value, format::duration), 6);
    let head = format!(
        "{} {} {} {} {}",
        left(&cut(&name, SERVER), SERVER),
        right(&number("queries"), 7),
        time(told.and_then(|told| told.p50_ns)),
        time(told.and_then(|told| told.p99_ns)),
        time(told.and_then(|told| told.max_ns))
    );
    let mut spans = vec![span(&head, state.palette.plain())];
    for key in ["unanswered", "retried", "late"] {
        let is_bad = count(server, key).is_some_and(|n| n > 0);
        let look = if is_bad { state.palette.bad() } else { state.palette.aside() };
        spans.push(span(&format!(" {}", right(&number(key), 5)), look));
    }
    let mut lines = vec![Line::from(spans)];
    if let Some(CountValue::Group(codes)) = server.counts.get(ANSWERS) {
        let codes = codes.iter().filter_map(|(code, n)| {
            let n = n.filter(|n| *n > 0)?;
            Some(format!("{} {}", sanitised(code), format::count(n)))
        });
        let codes = codes.collect::<Vec<_>>().join("  ");
        if !codes.is_empty() {
            let look = state.palette.aside();
            lines.push(styled(&cut(&format!("  answers  {codes}"), columns), look));
        }
    }
    lines
}
