//! What the keys do, and what the screen means.

use ratatui::text::Line;

use super::{
    PANES,
    state::State,
    style::{line, styled},
};
use crate::format::left;

/// Keys, and what they do.
const KEYS: [(&str, &str); 13] = [
    ("1 to 7, Tab", "another pane"),
    ("↑ ↓ PgUp PgDn Home End, j k", "choose a row, or scroll"),
    ("Enter", "open the flow or finding that is chosen"),
    ("Esc", "close it; then take the filter away"),
    ("s, S", "sort by the next key, by the one before"),
    ("g, G", "group by the next thing that flows have in common, by the one before"),
    ("m, M", "show the percentiles of the next metric, of the one before"),
    ("/", "only rows with these words: address, port, process, pod, netns:N"),
    ("p, Space", "let the screen stand still, and go on"),
    ("w", "write the interval that is shown to a histogram log and its sidecar"),
    ("?", "this"),
    ("q, ^C", "end the run"),
    ("courses", "▁ to █ is least to most of the row, . is 0, a blank is unknown or idle"),
];

/// All of it.
pub(super) fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let mut lines = vec![styled("keys", state.palette.title())];
    let key = 29.min(columns / 2);
    for (name, what) in KEYS {
        let text =
            crate::format::paragraph(what, columns, &format!("  {}", left(name, key)), "    ");
        lines.extend(text.iter().map(|text| line(text)));
    }
    lines.push(styled("panes", state.palette.title()));
    for (nth, pane) in PANES.iter().enumerate() {
        let name = format!("  {} {}", nth + 1, left(pane.name, 11));
        let text = crate::format::paragraph(pane.help, columns, &name, "    ");
        lines.extend(text.iter().map(|text| line(text)));
    }
    lines
}
