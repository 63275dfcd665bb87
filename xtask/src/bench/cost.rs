//! From the load's CPU times to instructions per send.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Most added instructions per send, by kernel series and source.
pub(crate) struct Bounds(BTreeMap<String, BTreeMap<String, f64>>);

impl Bounds {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(Self(serde_json::from_str(text)?))
    }

    pub(crate) fn get(&self, series: &str, source: &str) -> Option<f64> {
        self.0.get(series)?.get(source).copied()
    }
}

/// Instructions of one send, as the mean of many.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    before: f64,
    traced: f64,
    after: f64,
}

impl Round {
    /// What tracing added to the untraced sends around it.
    fn added(&self) -> f64 {
        self.traced - (self.before + self.after) / 2.0
    }
}

/// What the load measured.
#[derive(Debug)]
pub(crate) struct Cost {
    sends: u64,
    /// Time of one instruction; 1 when the machine counts them.
    instruction_ns: f64,
    rounds: Vec<Round>,
}

impl Cost {
    /// Reads the load's JSON and turns its times into instructions.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)?;
        let number = |of: &Value, name: &str| {
            of[name].as_f64().with_context(|| format!("{name} is not a number"))
        };
        let instruction_ns = number(&json, "loop_ns")?;
        ensure!(instruction_ns > 0.0, "an instruction took {instruction_ns} ns");
        let sends = json["sends"].as_u64().context("sends is not a number")?;
        let rounds = json["rounds"].as_array().context("there are no rounds")?;
        let rounds = rounds
            .iter()
            .map(|round| {
                let instructions =
                    |name| -> Result<f64> { Ok(number(round, name)? / instruction_ns) };
                Ok(Round {
                    before: instructions("before_ns")?,
                    traced: instructions("traced_ns")?,
                    after: instructions("after_ns")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!rounds.is_empty(), "there are no rounds");
        Ok(Self { sends, instruction_ns, rounds })
    }

    /// Instructions that tracing adds to a send: the median of all rounds.
    pub(crate) fn added(&self) -> f64 {
        median(self.rounds.iter().map(Round::added))
    }

    /// For people.
    pub(crate) fn line(&self, bound: Option<f64>) -> String {
        let bound = bound.map_or("none".to_owned(), |bound| bound.to_string());
        format!(
            "{:.0} guest instructions added per send (bound {bound}); untraced {:.0} before, {:.0} \
             after; {} rounds of {} sends",
            self.added(),
            median(self.rounds.iter().map(|round| round.before)),
            median(self.rounds.iter().map(|round| round.after)),
            self.rounds.len(),
            self.sends,
        )
    }

    /// For programs.
    pub(crate) fn json(
        &self,
        series: &str,
        build: &str,
        source: &str,
        bound: Option<f64>,
    ) -> Value {
        let tenths = |value: f64| (value * 10.0).round() / 10.0;
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                json!({
                    "before": tenths(round.before),
                    "traced": tenths(round.traced),
                    "after": tenths(round.after),
                    "added": tenths(round.added()),
                })
            })
            .collect();
        json!({
            "schema": "netdiag.bench.icount/1",
            "kernel": series,
            "build": build,
            "signal": "send",
            "source": source,
            "sends": self.sends,
            "instruction_ns": self.instruction_ns,
            "added_instructions": tenths(self.added()),
            "bound_instructions": bound,
            "rounds": rounds,
        })
    }
}

/// The value in the middle, the mean of both for an even number of them.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(loop_ns: f64, rounds: &[[f64; 3]]) -> Result<Cost> {
        let rounds: Vec<Value> = rounds
            .iter()
            .map(|[a, b, c]| json!({ "before_ns": a, "traced_ns": b, "after_ns": c }))
            .collect();
        Cost::parse(&json!({ "loop_ns": loop_ns, "sends": 10, "rounds": rounds }).to_string())
    }

    #[test]
    fn added_is_the_median_over_the_mean_of_both_baselines() {
        let three = [[100.0, 150.0, 110.0], [110.0, 900.0, 100.0], [100.0, 140.0, 100.0]];
        assert_eq!(cost(1.0, &three).unwrap().added(), 45.0);
        assert_eq!(cost(1.0, &three[..2]).unwrap().added(), (45.0 + 795.0) / 2.0);
    }

    #[test]
    fn times_become_instructions() {
        assert_eq!(cost(2.0, &[[100.0, 150.0, 100.0]]).unwrap().added(), 25.0);
        assert!(cost(0.0, &[[1.0, 1.0, 1.0]]).is_err());
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(cost(1.0, &[]).is_err());
        for text in ["", "{}", r#"{"loop_ns":1.0,"sends":1,"rounds":[{"before_ns":1}]}"#] {
            assert!(Cost::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn committed_bounds_are_found_by_series_and_source() {
        let bounds = Bounds::parse(super::super::BOUNDS).unwrap();
        assert!(bounds.get("6.12", "fexit").is_some_and(|bound| bound <= 800.0));
        assert_eq!(bounds.get("6.12", "no-source"), None);
        assert_eq!(bounds.get("2.6", "fexit"), None);
    }
}
