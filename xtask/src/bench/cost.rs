//! From the load's CPU times to what each tracer adds to what the load does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::round::{COLUMNS, Round, Spread, rounded};

/// What is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The time of this machine.
    Nanoseconds,
    /// Instructions, on a machine each of which takes as long.
    Instructions,
}

impl Unit {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Instructions => "instructions",
        }
    }
}

/// What the load measured.
#[derive(Debug, Deserialize)]
pub(crate) struct Measured {
    times: u64,
    /// Time of one instruction; 1 when the machine counts them.
    #[serde(rename = "loop_ns")]
    instruction_ns: f64,
    /// What it took once at the best, in nanoseconds, by tracer.
    tracers: BTreeMap<String, Vec<Round>>,
}

/// The tracer that the others are held against.
pub(crate) const NETDIAG: &str = "netdiag";

impl Measured {
    /// Reads the load's JSON.
    pub(crate) fn parse(text: &str, unit: Unit) -> Result<Self> {
        let mut measured: Self =
            serde_json::from_str(text).with_context(|| format!("the load printed {text:?}"))?;
        let instruction_ns = measured.instruction_ns;
        ensure!(instruction_ns > 0.0, "an instruction took {instruction_ns} ns");
        if unit == Unit::Instructions {
            for round in measured.tracers.values_mut().flatten() {
                for time in [&mut round.before, &mut round.traced, &mut round.after] {
                    *time /= instruction_ns;
                }
            }
        }
        ensure!(measured.tracers.values().all(|rounds| !rounds.is_empty()), "there are no rounds");
        ensure!(measured.tracers.contains_key(NETDIAG), "netdiag was not measured");
        Ok(measured)
    }

    /// Each tracer with its rounds, in the order of their names.
    pub(crate) fn tracers(&self) -> impl Iterator<Item = (&str, &[Round])> {
        self.tracers.iter().map(|(name, rounds)| (name.as_str(), rounds.as_slice()))
    }

    /// The rounds of netdiag.
    pub(crate) fn netdiag(&self) -> &[Round] {
        &self.tracers[NETDIAG]
    }

    /// What each tracer adds, the cheapest first.
    fn rows(&self) -> Vec<(&str, Spread)> {
        let mut rows: Vec<_> = self.tracers().map(|(name, rounds)| (name, added(rounds))).collect();
        rows.sort_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
        rows
    }

    /// For people; `load` is what was done.
    pub(crate) fn table(&self, unit: Unit, load: &str) -> String {
        let untraced = Spread::of(self.tracers.values().flatten().map(|round| round.before));
        let rounds = self.netdiag().len();
        let mut table = format!(
            "{} added to one {load} of {:.0} ({:.0} to {:.0}); {rounds} rounds of {}\n{:<12} \
             {COLUMNS}\n",
            unit.name(),
            untraced.median,
            untraced.least,
            untraced.most,
            self.times,
            "tracer",
        );
        for (name, added) in self.rows() {
            table += &format!("{name:<12} {}\n", added.columns(0));
        }
        table
    }

    /// For programs.
    pub(crate) fn json(&self, unit: Unit) -> Value {
        let tracers = self.tracers().map(|(name, rounds)| {
            let each: Vec<Value> = rounds
                .iter()
                .map(|round| {
                    json!({
                        "before": rounded(round.before, 1),
                        "traced": rounded(round.traced, 1),
                        "after": rounded(round.after, 1),
                    })
                })
                .collect();
            (name.to_owned(), json!({ "added": added(rounds).json(1), "rounds": each }))
        });
        json!({
            "schema": "netdiag.bench.cost/1",
            "unit": unit.name(),
            "times": self.times,
            "instruction_ns": self.instruction_ns,
            "tracers": tracers.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// What a tracer adds.
pub(crate) fn added(rounds: &[Round]) -> Spread {
    Spread::of(rounds.iter().map(Round::added))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The load's JSON with an instruction of 2 ns, netdiag, and these.
    pub(in crate::bench) fn measured(
        unit: Unit,
        others: &[(&str, &[[f64; 3]])],
    ) -> Result<Measured> {
        let netdiag: (&str, &[[f64; 3]]) =
            (NETDIAG, &[[100.0, 150.0, 110.0], [110.0, 160.0, 100.0]]);
        let tracers = others.iter().chain([&netdiag]).map(|(name, rounds)| {
            let rounds: Vec<Value> = rounds
                .iter()
                .map(|[a, b, c]| json!({ "before": a, "traced": b, "after": c }))
                .collect();
            ((*name).to_owned(), json!(rounds))
        });
        let tracers: serde_json::Map<_, _> = tracers.collect();
        Measured::parse(
            &json!({ "loop_ns": 2.0, "times": 10, "tracers": tracers }).to_string(),
            unit,
        )
    }

    #[test]
    fn added_is_over_the_mean_of_both_baselines() {
        let three: &[[f64; 3]] =
            &[[100.0, 150.0, 110.0], [110.0, 900.0, 100.0], [100.0, 140.0, 100.0]];
        let both = measured(Unit::Nanoseconds, &[("a", three), ("b", &three[..2])]).unwrap();
        let all: Vec<_> = both.rows();
        let spread = |median, least, most| Spread { median, least, most };
        assert_eq!(
            all,
            [
                ("a", spread(45.0, 40.0, 795.0)),
                ("netdiag", spread(50.0, 45.0, 55.0)),
                ("b", spread(420.0, 45.0, 795.0)),
            ]
        );
        let table = both.table(Unit::Nanoseconds, "send");
        let head = "ns added to one send of 100 (100 to 110); 2 rounds of 10\n";
        assert!(table.starts_with(head), "{table}");
        assert!(table.contains("\nnetdiag           50      45      55\n"), "{table}");
    }

    #[test]
    fn times_become_instructions() {
        let measured = measured(Unit::Instructions, &[]).unwrap();
        assert_eq!(added(measured.netdiag()).median, 25.0);
        assert_eq!(measured.json(Unit::Instructions)["tracers"]["netdiag"]["added"]["least"], 22.5);
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(measured(Unit::Nanoseconds, &[("a", &[])]).is_err());
        for text in [
            "",
            "{}",
            r#"{"loop_ns":1.0,"times":1,"tracers":{}}"#,
            r#"{"loop_ns":0.0,"times":1,"tracers":{"netdiag":[{"before":1,"traced":1,"after":1}]}}"#,
            r#"{"loop_ns":1.0,"times":1,"tracers":{"netdiag":[{"before":1}]}}"#,
        ] {
            assert!(Measured::parse(text, Unit::Nanoseconds).is_err(), "{text}");
        }
    }
}
