//! A report for people: who recorded what, percentiles by metric, by time and by group, both ends of conversations,
//! and findings.

use std::io::{self, Write};

use crate::{
    finding::Finding,
    format::{self, MISSING, cut, left, or_missing, paragraph, right, sanitised, width},
    report::{
        Report, counts,
        told::{Conversation, EndRow, Grouped, NodeRow, Way},
    },
    snapshot::Distribution,
    view::{diagnose::headline, table::endpoint},
};

pub mod page;

/// Before the second line of something.
const INDENT: &str = "  ";
/// Columns of a value; the longest is `999.9µs` or `1234567`.
const VALUE: usize = 8;
/// Columns of a row's name; one that is longer has a line of its own.
const NAME: usize = 23;
/// Counts that have a column.
const COUNTS: usize = 3;
/// Conversations that are told; all are in JSON.
const CONVERSATIONS: usize = 5;

/// Writes the report, `columns` wide.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn text(report: &Report, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = lines(report, columns).join("\n");
    text.push('\n');
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn lines(report: &Report, columns: usize) -> Vec<String> {
    let mut lines = head(report, columns);
    lines.extend(all(report));
    lines.extend(by_time(report));
    for grouped in &report.by {
        lines.extend(by_group(report, grouped, columns));
    }
    lines.extend(both_ends(report, columns));
    lines.extend(findings(report, columns));
    lines
}

fn head(report: &Report, columns: usize) -> Vec<String> {
    let intervals: u64 = report.nodes.iter().map(|node| node.intervals).sum();
    let head = format!(
        "{}, {} from {} to {}{}",
        number(report.nodes.len() as u64, "node"),
        number(intervals, "interval"),
        format::moment(&report.start),
        format::moment(&report.end),
        if report.filtered { ", filtered" } else { "" }
    );
    let mut lines = paragraph(&head, columns, "", INDENT);
    for one in &report.nodes {
        lines.extend(paragraph(&sanitised(&node(one)), columns, INDENT, "    "));
    }
    for note in &report.notes {
        lines.extend(paragraph(&format!("note: {}", sanitised(note)), columns, "", INDENT));
    }
    lines.push(format!("complete: {}", if report.complete { "yes" } else { "no" }));
    lines
}

fn node(node: &NodeRow) -> String {
    let mut words = vec![
        format!("{}  {}", node.name, node.kernel),
        number(node.intervals, "interval"),
        number(node.runs, "run"),
        format!("{} recorded", format::seconds(node.recorded_s)),
    ];
    if node.gaps > 0 {
        words.push(format!("{} of {}", number(node.gaps, "gap"), format::seconds(node.gap_s)));
    }
    match node.lost {
        Some(0) => {}
        lost => words.push(format!("{} samples lost", or_missing(lost, format::count))),
    }
    words.join(", ")
}

/// `1 node`, `2 nodes`.
fn number(n: u64, what: &str) -> String {
    format!("{} {what}{}", format::count(n), if n == 1 { "" } else { "s" })
}

fn cells(values: impl IntoIterator<Item = String>) -> String {
    values.into_iter().map(|value| right(&value, VALUE)).collect()
}

fn time(value: Option<u64>) -> String {
    or_missing(value, format::duration)
}

fn all(report: &Report) -> Vec<String> {
    let heading = ["N", "P50", "P90", "P99", "P99.9", "MAX"].map(str::to_owned);
    let mut lines = vec![String::new(), format!("{}{}", left("METRIC", NAME), cells(heading))];
    for (name, told) in &report.all.metrics {
        let times = [told.p50_ns, told.p90_ns, told.p99_ns, told.p999_ns, told.max_ns].map(time);
        let values = std::iter::once(format::count(told.count)).chain(times);
        lines.push(format!("{}{}", left(&cut(&sanitised(name), NAME - 1), NAME), cells(values)));
        if told.out_of_range > 0 {
            lines.push(format!("{INDENT}{} out of range", format::count(told.out_of_range)));
        }
    }
    if report.all.metrics.is_empty() {
        lines.push("no latency was measured".to_owned());
    }
    let counts = report.counted.iter().map(|name| {
        let name = name.as_str();
        format!("{name} {}", or_missing(counts::total(&report.all.counts, name), format::count))
    });
    lines.push(counts.collect::<Vec<_>>().join("  "));
    lines
}

/// No wider than the numbers below it.
fn headings(report: &Report) -> impl Iterator<Item = String> + '_ {
    let counted = report.counted.iter().take(COUNTS);
    let counted = counted.map(|name| name.to_uppercase().chars().take(VALUE - 1).collect());
    ["N", "P50", "P99", "MAX"].into_iter().map(str::to_owned).chain(counted)
}

fn values(told: Option<&Distribution>) -> impl Iterator<Item = String> {
    let count = or_missing(told, |told| format::count(told.count));
    let times = told.map_or([None; 3], |told| [told.p50_ns, told.p99_ns, told.max_ns]);
    std::iter::once(count).chain(times.map(time))
}

fn by_time(report: &Report) -> Vec<String> {
    let Some(metric) = &report.metric else { return Vec::new() };
    let title = format!("{} by time", sanitised(metric));
    let mut lines = vec![
        String::new(),
        format!("{}{}", left(&cut(&title, NAME - 1), NAME), cells(headings(report))),
    ];
    for column in &report.coarse {
        let start = left(&format::moment(&column.start), NAME);
        if !column.recorded {
            lines.push(format!("{start}nothing was recorded"));
            continue;
        }
        let told = Some(&column.latency).filter(|told| told.count > 0);
        let counts = column.counts.iter().take(COUNTS);
        let counts = counts.map(|count| or_missing(*count, format::count));
        lines.push(format!("{start}{}", cells(values(told).chain(counts))));
    }
    lines
}

fn by_group(report: &Report, grouped: &Grouped, columns: usize) -> Vec<String> {
    let by = grouped.by.name();
    let metric = report.metric.as_deref().unwrap_or(MISSING);
    let known = grouped.rows.len() as u64;
    let mut title = format!("by {by}, the slowest {} first", sanitised(metric));
    if grouped.folded > 0 {
        title.push_str(&format!(", {} of {}", known, format::count(known + grouped.folded)));
    }
    let mut lines = vec![
        String::new(),
        title,
        format!("{}{}", left(&by.to_uppercase(), NAME), cells(headings(report))),
    ];
    let counted = |name: &String| counts::total(&grouped.other.counts, name).is_some_and(|n| n > 0);
    let has_other = !grouped.other.metrics.is_empty() || report.counted.iter().any(counted);
    let other = has_other.then_some(("other".to_owned(), &grouped.other));
    let named = grouped
        .rows
        .iter()
        .map(|row| (row.name.as_deref().map_or_else(|| MISSING.to_owned(), sanitised), row));
    for (name, row) in named.chain(other) {
        let told = row.metrics.get(metric);
        let counts = report.counted.iter().take(COUNTS);
        let counts = counts.map(|name| or_missing(counts::total(&row.counts, name), format::count));
        let values = cells(values(told).chain(counts));
        if width(&name) < NAME {
            lines.push(format!("{}{values}", left(&name, NAME)));
        } else {
            lines.push(cut(&name, columns));
            lines.push(format!("{}{values}", left("", NAME)));
        }
    }
    lines
}

fn both_ends(report: &Report, columns: usize) -> Vec<String> {
    if report.conversations.is_empty() {
        return Vec::new();
    }
    let all = report.conversations.len();
    let mut lines = vec![
        String::new(),
        format!(
            "both ends recorded: {}, the most troubled first{}",
            number(all as u64, "conversation"),
            if all > CONVERSATIONS { format!("; {CONVERSATIONS} of them") } else { String::new() }
        ),
    ];
    for one in report.conversations.iter().take(CONVERSATIONS) {
        lines.extend(conversation(one, columns));
    }
    lines
}

fn conversation(one: &Conversation, columns: usize) -> Vec<String> {
    let end = |end: &EndRow| {
        let comm = end.owner.comm.as_deref().unwrap_or(MISSING);
        format!("{} {} {}", end.node, comm, endpoint(&end.local))
    };
    let ends: Vec<String> = one.ends.iter().map(end).collect();
    let translated = if one.translated { "  (translated)" } else { "" };
    let title = format!("{}{translated}", ends.join("  >  "));
    let mut lines = paragraph(&sanitised(&title), columns, "", INDENT);
    for end in &one.ends {
        let said = end.metrics.iter().map(|(metric, told)| {
            format!("{metric} p50 {} p99 {}", time(told.p50_ns), time(told.p99_ns))
        });
        let mut said: Vec<_> = said.collect();
        said.push(format!("rtt_min {}", time(end.rtt_min_ns)));
        let text = format!("{}: {}", end.node, said.join("; "));
        lines.extend(paragraph(&sanitised(&text), columns, INDENT, "    "));
    }
    for way in &one.ways {
        lines.extend(paragraph(&sanitised(&passage(way)), columns, INDENT, "    "));
    }
    lines
}

fn passage(way: &Way) -> String {
    let n = |n: Option<u64>| or_missing(n, format::count);
    format!(
        "{} > {}: {} segments sent, {} arrived, {} sent again ({} for nothing), dropped {} here and {} there of either direction; {}",
        way.from,
        way.to,
        n(way.segments_sent),
        n(way.segments_received),
        n(way.retransmits),
        n(way.spurious),
        n(way.dropped_at_sender),
        n(way.dropped_at_receiver),
        way.lost_where
    )
}

fn findings(report: &Report, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    match report.findings.len() {
        0 => lines.push("nothing is wrong as far as could be seen".to_owned()),
        n => lines.push(format!("findings: {n}; `netdiag diagnose --from` tells all of each")),
    }
    for one in &report.findings {
        let Finding { start, .. } = &one.finding;
        let text = format!(
            "{} {} {}",
            format::moment(start),
            sanitised(&one.node),
            headline(&one.finding)
        );
        lines.extend(paragraph(&text, columns, INDENT, "    "));
    }
    for (id, n) in &report.findings_left_out {
        lines.push(format!("{INDENT}{} more of {}", format::count(*n), sanitised(id)));
    }
    for node in &report.nodes {
        for withheld in &node.withheld {
            let text = format!("withheld {} on {}: {}", withheld.id, node.name, withheld.reason);
            lines.extend(paragraph(&sanitised(&text), columns, "", INDENT));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
