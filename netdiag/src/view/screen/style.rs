//! Colour by meaning, and what stands for it where there shall be none (`NO_COLOR`): weight, and the words that are
//! there anyway.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use crate::{finding::Severity, format::sanitised};

/// How what means something looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    /// Whether colours are wanted.
    pub(super) colours: bool,
}

impl Palette {
    fn coloured(self, colour: Color, otherwise: Modifier) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    /// Something is lost or fails.
    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    /// Something is slow, nearly full or half seen.
    pub(super) fn doubtful(self) -> Style {
        self.coloured(Color::Yellow, Modifier::BOLD)
    }

    /// What is measured well.
    pub(super) fn value(self) -> Style {
        self.coloured(Color::Cyan, Modifier::empty())
    }

    /// What means nothing else.
    pub(super) fn plain(self) -> Style {
        Style::new()
    }

    /// What matters less.
    pub(super) fn aside(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What names what is below or behind it.
    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What keys act on.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// By how bad a finding is.
    pub(super) fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.bad(),
            Severity::Warning => self.doubtful(),
            Severity::Info => self.value(),
        }
    }
}

/// A piece of text, which others may have chosen.
pub(super) fn span(text: &str, style: Style) -> Span<'static> {
    Span::styled(sanitised(text), style)
}

/// A line of such text.
pub(super) fn line(text: &str) -> Line<'static> {
    Line::from(sanitised(text))
}

/// A line of one style.
pub(super) fn styled(text: &str, style: Style) -> Line<'static> {
    Line::from(span(text, style))
}
