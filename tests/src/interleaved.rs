//! Measurements by turns: a machine is never the same for long, so what is compared is measured side by side.

use std::{collections::BTreeMap, mem};

use anyhow::Result;
use serde::Serialize;

/// Times that a measurement is tried until it is steady.
const TRIES: usize = 5;

/// A measurement with something, and those without it before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Without it, before.
    pub before: f64,
    /// With it.
    pub traced: f64,
    /// Without it, after.
    pub after: f64,
}

impl Round {
    /// By which part of the smaller one those before and after differ.
    #[must_use]
    pub fn unsteadiness(&self) -> f64 {
        (self.after - self.before).abs() / self.after.min(self.before)
    }
}

/// In which order so many things have their turns in a round: who is first changes from round to round.
pub fn order(round: usize, things: usize) -> impl Iterator<Item = usize> {
    (0..things).map(move |at| (at + round) % things)
}

/// Measures each of some things once a round, between two measurements of none of them (`None`), and gives the rounds
/// of each by its name. Where those two differ by more than `steady`, a part of the smaller one, it is measured again:
/// the machine has become another between them, since other work began on its processors or ended.
///
/// # Errors
/// Those of `measure`.
pub fn between(
    names: &[&str],
    rounds: usize,
    steady: f64,
    mut measure: impl FnMut(Option<usize>) -> Result<f64>,
) -> Result<BTreeMap<String, Vec<Round>>> {
    let mut all: BTreeMap<String, Vec<Round>> = BTreeMap::new();
    let mut before = measure(None)?;
    for round in 0..rounds {
        for at in order(round, names.len()) {
            let mut tried = 0;
            let found = loop {
                let traced = measure(Some(at))?;
                let after = measure(None)?;
                let found = Round { before: mem::replace(&mut before, after), traced, after };
                tried += 1;
                if found.unsteadiness() <= steady {
                    break found;
                }
                if tried == TRIES {
                    eprintln!(
                        "{}: without it {:.0} before and {:.0} after, at the last of {TRIES} tries as well: the \
                         machine was busy, this round says little",
                        names[at], found.before, found.after
                    );
                    break found;
                }
            };
            all.entry(names[at].to_owned()).or_default().push(found);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_measured_between_two_without_and_who_is_first_changes() -> Result<()> {
        let (mut asked, mut next) = (Vec::new(), 0.0);
        let rounds = between(&["a", "b"], 2, f64::INFINITY, |what| {
            asked.push(what);
            next += 1.0;
            Ok(next)
        })?;
        let [a, b, none] = [Some(0), Some(1), None];
        assert_eq!(asked, [none, a, none, b, none, b, none, a, none]);
        let round = |before| Round { before, traced: before + 1.0, after: before + 2.0 };
        assert_eq!(rounds["a"], [round(1.0), round(7.0)]);
        assert_eq!(rounds["b"], [round(3.0), round(5.0)]);
        Ok(())
    }

    #[test]
    fn what_was_not_steady_is_measured_again_and_kept_at_last() -> Result<()> {
        let mut without = [100.0, 110.0, 111.0].into_iter();
        let once = between(&["a"], 1, 0.03, |what| match what {
            Some(_) => Ok(150.0),
            None => Ok(without.next().unwrap_or(0.0)),
        })?;
        assert_eq!(once["a"], [Round { before: 110.0, traced: 150.0, after: 111.0 }]);
        let mut times = 0;
        let never = between(&["a"], 1, 0.03, |what| {
            times += usize::from(what.is_some());
            Ok(2_f64.powi(times as i32))
        })?;
        assert_eq!((never["a"].len(), times), (1, TRIES));
        Ok(())
    }
}
