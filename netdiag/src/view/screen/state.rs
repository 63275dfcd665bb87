//! What the screen shows: a state that takes keys and intervals, and knows neither clock nor terminal.

use std::time::Duration;

use super::{
    findings::Formed,
    history::{History, RowId, Trends},
    rows::{Order, Rows},
    style::Palette,
};
use crate::{
    finding::Finding,
    flow::{Frozen, Grouping, Interval},
    labels::Labels,
    signal::metrics,
    snapshot::{Snapshot, build::Sort, redact::Redactor},
};

mod circles;
mod keys;

/// What an interval brings.
#[derive(Debug)]
pub struct Shot {
    /// The interval as outputs have it: the largest flows, the rest summed up.
    pub snapshot: Snapshot,
    /// All flows one by one; what the table itself summed up stands in `other`.
    pub interval: Interval,
    /// Names of what is told by number.
    pub labels: Labels,
    /// Gives pseudonyms, where outputs have them: the snapshot has its own.
    pub redactor: Option<Redactor>,
    /// What is found now; none where nobody looked anew.
    pub findings: Option<Vec<Finding>>,
    /// Of how many nothing can be said now.
    pub withheld: usize,
}

/// A key, or several that mean one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called what stands on them")]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    BackTab,
    /// ^C.
    Interrupt,
}

/// What a key asks the edge for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To end the run.
    Quit,
    /// To write the interval that is shown to a file.
    Dump,
}

/// What is known before the first interval.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Name of the node.
    pub node: String,
    /// Kernel release.
    pub kernel: String,
    /// Time between two intervals.
    pub interval: Duration,
    /// What makes flows one row at first.
    pub by: Grouping,
    /// Their order at first.
    pub sort: Sort,
    /// Whether colours are wanted.
    pub colours: bool,
}

/// A row that was opened, and what it did since.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) id: RowId,
    /// Who and what it is as it was heard of last, with all that it did.
    pub(super) sum: Frozen,
    /// Intervals that are in it.
    pub(super) intervals: u64,
    /// It was in the last interval.
    pub(super) is_active: bool,
}

/// What comes while the screen stands still.
#[derive(Debug)]
struct Later {
    /// The newest.
    rows: Option<Rows>,
    history: History,
    drops: Trends,
    findings: Formed,
    opened: Option<Opened>,
}

/// What is shown instead of a list.
#[derive(Debug, Default)]
pub(super) enum Open {
    #[default]
    Nothing,
    Row(Box<Opened>),
    /// The finding that is chosen.
    Finding(Box<Finding>),
    Help,
}

/// All of it.
#[derive(Debug)]
pub struct State {
    pub(super) beginning: Beginning,
    pub(super) palette: Palette,
    pub(super) order: Order,
    /// Place of the metric whose percentiles are shown, in `metrics`.
    pub(super) metric: usize,
    pub(super) rows: Option<Rows>,
    /// While the screen stands still.
    later: Option<Box<Later>>,
    pub(super) history: History,
    pub(super) drops: Trends,
    pub(super) findings: Formed,
    /// Place of the pane in [`super::PANES`].
    pub(super) pane: usize,
    /// The row that keys act on; none for the first.
    chosen: Option<RowId>,
    /// The finding that keys act on.
    pub(super) chosen_finding: usize,
    /// Lines above the first one that is shown, of what is no list.
    pub(super) scrolled: usize,
    pub(super) open: Open,
    /// A filter that is being typed.
    pub(super) typing: Option<String>,
    /// Something to be said, until the next key.
    pub(super) message: Option<String>,
}

impl State {
    /// Before the first interval.
    #[must_use]
    pub fn new(beginning: Beginning) -> Self {
        let order = Order { by: beginning.by, sort: beginning.sort, filter: String::new() };
        let of_sort = |name: &str| metrics().position(|(_, _, metric)| metric.name == name);
        let first = metrics().position(|(_, _, metric)| metric.columns).unwrap_or(0);
        let metric = match beginning.sort {
            Sort::Samples(name) | Sort::P50(name) | Sort::P99(name) | Sort::Max(name) => {
                of_sort(name).unwrap_or(first)
            }
            Sort::Count(_) | Sort::Srtt | Sort::RttMin => first,
        };
        Self {
            palette: Palette { colours: beginning.colours },
            beginning,
            order,
            metric,
            rows: None,
            later: None,
            history: History::new(),
            drops: Trends::default(),
            findings: Formed::default(),
            pane: 0,
            chosen: None,
            chosen_finding: 0,
            scrolled: 0,
            open: Open::Nothing,
            typing: None,
            message: None,
        }
    }

    /// An interval has passed.
    pub fn take(&mut self, mut shot: Shot) {
        let opened = match &mut self.open {
            Open::Row(opened) => Some(&mut **opened),
            Open::Nothing | Open::Finding(_) | Open::Help => None,
        };
        let (findings, drops, history, opened, to) = match &mut self.later {
            None => {
                (&mut self.findings, &mut self.drops, &mut self.history, opened, &mut self.rows)
            }
            Some(later) => (
                &mut later.findings,
                &mut later.drops,
                &mut later.history,
                later.opened.as_mut(),
                &mut later.rows,
            ),
        };
        findings.take(&shot.snapshot, shot.findings.take(), shot.withheld);
        drops.take(&super::drops::by_reason(&shot.snapshot));
        let rows = Rows::new(shot, &self.order);
        history.take(rows.iter(), opened.as_ref().map(|opened| &opened.id));
        if let Some(opened) = opened {
            opened.take(rows.find(&opened.id));
        }
        *to = Some(rows);
    }

    /// Whether the screen stands still.
    pub(super) const fn is_paused(&self) -> bool {
        self.later.is_some()
    }

    /// The interval that is shown.
    #[must_use]
    pub fn shown(&self) -> Option<&Shot> {
        self.rows.as_ref().map(|rows| &rows.shot)
    }

    /// Says something below, until the next key.
    pub fn say(&mut self, line: String) {
        self.message = Some(line);
    }

    /// Place of the row that keys act on, among those shown.
    pub(super) fn cursor(&self) -> usize {
        let Some(rows) = &self.rows else { return 0 };
        let Some(chosen) = &self.chosen else { return 0 };
        rows.iter().position(|row| RowId::of(row) == *chosen).unwrap_or(0)
    }
}

impl Opened {
    /// An interval has passed, in which it did that.
    fn take(&mut self, row: Option<&Frozen>) {
        self.intervals += 1;
        self.is_active = row.is_some();
        let Some(row) = row else { return };
        let before = std::mem::replace(&mut self.sum, row.clone());
        self.sum.merge(&before);
    }
}
