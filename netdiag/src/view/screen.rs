//! The full screen of `live`: from what is known, the size and the selection to the cells of a terminal. Pure.
//!
//! [`State`] takes keys and intervals, [`draw`] shows it. A pane is one file and one line in [`PANES`].

use ratatui::{
    buffer::Buffer,
    layout::{Rect, Size},
    style::Style,
    text::Line,
};

pub use self::state::{Beginning, Key, Request, Shot, State};
use self::{
    state::Open,
    style::{line, span, styled},
};
use crate::{
    format::{self, left},
    snapshot::{CountValue, Snapshot},
};

mod chart;
mod conntrack;
mod dns;
mod drops;
mod findings;
mod flow;
mod flows;
mod head;
mod help;
mod history;
mod node;
mod rows;
mod signals;
mod state;
mod style;

/// The panes, by the digits that lead to them.
const PANES: &[Pane] = &[
    flows::PANE,
    findings::PANE,
    conntrack::PANE,
    drops::PANE,
    dns::PANE,
    node::PANE,
    signals::PANE,
];

/// A part of what is known, on a screen of its own.
struct Pane {
    name: &'static str,
    /// What it shows, one line.
    help: &'static str,
    body: Body,
}

/// How it is drawn.
enum Body {
    /// Rows to choose from, of which only those are made that are shown.
    Rows(fn(&State, &mut Canvas<'_>)),
    /// Lines of so many columns, which are scrolled.
    Text(fn(&State, usize) -> Vec<Line<'static>>),
}

/// Where lines are put one below the other, and cut where the screen ends.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    /// What is left of the screen.
    area: Rect,
    chosen: Style,
}

impl Canvas<'_> {
    fn columns(&self) -> usize {
        self.area.width.into()
    }

    /// Lines that are left.
    fn left(&self) -> usize {
        self.area.height.into()
    }

    fn put(&mut self, line: &Line<'_>) {
        self.put_row(line, false);
    }

    /// A row that may be the chosen one.
    fn put_row(&mut self, line: &Line<'_>, is_chosen: bool) {
        let Some(height) = self.area.height.checked_sub(1) else { return };
        let at = Rect { height: 1, ..self.area };
        self.buffer.set_line(at.x, at.y, line, at.width);
        if is_chosen {
            self.buffer.set_style(at, self.chosen);
        }
        self.area = Rect { y: at.y + 1, height, ..self.area };
    }

    /// The lines from the `first` on; as many as there is room for are shown whatever that is.
    fn scrolled(&mut self, lines: Vec<Line<'static>>, first: usize) {
        let room = self.left();
        let first = first.min(lines.len().saturating_sub(room));
        let more = lines.len().saturating_sub(first + room);
        let shown = if more > 0 { room.saturating_sub(1) } else { room };
        lines.into_iter().skip(first).take(shown).for_each(|line| self.put(&line));
        if more > 0 {
            self.put(&styled(&format!("{} more lines: ↓", more + 1), self.chosen));
        }
    }
}

/// Whether any source sees what a group of counts tells.
fn sees(snapshot: &Snapshot, group: &str) -> bool {
    snapshot.other.counts.get(group).is_some_and(is_known)
}

/// Whether a count, or one of a group, is known; a group whose keys are the kernel's has none where nothing came.
fn is_known(value: &CountValue) -> bool {
    match value {
        CountValue::Number(number) => number.is_some(),
        CountValue::Group(keys) => keys.is_empty() || keys.values().any(Option::is_some),
    }
}

/// Below this size nothing can be read.
const SMALLEST: Size = Size { width: 40, height: 8 };

/// The screen.
#[must_use]
pub fn draw(state: &State, size: Size) -> Buffer {
    let area = Rect::new(0, 0, size.width, size.height);
    let mut buffer = Buffer::empty(area);
    let mut canvas = Canvas { buffer: &mut buffer, area, chosen: state.palette.chosen() };
    if size.width < SMALLEST.width || size.height < SMALLEST.height {
        canvas.put(&line("netdiag: make it larger"));
        return buffer;
    }
    for line in above(state, size) {
        canvas.put(&line);
    }
    let below = Rect { y: area.height - 1, height: 1, ..area };
    canvas.area.height = canvas.area.height.saturating_sub(1);
    body(state, &mut canvas);
    canvas.area = below;
    canvas.put(&footer(state, size.width.into()));
    buffer
}

/// What stands above the pane on every screen.
fn above(state: &State, size: Size) -> Vec<Line<'static>> {
    let columns = size.width.into();
    let mut lines = head::lines(state, columns);
    let most = match size.height {
        0..16 => 1,
        16..30 => 3,
        30..50 => 6,
        _ => 10,
    };
    lines.extend(state.findings.summary(columns, most, state.palette));
    lines.push(tabs(state, columns));
    lines
}

fn body(state: &State, canvas: &mut Canvas<'_>) {
    match (text(state, canvas.columns()), &PANES[state.pane].body) {
        (Some(lines), _) => canvas.scrolled(lines, state.scrolled),
        (None, Body::Rows(draw)) => draw(state, canvas),
        (None, Body::Text(_)) => {}
    }
}

/// What is scrolled: what is open, or else a pane without rows.
fn text(state: &State, columns: usize) -> Option<Vec<Line<'static>>> {
    match (&state.open, &PANES[state.pane].body) {
        (Open::Nothing, Body::Rows(_)) => None,
        (Open::Nothing, Body::Text(lines)) => Some(lines(state, columns)),
        (Open::Help, _) => Some(help::lines(state, columns)),
        (Open::Finding(finding), _) => Some(findings::whole(finding, columns, state.palette)),
        (Open::Row(opened), _) => Some(flow::whole(state, opened, columns)),
    }
}

/// How far what is scrolled can be.
fn farthest(state: &State, size: Size) -> usize {
    let lines = text(state, size.width.into()).map_or(0, |lines| lines.len());
    let room = usize::from(size.height).saturating_sub(above(state, size).len() + 1);
    lines.saturating_sub(room)
}

/// The panes, and how rows are chosen.
fn tabs(state: &State, columns: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, pane) in PANES.iter().enumerate() {
        let look = if at == state.pane { state.palette.chosen() } else { state.palette.plain() };
        spans.push(span(&format!("{} {}", at + 1, pane.name), look));
        spans.push(span("  ", state.palette.plain()));
    }
    let used: usize = spans.iter().map(|span| format::width(&span.content)).sum();
    spans.push(span(&head::order(state, columns.saturating_sub(used)), state.palette.aside()));
    Line::from(spans)
}

/// What is typed, said, or may be pressed.
fn footer(state: &State, columns: usize) -> Line<'static> {
    if let Some(typed) = &state.typing {
        return line(&format!("/{typed}_  (Enter: only rows with these words, Esc: as before)"));
    }
    if let Some(message) = &state.message {
        return styled(&format::cut(message, columns), state.palette.title());
    }
    let keys = match state.open {
        Open::Nothing => {
            "q quit  ? help  Enter open  / filter  s sort  g group  m metric  p pause  w dump"
        }
        _ => "Esc back  ↑↓ PgUp PgDn scroll  p pause  w dump  ? help  q quit",
    };
    styled(&left(keys, columns), state.palette.aside())
}

#[cfg(test)]
mod tests;
