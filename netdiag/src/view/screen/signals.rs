//! How each signal is observed, what the others cost to refuse, what netdiag takes, and what became of every sample.

use ratatui::text::Line;

use super::{
    Body, Pane,
    state::State,
    style::{line, span, styled},
};
use crate::{
    format::{left, paragraph, sanitised},
    snapshot::Status,
    view::{own, table::accounting_lines},
};

pub(super) const PANE: Pane = Pane {
    name: "signals",
    help: "which sources are in use and what they cannot see; the fate of every sample",
    body: Body::Text(lines),
};

fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let Some(shot) = state.shown() else { return vec![line("watching…")] };
    let mut lines = vec![styled("sources", state.palette.title())];
    for signal in &shot.snapshot.signals {
        let (word, look) = match signal.status {
            Status::Full => ("full", state.palette.plain()),
            Status::Degraded => ("degraded", state.palette.doubtful()),
            Status::Off => ("off", state.palette.bad()),
        };
        let source = signal.source.as_deref().unwrap_or("-");
        lines.push(Line::from(vec![
            span(
                &format!("  {} {} ", left(&signal.signal, 11), left(source, 12)),
                state.palette.plain(),
            ),
            span(word, look),
        ]));
    }
    lines.push(Line::default());
    let own = own::line(&shot.snapshot.own);
    let own = own.iter().flat_map(|text| paragraph(text, columns, "", "  "));
    lines.extend(own.map(|text| line(&text)));
    lines.extend(accounting_lines(&shot.snapshot, columns).iter().map(|text| {
        let is_title = !text.starts_with(' ');
        let look = if is_title { state.palette.title() } else { state.palette.plain() };
        styled(&sanitised(text), look)
    }));
    lines
}
