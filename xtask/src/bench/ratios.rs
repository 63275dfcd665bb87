//! netdiag's part of what other tracers cost, and how much of it is allowed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    cost::{self, Measured, NETDIAG},
    round::{COLUMNS, Round, Spread},
};

/// Most that netdiag may add for what another adds, by machine, source of `send` and the other's name. The
/// machine is the series of a guest's kernel, or `native`.
const LIMITS: &str = include_str!("../../../benches/ratios.json");

/// The name of a machine that is no guest.
pub(super) const NATIVE: &str = "native";

type Limits = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// netdiag's part of each other tracer's cost, round by round.
#[derive(Debug)]
pub(super) struct Ratios(Vec<Ratio>);

#[derive(Debug)]
struct Ratio {
    other: String,
    spread: Spread,
    limit: Option<f64>,
}

impl Ratios {
    /// Those of a measurement, with the limits of that machine and source.
    pub(super) fn of(measured: &Measured, machine: &str, source: &str) -> Result<Self> {
        let limits: Limits = serde_json::from_str(LIMITS).context("benches/ratios.json")?;
        let limits = limits.get(machine).and_then(|sources| sources.get(source));
        let mut ratios = Vec::new();
        for (other, rounds) in measured.tracers().filter(|(name, _)| *name != NETDIAG) {
            if cost::added(rounds).median <= 0.0 {
                bail!("{other} seems to cost nothing: this machine has too much else to do");
            }
            let spread = Spread::of(parts(measured.netdiag(), rounds));
            let limit = limits.and_then(|limits| limits.get(other)).copied();
            ratios.push(Ratio { other: other.to_owned(), spread, limit });
        }
        ratios.sort_by(|a, b| a.spread.median.total_cmp(&b.spread.median));
        Ok(Self(ratios))
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = format!("{:<12} {COLUMNS} {:>7}\n", "netdiag by", "limit");
        for Ratio { other, spread, limit } in &self.0 {
            let limit = limit.map_or("none".to_owned(), |limit| format!("{limit:.2}"));
            table += &format!("{other:<12} {} {limit:>7}\n", spread.columns(2));
        }
        table
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let rows = self.0.iter().map(|Ratio { other, spread, limit }| {
            let mut row = spread.json(3);
            row["limit"] = json!(limit);
            (other.clone(), row)
        });
        Value::Object(rows.collect())
    }

    /// What is over its limit.
    pub(super) fn over(&self) -> Vec<String> {
        let over = self.0.iter().filter_map(|Ratio { other, spread, limit }| {
            let limit = limit.filter(|&limit| spread.median > limit)?;
            Some(format!("{:.2} of what {other} costs, of at most {limit}", spread.median))
        });
        over.collect()
    }
}

fn parts<'a>(netdiag: &'a [Round], other: &'a [Round]) -> impl Iterator<Item = f64> + 'a {
    netdiag.iter().zip(other).map(|(netdiag, other)| netdiag.added() / other.added())
}

#[cfg(test)]
mod tests {
    use super::{
        super::cost::{Unit, tests::measured},
        *,
    };

    #[test]
    fn parts_are_of_the_same_round_and_held_to_limits() {
        let empty: &[[f64; 3]] = &[[100.0, 120.0, 100.0], [100.0, 110.0, 100.0]];
        let bpftrace: &[[f64; 3]] = &[[100.0, 200.0, 100.0], [100.0, 210.0, 100.0]];
        let measured =
            measured(Unit::Nanoseconds, &[("empty", empty), ("bpftrace", bpftrace)]).unwrap();
        let ratios = Ratios::of(&measured, NATIVE, "tracepoints").unwrap();
        // netdiag adds 45 and 55.
        assert_eq!(
            ratios.table(),
            "netdiag by    median   least    most   limit\n\
             bpftrace        0.47    0.45    0.50    0.35\n\
             empty           3.88    2.25    5.50    2.20\n"
        );
        assert_eq!(ratios.over().len(), 2);
        assert_eq!(ratios.json()["empty"]["most"], 5.5);
        assert!(Ratios::of(&measured, "2.6", "fexit").unwrap().over().is_empty());
    }

    #[test]
    fn the_goals_are_held_where_instructions_are_counted() {
        let limits: Limits = serde_json::from_str(LIMITS).unwrap();
        let of = |source: &str, other: &str| limits["6.12"][source][other];
        assert!(of("fexit", "funclatency") <= 0.60 && of("fexit", "bpftrace") <= 0.26);
        assert!(of("kprobe", "funclatency") <= 0.85);
    }

    #[test]
    fn the_goals_are_held_where_time_is_measured() {
        let limits: Limits = serde_json::from_str(LIMITS).unwrap();
        let of = |other: &str| limits[NATIVE]["tracepoints"][other];
        assert!(of("empty") <= 2.2 && of("bpftrace") <= 0.35);
        // The histogram by thread that deletes what it has used; see benches/beside.
        assert!(of("histogram") <= 0.65);
    }

    #[test]
    fn a_cost_that_is_none_is_no_divisor() {
        let noise: &[[f64; 3]] = &[[100.0, 100.0, 100.0]];
        let measured = measured(Unit::Nanoseconds, &[("empty", noise)]).unwrap();
        assert!(Ratios::of(&measured, NATIVE, "tracepoints").is_err());
    }
}
