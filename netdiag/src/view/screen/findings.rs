//! Findings as they form: how old each is, and where its deciding number goes.

use std::collections::VecDeque;

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
    view::{
        diagnose::{self, valued},
        table::conntrack::{passed, seconds},
    },
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
    /// How many seconds were watched when it was told first.
    first: f64,
    /// Likewise, when it held last.
    last: f64,
    values: VecDeque<f64>,
}

/// All that were told. Times are seconds of all intervals up to then, whose lengths are true also where the node's clock is
/// set: what it showed before is no time to reckon with then.
#[derive(Clone, Debug, Default)]
pub(super) struct Formed {
    all: Vec<One>,
    /// The end of the last interval; none before the first.
    now: Option<f64>,
    /// The end of the interval up to which rules have looked.
    looked: Option<f64>,
    /// Of how many nothing could be said in the last interval.
    withheld: usize,
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
        let now = self.now.unwrap_or(0.0) + seconds(snapshot).unwrap_or(0.0);
        self.now = Some(now);
        let Some(findings) = findings else { return };
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.all);
        for finding in findings {
            let at = before.iter().position(|one| finding.is_again(&one.finding));
            // Both are told by the clock as it is now: what rules look at begins anew where it is set.
            let last = now - passed(&finding.end, &snapshot.end).unwrap_or(0.0);
            let value = finding.evidence.first().map(|evidence| evidence.value);
            let mut one = match at {
                Some(at) => {
                    let before = before.remove(at);
                    let start = before.finding.start.clone();
                    One { finding: Finding { start, ..finding }, last, ..before }
                }
                None => One { finding, first: now, last, values: VecDeque::new() },
            };
            if now - last <= STAYS_S
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
        self.all.retain(|one| now - one.last < REMEMBERED_S);
        // Their order is kept: causes stand before what they cause.
        let (holding, over): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.all).into_iter().partition(|one| now - one.last <= STAYS_S);
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
        self.looked.is_some_and(|looked| looked - one.last <= STAYS_S)
    }

    /// One in a line: how bad, how old, where it goes, what.
    fn line(&self, one: &One, columns: usize, palette: Palette) -> Line<'static> {
        let Finding { severity, id, scope, title, evidence, .. } = &one.finding;
        let now = self.now.unwrap_or(one.last);
        let (age, mark, look) = if self.holds(one) {
            let age = age(now - one.first);
            (age, Trend::of(&one.values).mark(), palette.severity(*severity))
        } else {
            (format!("over {}", age(now - one.last)), "", palette.aside())
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
        let Some(watched) = self.now else {
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
    use jiff::Timestamp;

    use super::*;
    use crate::{finding::Scope, view::sample, watched::kit};

    /// Takes an interval that lasts from one second of the clock to another, and has this found in it.
    fn take(formed: &mut Formed, [start, end]: [i64; 2], ids: &[&str]) {
        let time = |second| Timestamp::from_second(second).expect("a time").to_string();
        let quiet: Snapshot = sample::read("quiet");
        let snapshot = Snapshot { start: time(start), end: time(end), ..quiet };
        let of = |id: &&str| {
            let scope = Scope::node("node-1");
            let finding = Finding::new(&kit::watched(&[]), Severity::Warning, scope, "it is so");
            Finding { id: (*id).to_owned(), end: time(end), ..finding }
        };
        formed.take(&snapshot, Some(ids.iter().map(of).collect()), 0);
    }

    /// How old each is, as it is shown.
    fn ages(formed: &Formed) -> Vec<String> {
        let age = |one: &One| {
            let line = formed.line(one, 80, Palette { colours: false }).to_string();
            let words: Vec<_> = line.split_whitespace().skip(1).take(2).collect();
            if words[0] == "over" { words.join(" ") } else { words[0].to_owned() }
        };
        formed.all.iter().map(age).collect()
    }

    #[test]
    fn a_clock_that_is_set_ages_nothing() {
        const BEGAN: i64 = 1_795_000_000;
        for set in [0, 3_600, -3_600] {
            let (mut formed, mut none) = (Formed::default(), Formed::default());
            assert_eq!(none.none(), "watching: findings form as intervals end");
            for nth in 0..40 {
                // An interval is told by the clock as it is at its end.
                let start = BEGAN + nth + if nth < 20 { 0 } else { set };
                let ids: &[&str] =
                    if nth < 10 { &["before", "all-the-time"] } else { &["all-the-time"] };
                take(&mut formed, [start, start + 1], ids);
                take(&mut none, [start, start + 1], &[]);
            }
            assert_eq!(none.none(), "no finding in 40s", "{set}");
            assert_eq!(ages(&formed), ["39s", "39s"], "{set}");
            assert_eq!(formed.holding(), 2, "{set}");
            let start = BEGAN + 40 + set;
            take(&mut formed, [start, start + 50], &["all-the-time"]);
            assert_eq!(ages(&formed), ["89s", "over 80s"], "{set}");
            assert_eq!(formed.holding(), 1, "{set}");
            take(&mut formed, [start + 50, start + 570], &["all-the-time"]);
            assert_eq!(ages(&formed), ["10m"], "what is over is forgotten: {set}");
        }
    }

    #[test]
    fn what_held_last_before_the_end_is_as_old_as_that() {
        let mut formed = Formed::default();
        take(&mut formed, [1_000, 1_100], &["one"]);
        assert_eq!(formed.holding(), 1);
        for (end, held) in [("1970-01-01T00:17:20Z", 1), ("1970-01-01T00:17:10Z", 0)] {
            let mut one = formed.clone();
            let finding = one.all.remove(0).finding;
            let quiet: Snapshot = sample::read("quiet");
            let [start, now] = ["1970-01-01T00:18:10Z", "1970-01-01T00:18:20Z"].map(str::to_owned);
            let snapshot = Snapshot { start, end: now, ..quiet };
            let finding = Finding { end: end.to_owned(), ..finding };
            one.take(&snapshot, Some(vec![finding]), 0);
            assert_eq!(one.holding(), held, "{end}");
        }
    }

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
