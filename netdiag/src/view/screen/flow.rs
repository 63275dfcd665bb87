//! One flow, or one group: its histograms, whose time it took, how it went, what it counted, whose it is.

use std::collections::BTreeMap;

use ratatui::text::Line;

use super::{
    chart::{bar, course},
    history::INTERVALS,
    state::{Opened, State},
    style::{line, span, styled},
};
use crate::{
    flow::{Role, latency::Latency},
    format::{self, cut, left, or_missing, right, sanitised, wrapped},
    signal::metrics,
    snapshot::{CountValue, Flow},
    view::{
        owner::{home, process},
        table::{endpoint, note, translation},
    },
};

/// Bars of a histogram at most.
const BARS: usize = 10;
/// Columns of a label before a bar.
const LABEL: usize = 18;

/// All of it, `columns` wide.
pub(super) fn whole(state: &State, opened: &Opened, columns: usize) -> Vec<Line<'static>> {
    let Some(rows) = &state.rows else { return Vec::new() };
    let flow = rows.name(&opened.sum);
    let mut lines = head(state, opened, &flow, columns);
    let mut part = |title: &str, more: Vec<Line<'static>>| {
        if !more.is_empty() {
            lines.push(Line::default());
            lines.push(styled(title, state.palette.title()));
            lines.extend(more);
        }
    };
    part("whose time it was", split(state, &flow, columns));
    part("how it went, by the interval", timeline(state, opened, columns));
    part("latencies since it was opened", latencies(state, opened, columns));
    part("counters since it was opened", counters(&flow, columns));
    part("whose it is", owners(&flow, columns));
    lines
}

fn head(state: &State, opened: &Opened, flow: &Flow, columns: usize) -> Vec<Line<'static>> {
    let who = match &flow.group {
        Some(group) => {
            let name = crate::view::table::group_name(flow, group, state.order.by);
            format!("{} {name}, {} flows", state.order.by.name(), format::count(group.flows))
        }
        None => {
            let role = match flow.role {
                Some(Role::Client) => "client",
                Some(Role::Server) => "server",
                None => "role unknown",
            };
            let (local, peer) = (endpoint(&flow.local), endpoint(&flow.peer));
            format!("{} {local} to {peer}, {role}", flow.id)
        }
    };
    let mut words = vec![
        who,
        process(&flow.owner),
        match opened.intervals {
            1 => "opened for 1 interval".to_owned(),
            n => format!("opened for {} intervals", format::count(n)),
        },
    ];
    if !opened.is_active {
        words.push("idle in the last".to_owned());
    }
    if flow.closed {
        words.push("closed".to_owned());
    }
    let path = [("srtt", flow.srtt_ns), ("rtt_min", flow.rtt_min_ns)];
    words.extend(
        path.iter().filter_map(|(name, ns)| Some(format!("{name} {}", format::duration((*ns)?)))),
    );
    words.extend(flow.cwnd.map(|cwnd| format!("cwnd {cwnd} segments")));
    let words: Vec<_> = words.iter().map(|word| sanitised(word)).collect();
    wrapped(&words, columns, "  ").iter().map(|text| styled(text, state.palette.title())).collect()
}

/// Groups of times by their shares.
fn split(state: &State, flow: &Flow, columns: usize) -> Vec<Line<'static>> {
    let groups = flow.counts.iter().filter(|(name, _)| name.ends_with("_ns"));
    let groups = groups.filter_map(|(_, value)| match value {
        CountValue::Group(parts) => Some(parts),
        CountValue::Number(_) => None,
    });
    groups.flat_map(|parts| shares(state, parts, columns)).collect()
}

fn shares(
    state: &State,
    parts: &BTreeMap<String, Option<u64>>,
    columns: usize,
) -> Vec<Line<'static>> {
    let all: u64 = parts.values().flatten().sum();
    if all == 0 {
        return Vec::new();
    }
    let mut parts: Vec<_> = parts.iter().collect();
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(**ns));
    let room = columns.saturating_sub(LABEL + 18).min(60);
    let one = |(name, ns): (&String, &Option<u64>)| {
        let label = left(&cut(&sanitised(name), LABEL), LABEL);
        let marks = bar(ns.unwrap_or(0), all, room);
        let share = or_missing(*ns, |ns| format::percent(rounded(ns as f64 / all as f64)));
        let time = or_missing(*ns, format::duration);
        Line::from(vec![
            span(&format!("{label} "), state.palette.plain()),
            span(&marks, state.palette.value()),
            span(&format!(" {} {}", right(&share, 6), right(&time, 7)), state.palette.plain()),
        ])
    };
    parts.into_iter().map(one).collect()
}

/// To a hundredth.
fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn timeline(state: &State, opened: &Opened, columns: usize) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(LABEL + 12).min(INTERVALS);
    let mut lines = Vec::new();
    for (nth, group) in state.history.groups().iter().enumerate() {
        if state.shown().is_some_and(|shot| !super::sees(&shot.snapshot, group.name)) {
            let text = format!("{} not known: no source sees it", left(group.name, LABEL));
            lines.push(styled(&text, state.palette.aside()));
            continue;
        }
        let values = || state.history.sums(&opened.id, nth);
        let sum: u64 = values().flatten().sum();
        let look = if sum > 0 { state.palette.bad() } else { state.palette.aside() };
        let label = left(group.name, LABEL);
        lines.push(Line::from(vec![
            span(&format!("{label} "), state.palette.plain()),
            span(&course(values(), room), look),
            span(&format!(" {}", right(&format::count(sum), 8)), look),
        ]));
    }
    for (nth, (_, _, metric)) in metrics().enumerate() {
        let values = || state.history.p99_ns(&opened.id, nth);
        let Some(largest) = values().flatten().max() else { continue };
        let label = left(&format!("{} p99", metric.name), LABEL);
        lines.push(Line::from(vec![
            span(&format!("{label} "), state.palette.plain()),
            span(&course(values(), room), state.palette.value()),
            span(&format!(" to {}", right(&format::duration(largest), 6)), state.palette.plain()),
        ]));
    }
    lines
}

fn latencies(state: &State, opened: &Opened, columns: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (id, _, metric) in metrics() {
        let Some(latency) = opened.sum.latency(id).filter(|latency| !latency.is_empty()) else {
            continue;
        };
        let told = latency.distribution();
        let mut text = format!("{} n {}", metric.name, format::count(told.count));
        for (name, value) in [
            ("min", told.min_ns),
            ("p50", told.p50_ns),
            ("p90", told.p90_ns),
            ("p99", told.p99_ns),
            ("p99.9", told.p999_ns),
            ("max", told.max_ns),
        ] {
            text = format!("{text}  {name} {}", or_missing(value, format::duration));
        }
        if told.out_of_range > 0 {
            text = format!("{text}  out of range {}", told.out_of_range);
        }
        let text = wrapped(&[text], columns, "  ");
        lines.extend(text.iter().map(|text| styled(text, state.palette.title())));
        lines.extend(bars(state, latency, columns));
    }
    lines
}

/// Bounds that steps of a histogram may have: 1, 2 and 5 of each power of ten.
fn bounds() -> impl Iterator<Item = u64> {
    (0..13).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)))
}

/// A histogram by steps: the largest value of each, and its samples. Neighbours are joined until they are few.
fn steps(latency: &Latency) -> Vec<(u64, u64)> {
    let mut steps: Vec<(u64, u64)> = Vec::new();
    for (value, samples) in latency.buckets() {
        let bound = bounds().find(|&bound| value <= bound).unwrap_or(value);
        match steps.last_mut() {
            Some((last, sum)) if *last == bound => *sum += samples,
            _ => steps.push((bound, samples)),
        }
    }
    while steps.len() > BARS {
        // The two neighbours that have the least together.
        let sums = steps.windows(2).map(|pair| pair[0].1 + pair[1].1);
        let Some((at, _)) = sums.enumerate().min_by_key(|&(_, sum)| sum) else { break };
        let (_, samples) = steps.remove(at);
        steps[at].1 += samples;
    }
    steps
}

fn bars(state: &State, latency: &Latency, columns: usize) -> Vec<Line<'static>> {
    let steps = steps(latency);
    let largest = steps.iter().map(|&(_, samples)| samples).max().unwrap_or(0);
    let room = columns.saturating_sub(LABEL + 24).min(60);
    let marked = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let mut below = 0;
    let one = |(bound, samples): (u64, u64)| {
        let is_here = |&&(_, quantile): &&(&str, f64)| {
            latency.quantile(quantile).is_some_and(|value| value > below && value <= bound)
        };
        let marks: Vec<_> = marked.iter().filter(is_here).map(|(name, _)| *name).collect();
        below = bound;
        Line::from(vec![
            span(
                &format!("{} ", right(&format!("to {}", format::duration(bound)), LABEL)),
                state.palette.plain(),
            ),
            span(&bar(samples, largest, room), state.palette.value()),
            span(
                &format!(" {} {}", right(&format::count(samples), 6), marks.join(" ")),
                state.palette.plain(),
            ),
        ])
    };
    steps.into_iter().map(one).collect()
}

fn counters(flow: &Flow, columns: usize) -> Vec<Line<'static>> {
    let words: Vec<_> = flow.counts.iter().filter_map(|(name, value)| note(name, value)).collect();
    wrapped(&words, columns, "  ").iter().map(|text| line(text)).collect()
}

fn owners(flow: &Flow, columns: usize) -> Vec<Line<'static>> {
    let mut words = vec![format!("process {}", process(&flow.owner))];
    words.extend(home(&flow.owner).map(|home| format!("in {home}")));
    words.extend(flow.owner.cgroup.as_ref().map(|cgroup| format!("cgroup {cgroup}")));
    words.extend(flow.netns.map(|netns| format!("netns {netns}")));
    words.extend(flow.protocol.clone());
    words.extend(translation(&flow.local, flow.service.as_ref(), flow.backend.as_ref()));
    if let Some(peer) = &flow.peer_owner {
        let home = home(peer).map(|home| format!(" in {home}")).unwrap_or_default();
        words.push(format!("peer {}{home}", process(peer)));
    }
    words.extend(flow.pair.as_ref().map(|pair| format!("its other end is {pair}")));
    let words: Vec<_> = words.iter().map(|word| sanitised(word)).collect();
    wrapped(&words, columns, "  ").iter().map(|text| line(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_few_steps_and_lose_nothing() {
        let mut latency = Latency::default();
        let mut value = 3;
        for nth in 1..60 {
            latency.record_n(value, nth);
            value = value * 3 / 2;
        }
        let steps = steps(&latency);
        assert!(steps.len() <= BARS, "{steps:?}");
        assert!(steps.is_sorted(), "{steps:?}");
        assert_eq!(steps.iter().map(|(_, samples)| samples).sum::<u64>(), latency.count());
    }
}
