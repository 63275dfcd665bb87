//! What the screen shows: a state that takes keys and intervals, and knows neither clock nor terminal.

use std::time::Duration;

use ratatui::layout::Size;

use super::{
    Body, PANES, farthest,
    findings::Formed,
    history::{History, RowId, Trends},
    rows::{Order, Rows},
    style::Palette,
};
use crate::{
    finding::Finding,
    flow::{Frozen, Grouping, Interval},
    labels::Labels,
    signal::{counts, metrics},
    snapshot::{Snapshot, build::Sort, redact::Redactor},
};

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
    /// Place of the pane in [`PANES`].
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

/// What `s` goes through.
fn sorts(metric: usize) -> Vec<Sort> {
    let mut sorts = vec![Sort::default()];
    if let Some((_, _, metric)) = metrics().nth(metric) {
        sorts.extend([Sort::Samples(metric.name), Sort::P99(metric.name), Sort::Max(metric.name)]);
    }
    for (name, sort) in Sort::all() {
        let is_group = |(_, _, count): &(_, _, &crate::signal::Count)| {
            count.column && count.group() == Some(&name)
        };
        if matches!(sort, Sort::Count(_)) && counts().any(|count| is_group(&count)) {
            sorts.push(sort);
        }
    }
    sorts.extend([Sort::Count("bytes_sent"), Sort::Count("bytes_received"), Sort::RttMin]);
    sorts
}

/// What `g` goes through.
const GROUPINGS: [Grouping; 7] = [
    Grouping::Flow,
    Grouping::Peer,
    Grouping::Backend,
    Grouping::Process,
    Grouping::Container,
    Grouping::Pod,
    Grouping::Port,
];

/// The one `steps` behind it in a circle; the first where it is none of them.
fn turned<T: PartialEq + Copy>(all: &[T], from: T, steps: isize) -> T {
    let len = all.len().cast_signed();
    let at = all
        .iter()
        .position(|one| *one == from)
        .map_or(0, |at| (at.cast_signed() + steps).rem_euclid(len).cast_unsigned());
    all[at]
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
        findings.take(&shot.snapshot, shot.findings.take());
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

    /// A key was pressed on a screen of that size.
    pub fn press(&mut self, key: Key, size: Size) -> Option<Request> {
        self.message = None;
        if key == Key::Interrupt {
            return Some(Request::Quit);
        }
        if let Some(typed) = self.typing.take() {
            self.edit(typed, key);
            return None;
        }
        let page = usize::from(size.height / 2).max(1).cast_signed();
        match key {
            Key::Char('q') | Key::Interrupt => return Some(Request::Quit),
            Key::Char('w') => return self.dump(),
            Key::Char('?') => self.show(Open::Help),
            Key::Char('p' | ' ') => self.pause(),
            Key::Char('/') => self.typing = Some(self.order.filter.clone()),
            Key::Char('s') => self.sort(1),
            Key::Char('S') => self.sort(-1),
            Key::Char('g') => self.group(1),
            Key::Char('G') => self.group(-1),
            Key::Char('m') => self.measure(1),
            Key::Char('M') => self.measure(-1),
            Key::Char(digit @ '1'..='9') => {
                let pane = digit as usize - '1' as usize;
                if pane < PANES.len() {
                    self.go_to(pane);
                }
            }
            Key::Tab => self.go_to((self.pane + 1) % PANES.len()),
            Key::BackTab => self.go_to((self.pane + PANES.len() - 1) % PANES.len()),
            Key::Escape | Key::Backspace => self.back(),
            Key::Enter => self.enter(),
            Key::Up | Key::Char('k') => self.move_by(-1, size),
            Key::Down | Key::Char('j') => self.move_by(1, size),
            Key::PageUp => self.move_by(-page, size),
            Key::PageDown => self.move_by(page, size),
            Key::Home => self.move_by(isize::MIN / 2, size),
            Key::End => self.move_by(isize::MAX / 2, size),
            Key::Char(_) => {}
        }
        None
    }

    fn dump(&mut self) -> Option<Request> {
        if self.rows.is_some() {
            return Some(Request::Dump);
        }
        self.say("nothing is written: the first interval has not ended".to_owned());
        None
    }

    fn edit(&mut self, mut typed: String, key: Key) {
        match key {
            Key::Enter => {
                self.order.filter = typed.to_lowercase();
                self.rearrange();
                return;
            }
            Key::Escape => return,
            Key::Backspace => {
                typed.pop();
            }
            Key::Char(c) if !c.is_control() && typed.len() < 100 => typed.push(c),
            _ => {}
        }
        self.typing = Some(typed);
    }

    fn show(&mut self, open: Open) {
        self.open = open;
        self.scrolled = 0;
    }

    fn go_to(&mut self, pane: usize) {
        self.pane = pane;
        self.show(Open::Nothing);
    }

    /// Closes what is open, then takes the filter away.
    fn back(&mut self) {
        if !matches!(self.open, Open::Nothing) {
            self.show(Open::Nothing);
        } else if !self.order.filter.is_empty() {
            self.order.filter.clear();
            self.rearrange();
        }
    }

    fn pause(&mut self) {
        let Some(later) = self.later.take() else {
            self.later = Some(Box::new(Later {
                rows: None,
                history: self.history.clone(),
                drops: self.drops.clone(),
                findings: self.findings.clone(),
                opened: self.opened().cloned(),
            }));
            return;
        };
        let Later { rows, history, drops, findings, opened } = *later;
        (self.history, self.drops, self.findings) = (history, drops, findings);
        if let (Open::Row(shown), Some(opened)) = (&mut self.open, opened)
            && shown.id == opened.id
        {
            **shown = opened;
        }
        if let Some(mut rows) = rows {
            rows.arrange(&self.order);
            self.rows = Some(rows);
        }
    }

    fn opened(&self) -> Option<&Opened> {
        match &self.open {
            Open::Row(opened) => Some(opened),
            Open::Nothing | Open::Finding(_) | Open::Help => None,
        }
    }

    fn sort(&mut self, steps: isize) {
        self.order.sort = turned(&sorts(self.metric), self.order.sort, steps);
        self.rearrange();
    }

    fn group(&mut self, steps: isize) {
        if matches!(self.open, Open::Row(_)) {
            // There is no such row any more.
            self.show(Open::Nothing);
        }
        self.order.by = turned(&GROUPINGS, self.order.by, steps);
        self.history.clear();
        if let Some(later) = &mut self.later {
            later.history.clear();
        }
        self.chosen = None;
        self.rearrange();
    }

    /// Another metric; an order by the one before is one by it.
    fn measure(&mut self, steps: isize) {
        let all: Vec<_> = metrics().map(|(_, _, metric)| metric.name).collect();
        let next = turned(&all, all[self.metric], steps);
        self.metric = all.iter().position(|name| *name == next).unwrap_or(0);
        let sort = match self.order.sort {
            Sort::Samples(_) => Sort::Samples(next),
            Sort::P50(_) => Sort::P50(next),
            Sort::P99(_) => Sort::P99(next),
            Sort::Max(_) => Sort::Max(next),
            other => other,
        };
        if sort != self.order.sort {
            self.order.sort = sort;
            self.rearrange();
        }
    }

    fn rearrange(&mut self) {
        if let Some(rows) = &mut self.rows {
            rows.arrange(&self.order);
        }
    }

    /// Whether there are rows to choose from.
    fn is_list(&self) -> bool {
        matches!((&self.open, &PANES[self.pane].body), (Open::Nothing, Body::Rows(_)))
    }

    /// Place of the row that keys act on, among those shown.
    pub(super) fn cursor(&self) -> usize {
        let Some(rows) = &self.rows else { return 0 };
        let Some(chosen) = &self.chosen else { return 0 };
        rows.iter().position(|row| RowId::of(row) == *chosen).unwrap_or(0)
    }

    fn move_by(&mut self, lines: isize, size: Size) {
        let moved = |from: usize, most: usize| from.saturating_add_signed(lines).min(most);
        if !self.is_list() {
            self.scrolled = moved(self.scrolled, farthest(self, size));
        } else if self.pane == 0 {
            let Some(rows) = &self.rows else { return };
            let at = moved(self.cursor(), rows.len().saturating_sub(1));
            // The first stays the first, whichever flow that is.
            self.chosen = (at > 0).then(|| rows.iter().nth(at).map(RowId::of)).flatten();
        } else {
            let most = self.findings.len().saturating_sub(1);
            self.chosen_finding = moved(self.chosen_finding.min(most), most);
        }
    }

    fn enter(&mut self) {
        if !self.is_list() {
            return;
        }
        if self.pane == 0 {
            let row = self.rows.as_ref().and_then(|rows| rows.iter().nth(self.cursor()));
            if let Some(row) = row {
                let mut opened = Opened {
                    id: RowId::of(row),
                    sum: Frozen::default(),
                    intervals: 0,
                    is_active: false,
                };
                opened.take(Some(row));
                self.chosen = Some(opened.id.clone());
                if let Some(later) = &mut self.later {
                    later.opened = Some(opened.clone());
                }
                self.show(Open::Row(Box::new(opened)));
            }
        } else if let Some(finding) = self.findings.get(self.chosen_finding) {
            self.show(Open::Finding(Box::new(finding.clone())));
        }
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
