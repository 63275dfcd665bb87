//! The first lines: node, kernel, time, own cost, sources, what is left out for that, and what was lost.

use ratatui::text::Line;

use super::{
    state::State,
    style::{span, styled},
};
use crate::{
    flow::Grouping,
    format::{self, MISSING, cut, or_missing, percent, wrapped},
    signal::metrics,
    snapshot::{Snapshot, Status, build::Sort},
    view::{
        own::shed,
        table::{conntrack::seconds, losses},
    },
};

/// Columns of the node's name at most.
const HOST: usize = 20;
/// Lines of losses at most: what is lost of many signals stands in a pane of its own.
const LOSSES: usize = 3;

pub(super) fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let beginning = &state.beginning;
    let Some(shot) = state.shown() else {
        let every = format::duration(u64::try_from(beginning.interval.as_nanos()).unwrap_or(0));
        let text =
            format!("netdiag  {}  {}  watching… every {every}", beginning.node, beginning.kernel);
        return vec![styled(&cut(&format::sanitised(&text), columns), state.palette.title())];
    };
    let snapshot = &shot.snapshot;
    // What makes numbers old, or few, comes first: the rest may be cut off.
    let mut spans = vec![span("netdiag  ", state.palette.title())];
    if state.is_paused() {
        spans.push(span("PAUSED", state.palette.chosen()));
        spans.push(span("  ", state.palette.plain()));
    }
    let filtered = snapshot.filtered.then(|| "filtered".to_owned());
    let words = filtered.into_iter().chain([
        clock(snapshot),
        own(snapshot),
        cut(&format::sanitised(&snapshot.host), HOST),
        snapshot.kernel.clone(),
    ]);
    let words: Vec<_> = words.collect();
    spans.push(span(&words.join("  "), state.palette.title()));
    let mut lines = vec![Line::from(spans), sources(state, snapshot)];
    let shed = shed(&snapshot.own).map(|text| cut(&text, columns));
    lines.extend(shed.map(|text| styled(&text, state.palette.doubtful())));
    // What is lost is seen on every screen.
    let lost = losses(snapshot, columns);
    let left_out = lost.len().saturating_sub(LOSSES);
    lines.extend(lost.iter().take(LOSSES).map(|text| styled(text, state.palette.bad())));
    if left_out > 0 {
        let text = format!("  {left_out} more lines of losses; press 7");
        lines.push(styled(&text, state.palette.bad()));
    }
    lines
}

/// The end of the interval to the second, and how long it was.
fn clock(snapshot: &Snapshot) -> String {
    let time = snapshot.end.get(11..19).unwrap_or(MISSING);
    let length = or_missing(seconds(snapshot), |seconds| format::duration((seconds * 1e9) as u64));
    format!("{time}Z +{length}")
}

/// What netdiag itself costs.
fn own(snapshot: &Snapshot) -> String {
    let own = &snapshot.own;
    format!(
        "own {} {}",
        or_missing(own.cpu_ratio, |share| percent((share * 1_000.0).round() / 1_000.0)),
        or_missing(own.resident_bytes, format::bytes)
    )
}

/// The sources in use; what is off or half seen stands first, and out by words, too.
fn sources(state: &State, snapshot: &Snapshot) -> Line<'static> {
    let mut spans = vec![span("sources", state.palette.aside())];
    let mut signals: Vec<_> = snapshot.signals.iter().collect();
    signals.sort_by_key(|signal| match signal.status {
        Status::Off => 0,
        Status::Degraded => 1,
        Status::Full => 2,
    });
    for signal in signals {
        let (name, look) = match (signal.status, signal.source.as_deref()) {
            (Status::Off, _) | (_, None) => ("off", state.palette.bad()),
            (Status::Degraded, Some(_)) => ("degraded", state.palette.doubtful()),
            (Status::Full, Some(source)) => (source, state.palette.aside()),
        };
        spans.push(span(&format!(" {}:{name}", signal.signal), look));
    }
    Line::from(spans)
}

/// Groups, order and filter, in at most so many columns.
pub(super) fn order(state: &State, columns: usize) -> String {
    let mut words = Vec::new();
    if !state.order.filter.is_empty() {
        words.push(format!("/{}", state.order.filter));
    }
    if state.order.by != Grouping::Flow {
        words.push(format!("by {}", state.order.by.name()));
    }
    words.push(format!("sort {}", sort_name(state.order.sort)));
    let metric = metrics().nth(state.metric).map_or("", |(_, _, metric)| metric.name);
    words.push(metric.to_owned());
    let text = wrapped(&words, columns.max(1), "");
    cut(text.first().map_or("", String::as_str), columns)
}

/// As `--sort` has it.
fn sort_name(sort: Sort) -> String {
    let all = Sort::all();
    all.into_iter().find(|(_, one)| *one == sort).map_or_else(String::new, |(name, _)| name)
}
