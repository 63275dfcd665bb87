//! From the throughput of a conversation to a table of what each signal costs it.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Args, here,
    round::{COLUMNS, Round, Spread},
};

/// The set of all signals, and what it must leave of the throughput.
const ALL: &str = "all";
const LEAST: f64 = 0.90;

pub(super) fn main(args: &Args) -> Result<ExitCode> {
    let (netdiag, load) = here::programs(args, "turn_load")?;
    let numbers = [args.rounds(), args.turns_each()].map(|number| number.to_string());
    let turns = Turns::parse(&here::run(&netdiag, &load, &numbers)?)?;
    eprint!("{}", turns.table());
    println!("{}", turns.json());
    let left = turns.left(ALL).median;
    if left < LEAST {
        bail!("with all signals {left:.3} of the throughput is left, of at least {LEAST:.2}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the load measured.
#[derive(Debug, Deserialize)]
struct Turns {
    turns: u64,
    /// Requests that were answered in a second, by the set of signals that was traced.
    per_second: BTreeMap<String, Vec<Round>>,
}

impl Turns {
    /// Reads the load's JSON.
    fn parse(text: &str) -> Result<Self> {
        let turns: Self = serde_json::from_str(text).context("the load printed no result")?;
        let measured = turns.per_second.values().all(|rounds| !rounds.is_empty());
        ensure!(measured && turns.per_second.contains_key(ALL), "nothing was measured");
        Ok(turns)
    }

    /// What a set left of the throughput.
    fn left(&self, set: &str) -> Spread {
        Spread::of(self.per_second[set].iter().map(Round::left))
    }

    /// The same of each, the dearest first.
    fn rows(&self) -> Vec<(&str, Spread)> {
        let mut rows: Vec<_> =
            self.per_second.keys().map(|set| (set.as_str(), self.left(set))).collect();
        rows.sort_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
        rows
    }

    fn untraced(&self) -> Spread {
        Spread::of(self.per_second.values().flatten().map(|round| round.before))
    }

    /// For people.
    fn table(&self) -> String {
        let rounds = self.per_second.values().map(Vec::len).max().unwrap_or_default();
        let mut table = format!(
            "bench: throughput of requests and answers by that untraced ({:.0}/s), {rounds} rounds \
             of {} turns\n{:<12} {COLUMNS} {:>7}\n",
            self.untraced().median,
            self.turns,
            "signals",
            "limit",
        );
        for (set, left) in self.rows() {
            let limit = if set == ALL { format!("{LEAST:.2}") } else { "none".to_owned() };
            table += &format!("{set:<12} {} {limit:>7}\n", left.columns(3));
        }
        table
    }

    /// For programs.
    fn json(&self) -> Value {
        let rows = self.rows().into_iter().map(|(set, left)| (set.to_owned(), left.json(3)));
        json!({
            "schema": "netdiag.bench.turns/1",
            "turns": self.turns,
            "untraced_per_second": self.untraced().json(0),
            "limit": LEAST,
            "ratios": rows.collect::<serde_json::Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a load printed that measured these sets, each of which left so much of the throughput in its rounds.
    fn turns(sets: &[(&str, &[f64])]) -> Result<Turns> {
        let sets = sets.iter().map(|(set, left)| {
            let rounds: Vec<Value> = left
                .iter()
                .map(|left| json!({ "before": 80.0, "traced": left * 100.0, "after": 120.0 }))
                .collect();
            ((*set).to_owned(), json!(rounds))
        });
        let sets: serde_json::Map<_, _> = sets.collect();
        Turns::parse(&json!({ "turns": 9, "per_second": sets }).to_string())
    }

    #[test]
    fn the_dearest_stands_first_by_its_median() {
        let turns = turns(&[("send", &[0.9, 1.0, 0.8]), ("all", &[0.5, 0.7, 0.9])]).unwrap();
        assert_eq!(
            turns.table(),
            "bench: throughput of requests and answers by that untraced (80/s), 3 rounds of 9 \
             turns\n\
             signals       median   least    most   limit\n\
             all            0.700   0.500   0.900    0.90\n\
             send           0.900   0.800   1.000    none\n"
        );
        assert_eq!(turns.json()["ratios"]["all"]["median"], 0.7);
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(turns(&[]).is_err());
        assert!(turns(&[("send", &[0.9])]).is_err());
        assert!(turns(&[("all", &[])]).is_err());
    }
}
