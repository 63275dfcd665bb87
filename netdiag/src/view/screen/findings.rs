//! Findings as they form: how old each is, and where its deciding number goes.

use std::collections::VecDeque;

use jiff::Timestamp;
use ratatui::text::{Line, Span};

use super::{
    Body, Canvas, Pane,
    state::State,
    style::{Palette, line, span, styled},
};
use crate::{
    diagnosis::WINDOW_S,
    finding::{Finding, Severity},
    format::{cut, sanitised, width},
    snapshot::Snapshot,
    view::diagnose::{self, valued},
};

pub(super) const PANE: Pane = Pane {
    name: "findings",
    help: "what is wrong, how old it is and where it goes; Enter tells all of it",
    body: Body::Rows(draw),
};

/// Looks that a trend is made of.
const LOOKS: usize = 10;
/// By which part a number must have changed to have a trend.
const CHANGE: f64 = 0.1;
/// A finding that was not told for so many seconds holds no more: rules rest behind a window.
const STAYS_S: f64 = WINDOW_S;
/// And it is shown for so many seconds.
const REMEMBERED_S: f64 = 600.0;

/// Where the number goes that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trend {
    New,
    Up,
    Down,
    Level,
}

impl Trend {
    fn of(values: &VecDeque<f64>) -> Self {
        let (Some(first), Some(last)) = (values.front(), values.back()) else { return Self::New };
        if values.len() < 3 {
            Self::New
        } else if *last > first * (1.0 + CHANGE) {
            Self::Up
        } else if *last < first * (1.0 - CHANGE) {
            Self::Down
        } else {
            Self::Level
        }
    }

    const fn mark(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Up => "↑",
            Self::Down => "↓",
            Self::Level => "→",
        }
    }
}

/// A finding, since it was told first.
#[derive(Clone, Debug)]
struct One {
    finding: Finding,
    first: Timestamp,
    /// When it held last.
    last: Timestamp,
    values: VecDeque<f64>,
}

/// All that were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Formed {
    all: Vec<One>,
    began: Option<Timestamp>,
    now: Option<Timestamp>,
    /// The end of the interval up to which rules have looked.
    looked: Option<Timestamp>,
    /// Of how many nothing could be said in the last interval.
    withheld: usize,
}

/// Seconds from one to the other.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Seconds between two of which neither need be the later one: a clock that was set back makes what was lie ahead.
fn apart(one: Timestamp, other: Timestamp) -> f64 {
    seconds(one, other).abs()
}

impl Formed {
    /// An interval has passed; what is found now, in its order, where rules have looked. Of so many nothing can be
    /// said (`withheld`).
    pub(super) fn take(
        &mut self,
        snapshot: &Snapshot,
        findings: Option<Vec<Finding>>,
        withheld: usize,
    ) {
        self.withheld = withheld;
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let Some(now) = time(&snapshot.end) else { return };
        self.began = self.began.or_else(|| time(&snapshot.start));
        self.now = Some(now);
        let Some(findings) = findings else { return };
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.all);
        for finding in findings {
            let at = before.iter().position(|one| finding.is_again(&one.finding));
            let last = time(&finding.end).unwrap_or(now);
            let value = finding.evidence.first().map(|evidence| evidence.value);
            let mut one = match at {
                Some(at) => {
                    let before = before.remove(at);
                    let start = before.finding.start.clone();
                    One { finding: Finding { start, ..finding }, last, ..before }
                }
                None => One { finding, first: now, last, values: VecDeque::new() },
            };
            if apart(last, now) <= STAYS_S
                && let Some(value) = value
            {
                if one.values.len() == LOOKS {
                    one.values.pop_front();
                }
                one.values.push_back(value);
            }
            self.all.push(one);
        }
        // What is not told now was told before.
        self.all.extend(before);
        self.all.retain(|one| apart(one.last, now) < REMEMBERED_S);
        // Their order is kept: causes stand before what they cause.
        let (holding, over): (Vec<_>, Vec<_>) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|one| apart(one.last, now) <= STAYS_S);
        self.all.extend(holding.into_iter().chain(over));
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Finding> {
        self.all.get(at).map(|one| &one.finding)
    }

    /// How many hold.
    fn holding(&self) -> usize {
        self.all.iter().filter(|one| self.holds(one)).count()
    }

    fn holds(&self, one: &One) -> bool {
        self.looked.is_some_and(|looked| apart(one.last, looked) <= STAYS_S)
    }

    /// Seconds since the first interval began.
    fn watched(&self) -> Option<f64> {
        Some(seconds(self.began?, self.now?))
    }

    /// One in a line: how bad, how old, where it goes, what.
    fn line(&self, one: &One, columns: usize, palette: Palette) -> Line<'static> {
        let Finding { severity, id, scope, title, evidence, .. } = &one.finding;
        let now = self.now.unwrap_or(one.last);
        let (age, mark, look) = if self.holds(one) {
            let age = age(seconds(one.first, now));
            (age, Trend::of(&one.values).mark(), palette.severity(*severity))
        } else {
            (format!("over {}", age(seconds(one.last, now))), "", palette.aside())
        };
        let value = evidence.first().map(|first| format!(" {}", valued(first.value, first.unit)));
        let head = format!("{:<8} {age:>5} {mark:<3} ", severity.name());
        let rest = format!("{id} ({}){}: {title}", scope.name, value.unwrap_or_default());
        let rest = cut(&sanitised(&rest), columns.saturating_sub(width(&head)));
        let text = if self.holds(one) { palette.plain() } else { look };
        Line::from(vec![span(&head, look), Span::styled(rest, text)])
    }

    /// What stands where there is none. That nothing was found is not that nothing is wrong.
    fn none(&self) -> String {
        let Some(watched) = self.watched() else {
            return "watching: findings form as intervals end".to_owned();
        };
        format!("no finding in {}{}", age(watched), self.unseen("; "))
    }

    /// How many could not be looked for, behind what else is said; nothing where all were.
    fn unseen(&self, before: &str) -> String {
        match self.withheld {
            0 => String::new(),
            n => format!("{before}{n} could not be looked for: press 7"),
        }
    }

    /// The first so many of them, for the head of the screen.
    pub(super) fn summary(
        &self,
        columns: usize,
        most: usize,
        palette: Palette,
    ) -> Vec<Line<'static>> {
        if self.all.is_empty() {
            return vec![styled(&self.none(), palette.aside())];
        }
        let shown = if self.all.len() > most { most.saturating_sub(1) } else { most };
        let mut lines: Vec<_> =
            self.all.iter().take(shown).map(|one| self.line(one, columns, palette)).collect();
        if self.all.len() > shown {
            let more = self.all.len() - shown;
            let holding = self.holding();
            let text =
                format!("and {more} more ({holding} hold now); press 2{}", self.unseen("; "));
            lines.push(styled(&cut(&text, columns), palette.aside()));
        } else if self.withheld > 0 && lines.len() < most {
            lines.push(styled(&self.unseen(""), palette.aside()));
        }
        lines
    }
}

/// A time in seconds, short.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3_600),
    }
}

fn draw(state: &State, canvas: &mut Canvas<'_>) {
    let Formed { all, .. } = &state.findings;
    if all.is_empty() {
        canvas.put(&line(&state.findings.none()));
        return;
    }
    let chosen = state.chosen_finding.min(all.len() - 1);
    let room = canvas.left().saturating_sub(1).max(1);
    let unseen = state.findings.unseen("; ");
    let heading = format!("{:<8} {:>5} {:<3} FINDING{unseen}", "SEVERITY", "AGE", "");
    canvas.put(&styled(&cut(&heading, canvas.columns()), state.palette.title()));
    for (at, one) in all.iter().enumerate().skip(chosen / room * room).take(room) {
        let line = state.findings.line(one, canvas.columns(), state.palette);
        canvas.put_row(&line, at == chosen);
    }
}

/// All that a finding says.
pub(super) fn whole(finding: &Finding, columns: usize, palette: Palette) -> Vec<Line<'static>> {
    let mut lines: Vec<_> =
        diagnose::finding(finding, columns).iter().map(|text| line(text)).collect();
    if let Some(first) = lines.first_mut() {
        let style = match finding.severity {
            Severity::Critical => palette.bad(),
            other => palette.severity(other),
        };
        *first = first.clone().style(style);
    }
    lines.push(Line::default());
    let seen = format!("seen from {} to {}", finding.start, finding.end);
    lines.push(styled(&cut(&seen, columns), palette.aside()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trends_need_a_change() {
        let of = |values: &[f64]| Trend::of(&values.iter().copied().collect());
        assert_eq!(of(&[]), Trend::New);
        assert_eq!(of(&[1.0, 9.0]), Trend::New);
        assert_eq!(of(&[1.0, 1.0, 1.2]), Trend::Up);
        assert_eq!(of(&[1.0, 1.0, 1.05]), Trend::Level);
        assert_eq!(of(&[1.0, 1.0, 0.8]), Trend::Down);
    }

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in
            [(0.4, "0s"), (99.4, "99s"), (100.0, "1m"), (5_999.0, "99m"), (7_300.0, "2h")]
        {
            assert_eq!(age(seconds), expected);
        }
    }
}
