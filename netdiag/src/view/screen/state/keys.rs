//! What keys do to what the screen shows.

use ratatui::layout::Size;

use super::{
    Key, Later, Open, Opened, Request, State,
    circles::{GROUPINGS, sorts, turned},
};
use crate::{
    flow::Frozen,
    signal::metrics,
    snapshot::build::Sort,
    view::screen::{Body, PANES, farthest, history::RowId},
};

impl State {
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
