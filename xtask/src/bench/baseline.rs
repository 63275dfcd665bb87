//! What netdiag was last accepted to cost, and what it may never cost, by the instructions of a guest.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::round::Spread;
use crate::workspace;

/// Costs, by series of the kernel and what is traced: a source of the signal `send`, another signal, or `all`.
type Costs = BTreeMap<String, BTreeMap<String, f64>>;

/// Those that were accepted.
const ACCEPTED: &str = "benches/icount.json";
/// Those that nothing may be over, whatever was accepted.
const GOALS: &str = "benches/goals.json";

/// By how much more than accepted a cost is worse.
const WORSE: f64 = 0.05;
/// Instructions by which two builds that are alike may differ.
const ALIKE: f64 = 10.0;

/// A cost beside the one that was accepted and the one that is the goal.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    cost: f64,
    /// In the round in which it was least. Sends cost the same in each; where packets are lost, an event takes so many
    /// instructions of the kernel's, which differ, that what is added to them differs by over a twentieth.
    least: f64,
    accepted: Option<f64>,
    goal: Option<f64>,
}

impl Held {
    /// Holds a cost against both files; with `NETDIAG_BLESS` its median is the accepted one from now on, unless it
    /// misses its goal.
    pub(super) fn new(series: &str, traced: &str, added: &Spread) -> Result<Self> {
        let (cost, least) = (added.median, added.least);
        let of = |all: &Costs| all.get(series).and_then(|series| series.get(traced)).copied();
        let (mut accepted, goal) = (read(ACCEPTED)?, of(&read(GOALS)?));
        let is_met = goal.is_none_or(|goal| cost <= goal);
        if is_met && env::var_os("NETDIAG_BLESS").is_some() {
            let series = accepted.entry(series.to_owned()).or_default();
            series.insert(traced.to_owned(), cost.round());
            fs::write(path(ACCEPTED), serde_json::to_string_pretty(&accepted)? + "\n")?;
        }
        Ok(Self { cost, least, accepted: of(&accepted), goal })
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let goal = self.goal.map_or(String::new(), |goal| format!(", the goal is {goal:.0}"));
        let line = match self.accepted {
            Some(accepted) => {
                format!("{:.0} instructions of {accepted:.0} accepted{goal}", self.cost)
            }
            None => format!("{:.0} instructions, nothing is accepted{goal}", self.cost),
        };
        match self.accepted.is_none_or(|accepted| accepted - self.cost > slack(accepted)) {
            true => line + ": NETDIAG_BLESS=1 holds it to that from now on",
            false => line,
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({ "accepted": self.accepted, "goal": self.goal })
    }

    /// That it may grow unnoticed, if so.
    pub(super) fn unheld(&self) -> Option<String> {
        self.accepted.is_none().then(|| self.line())
    }

    /// Why it is not to be, if so.
    pub(super) fn worse(&self) -> Option<String> {
        let line = |what| format!("{:.0} instructions, {what}", self.cost);
        if let Some(goal) = self.goal.filter(|&goal| self.cost > goal) {
            return Some(line(format!("the goal is {goal:.0}")));
        }
        let worse = |accepted: &f64| self.least > accepted + slack(*accepted);
        let accepted = self.accepted.filter(worse)?;
        Some(line(format!("{accepted:.0} are accepted")))
    }
}

/// What a cost may differ by from the accepted one.
fn slack(accepted: f64) -> f64 {
    (accepted * WORSE).max(ALIKE)
}

fn path(file: &str) -> PathBuf {
    workspace::root().join(file)
}

fn read(file: &str) -> Result<Costs> {
    let text = fs::read_to_string(path(file)).with_context(|| format!("cannot read {file}"))?;
    serde_json::from_str(&text).with_context(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_more_is_not_worse() {
        let held =
            |cost, accepted| Held { cost, least: cost, accepted: Some(accepted), goal: None };
        assert_eq!(held(1050.0, 1000.0).worse(), None);
        assert_eq!(held(1051.0, 1000.0).worse().unwrap(), "1051 instructions, 1000 are accepted");
        assert_eq!(held(9.0, 0.0).worse(), None);
        assert!(held(11.0, 0.0).worse().is_some());
        assert!(held(900.0, 1000.0).line().ends_with("from now on"));
        assert!(!held(960.0, 1000.0).line().ends_with("from now on"));
        let differs = Held { least: 1049.0, ..held(1090.0, 1000.0) };
        assert_eq!(differs.worse(), None, "not in each of its rounds");
    }

    #[test]
    fn what_was_never_accepted_may_grow_unnoticed() {
        let new = Held { cost: 5.0, least: 5.0, accepted: None, goal: None };
        assert_eq!(new.worse(), None);
        assert!(new.unheld().unwrap().starts_with("5 instructions, nothing is accepted: "));
        let far = Held { goal: Some(3000.0), ..new };
        assert!(far.unheld().unwrap().contains("accepted, the goal is 3000: "));
        let held = Held { accepted: Some(5.0), ..far };
        assert_eq!(held.unheld(), None);
    }

    #[test]
    fn nothing_is_over_its_goal_however_near_it_is_to_what_was_accepted() {
        let held = |cost, accepted| Held { cost, least: cost, accepted, goal: Some(650.0) };
        assert_eq!(held(650.0, Some(639.0)).worse(), None);
        let worse = "651 instructions, the goal is 650";
        assert_eq!(held(651.0, Some(639.0)).worse().unwrap(), worse);
        assert_eq!(held(651.0, None).worse().unwrap(), worse);
        // And the other way round.
        assert!(held(640.0, Some(600.0)).worse().unwrap().ends_with("600 are accepted"));
    }

    #[test]
    fn the_tested_kernels_have_baselines_that_meet_their_goals() {
        let accepted = read(ACCEPTED).unwrap();
        assert!(accepted["6.12"]["kprobe"] > accepted["6.12"]["fexit"]);
        let has_sends = |series: &str| accepted[series].contains_key("fexit");
        assert!(["5.10", "6.1", "6.12", "7.2"].into_iter().all(has_sends));
        for (series, goals) in read(GOALS).unwrap() {
            for (traced, goal) in goals {
                let accepted = accepted[&series].get(&traced);
                assert!(
                    accepted.is_some_and(|&cost| cost <= goal),
                    "{series} {traced}: {accepted:?} accepted, the goal is {goal}"
                );
            }
        }
    }
}
