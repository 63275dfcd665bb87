//! The flows, or groups of them: who, percentiles of one metric, what was sent again, refused or dropped, and how
//! that went of late. Only the rows that fit are named and drawn.

use ratatui::text::Line;

use super::{
    Body, Canvas, Pane,
    chart::course,
    history::RowId,
    state::State,
    style::{line, span, styled},
};
use crate::{
    flow::{Frozen, Grouping, Interval, Role},
    format::{self, MISSING, cut, left, or_missing, right, sanitised},
    signal::metrics,
    snapshot::{Distribution, Endpoint, Flow},
    view::{
        owner::{home, process},
        table::{endpoint, group_name, note},
    },
};

pub(super) const PANE: Pane = Pane {
    name: "flows",
    help: "who talks to whom, latencies and retransmits; Enter opens one",
    body: Body::Rows(draw),
};

/// Columns of a number.
const NUMBER: usize = 6;

/// How many columns each part of a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Widths {
    local: usize,
    peer: usize,
    process: usize,
    home: usize,
    /// Whether the number of samples and the largest value are shown, too.
    is_wide: bool,
    /// Columns of a sum: five digits at least.
    sum: usize,
    /// Marks of a course.
    marks: usize,
}

impl Widths {
    fn new(columns: usize, sums: usize) -> Self {
        let is_wide = columns >= 110;
        let (numbers, sum) = if is_wide { (4, 7) } else { (2, 5) };
        let numbers = numbers * (NUMBER + 1) + sums * (sum + 1);
        let marks = match columns {
            0..100 => 7,
            100..150 => 8,
            _ => 16,
        };
        // Two courses, and blanks between the names.
        let rest = columns.saturating_sub(numbers + 2 * (marks + 1) + 3);
        let home = if rest >= 95 { rest - 75 } else { 0 };
        let names = rest - home;
        let local = if names >= 60 { 21 } else { 6 };
        let process = (names / 4).clamp(6, 22);
        let peer = names.saturating_sub(local + process);
        Self { local, peer, process, home, is_wide, sum, marks }
    }
}

/// An end in so many columns: of a long address its first part, always with its port if it has one.
fn squeezed(end: &Endpoint, columns: usize) -> String {
    let text = endpoint(end);
    if format::width(&text) <= columns {
        return text;
    }
    // Without a port what stands behind the last colon is of the address.
    let port = end.port.map(|port| format!(":{port}")).unwrap_or_default();
    let address = text.strip_suffix(port.as_str()).unwrap_or(&text);
    let room = columns.saturating_sub(format::width(&port));
    format!("{}{port}", cut(address, room))
}

fn names(flow: &Flow, by: Grouping, widths: Widths) -> String {
    let Widths { local, peer, process: owner, home: at, .. } = widths;
    let whose = |columns| left(&cut(&process(&flow.owner), columns), columns);
    let mut text = if let Some(group) = &flow.group {
        let columns = local + peer + owner + 3 - 9;
        let name = cut(&group_name(flow, group, by), columns);
        format!("{} {} ", left(&name, columns), right(&format::count(group.flows), 7))
    } else {
        let arrow = match flow.role {
            Some(Role::Client) => '>',
            Some(Role::Server) => '<',
            None => '-',
        };
        let near = if local >= 21 {
            squeezed(&flow.local, local)
        } else {
            or_missing(flow.local.port, |port| format!(":{port}"))
        };
        let far = squeezed(&flow.peer, peer);
        format!("{}{arrow}{} {} ", right(&near, local), left(&far, peer), whose(owner))
    };
    if at > 0 {
        let home = home(&flow.owner).unwrap_or_default();
        text = format!("{text}{} ", left(&cut(&home, at - 1), at - 1));
    }
    text
}

fn headings(by: Grouping, widths: Widths) -> String {
    let Widths { local, peer, process, home, .. } = widths;
    let mut text = match by {
        Grouping::Flow => format!(
            "{} {} {} ",
            right("LOCAL", local),
            left("PEER", peer),
            left("PROCESS", process)
        ),
        by => {
            let name = by.name().to_uppercase();
            format!("{} {} ", left(&name, local + peer + process + 3 - 9), right("FLOWS", 7))
        }
    };
    if home > 0 {
        text = format!("{text}{} ", left("IN", home - 1));
    }
    text
}

/// The numbers of a metric that have columns.
fn numbers(told: Option<&Distribution>, is_wide: bool) -> String {
    let time = |value: Option<u64>| right(&or_missing(value, format::duration), NUMBER);
    let of = |value: fn(&Distribution) -> Option<u64>| time(told.and_then(value));
    let (p50, p99) = (of(|told| told.p50_ns), of(|told| told.p99_ns));
    if is_wide {
        let samples = right(&or_missing(told, |told| format::count(told.count)), NUMBER);
        format!("{samples} {p50} {p99} {}", of(|told| told.max_ns))
    } else {
        format!("{p50} {p99}")
    }
}

fn draw(state: &State, canvas: &mut Canvas<'_>) {
    let Some(rows) = &state.rows else {
        canvas.put(&line("watching…"));
        return;
    };
    let groups = state.history.columns();
    let widths = Widths::new(canvas.columns(), groups.len());
    canvas.put(&heading(state, widths));
    if rows.len() == 0 {
        let text = match rows.total() {
            0 => "no flow was active".to_owned(),
            total => format!("none of {total} rows has {:?}", state.order.filter),
        };
        canvas.put(&line(&text));
        return;
    }
    // What the table summed up is in no row.
    let Interval { other, folded, .. } = &rows.shot.interval;
    let rest =
        (*folded > 0).then(|| format!("and {} flows more, summed up: ", format::count(*folded)));
    let room = canvas.left().saturating_sub(usize::from(rest.is_some())).max(1);
    let cursor = state.cursor();
    for (at, row) in rows.iter().enumerate().skip(cursor / room * room).take(room) {
        let line = shown(state, row, &rows.name(row), widths);
        canvas.put_row(&line, at == cursor);
    }
    if let Some(rest) = rest {
        let flow = rows.name(other);
        let words: Vec<_> =
            flow.counts.iter().filter_map(|(name, value)| note(name, value)).collect();
        let text = format!("{rest}{}", words.join("  "));
        canvas.put(&styled(&cut(&sanitised(&text), canvas.columns()), state.palette.aside()));
    }
}

fn heading(state: &State, widths: Widths) -> Line<'static> {
    let metric = metrics().nth(state.metric).map_or("", |(_, _, metric)| metric.name);
    let mut text = headings(state.order.by, widths);
    let name = metric.to_uppercase();
    let percentiles = if widths.is_wide {
        format!(
            "{} {} {} {}",
            right("N", NUMBER),
            right("P50", NUMBER),
            right("P99", NUMBER),
            right("MAX", NUMBER)
        )
    } else {
        format!("{} {}", right("P50", NUMBER), right("P99", NUMBER))
    };
    text = format!("{text}{percentiles} {}", left(&cut(&name, widths.marks), widths.marks));
    for (nth, group) in state.history.columns().iter().enumerate() {
        let name: String = group.name.to_uppercase().chars().take(widths.sum).collect();
        text = format!("{text} {}", right(&name, widths.sum));
        if nth == 0 {
            text = format!("{text} {}", " ".repeat(widths.marks));
        }
    }
    styled(&text, state.palette.title())
}

fn shown(state: &State, row: &Frozen, flow: &Flow, widths: Widths) -> Line<'static> {
    let id = RowId::of(row);
    let metric = metrics().nth(state.metric).map_or("", |(_, _, metric)| metric.name);
    let p99 = course(state.history.p99_ns(&id, state.metric), widths.marks);
    let mut spans = vec![
        span(&names(flow, state.order.by, widths), state.palette.plain()),
        span(&numbers(flow.metrics.get(metric), widths.is_wide), state.palette.plain()),
        span(&format!(" {p99}"), state.palette.value()),
    ];
    for (nth, group) in state.history.columns().iter().enumerate() {
        let sum = group.of(row);
        let known = flow.counts.get(group.name).is_none_or(super::is_known);
        let text = if known { format::count(sum) } else { MISSING.to_owned() };
        let look = if sum > 0 { state.palette.bad() } else { state.palette.aside() };
        spans.push(span(&format!(" {}", right(&text, widths.sum)), look));
        if nth == 0 {
            // What is unknown is not 0.
            let course = match known {
                true => course(state.history.sums(&id, nth), widths.marks),
                false => " ".repeat(widths.marks),
            };
            spans.push(span(&format!(" {course}"), look));
        }
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_keeps_its_port() {
        let end = |ip: &str, port| Endpoint { ip: ip.parse().ok(), port: Some(port) };
        let v6 = end("2001:db8:1234:5678:9abc:def0:1234:5678", 65_535);
        assert_eq!(squeezed(&end("10.0.0.1", 443), 20), "10.0.0.1:443");
        assert_eq!(squeezed(&v6, 20), "[2001:db8:123…:65535");
        let no_port = Endpoint { ip: "fe80::3854:6aff:fe59:6e92".parse().ok(), port: None };
        assert_eq!(squeezed(&no_port, 20), "fe80::3854:6aff:fe5…");
    }

    proptest! {
        #[test]
        fn parts_fit_the_screen(columns in 80_usize..400) {
            let widths = Widths::new(columns, 3);
            let Widths { local, peer, process, home, .. } = widths;
            prop_assert!(peer >= 10 && process >= 6, "{widths:?}");
            let numbers = if widths.is_wide { 4 } else { 2 } * 7 + 3 * (widths.sum + 1);
            let numbers = numbers + 2 * (widths.marks + 1);
            prop_assert!(local + peer + process + home + 3 + numbers <= columns, "{widths:?}");
        }
    }
}
