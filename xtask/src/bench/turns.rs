//! From the load's ratios to a table of what each signal costs a conversation.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cost::median;

/// What the load measured.
#[derive(Debug, Deserialize)]
pub(crate) struct Turns {
    turns: u64,
    untraced_per_second: f64,
    /// Throughput while a set of signals was traced, by that without, one for each round.
    ratios: BTreeMap<String, Vec<f64>>,
}

impl Turns {
    /// Reads the load's JSON.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let turns: Self = serde_json::from_str(text).context("the load printed no result")?;
        let measured = turns.ratios.values().all(|rounds| !rounds.is_empty());
        ensure!(measured && !turns.ratios.is_empty(), "nothing was measured");
        Ok(turns)
    }

    /// Median, smallest and largest ratio of each set, the dearest first.
    fn rows(&self) -> Vec<(&str, [f64; 3])> {
        let mut rows: Vec<_> = self
            .ratios
            .iter()
            .map(|(set, rounds)| {
                let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
                let most = rounds.iter().copied().fold(0.0, f64::max);
                (set.as_str(), [median(rounds.iter().copied()), least, most])
            })
            .collect();
        rows.sort_by(|(_, a), (_, b)| a[0].total_cmp(&b[0]));
        rows
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let rounds = self.ratios.values().map(Vec::len).max().unwrap_or_default();
        let mut table = format!(
            "bench: throughput of requests and answers by that untraced ({:.0}/s), {rounds} rounds \
             of {} turns\n{:<12} {:>6} {:>6} {:>6}\n",
            self.untraced_per_second, self.turns, "signals", "median", "least", "most"
        );
        for (set, [median, least, most]) in self.rows() {
            table += &format!("{set:<12} {median:>6.3} {least:>6.3} {most:>6.3}\n");
        }
        table
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows().into_iter().map(|(set, [median, least, most])| {
            (set.to_owned(), json!({ "median": median, "least": least, "most": most }))
        });
        json!({
            "schema": "netdiag.bench.turns/1",
            "turns": self.turns,
            "untraced_per_second": self.untraced_per_second,
            "ratios": rows.collect::<serde_json::Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_stands_first_by_its_median() {
        let text = r#"{"turns":9,"untraced_per_second":5.0,
            "ratios":{"send":[0.9,1.0,0.8],"all":[0.5,0.7,0.9]}}"#;
        let turns = Turns::parse(text).unwrap();
        assert_eq!(turns.rows(), [("all", [0.7, 0.5, 0.9]), ("send", [0.9, 0.8, 1.0])]);
        assert!(
            turns.table().ends_with("send          0.900  0.800  1.000\n"),
            "{}",
            turns.table()
        );
        assert_eq!(turns.json()["ratios"]["all"]["median"], 0.7);
    }

    #[test]
    fn nothing_measured_is_an_error() {
        for ratios in ["{}", r#"{"all":[]}"#] {
            let text = format!(r#"{{"turns":9,"untraced_per_second":5.0,"ratios":{ratios}}}"#);
            assert!(Turns::parse(&text).is_err(), "{text}");
        }
    }
}
