//! What was measured of netdiag and of other tracers by turns, in several parts: a table of them, how netdiag stands
//! beside the others, and what is over its limit.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Args,
    cost::NETDIAG,
    here, others,
    round::{COLUMNS, Spread},
};
use crate::setup;

/// A measurement by a load of its own.
pub(super) struct Measurement {
    /// Its name; that of its load has `_load` behind it.
    pub(super) name: &'static str,
    /// What stands above the table.
    pub(super) title: &'static str,
    pub(super) parts: &'static [Part],
    /// Whether netdiag's parts are divided by those of others.
    pub(super) is_compared: bool,
}

/// A part, by the name that it has in the load's JSON.
pub(super) struct Part {
    pub(super) name: &'static str,
    /// That are shown behind the point.
    pub(super) digits: usize,
    /// The most that netdiag's median may be.
    pub(super) limit: Option<f64>,
    /// The most that it may be of another tracer's, by the median of the rounds.
    pub(super) ratio_limit: Option<f64>,
}

/// A limit in a table.
fn shown(limit: Option<f64>) -> String {
    limit.map_or("none".to_owned(), |limit| format!("{limit}"))
}

impl Measurement {
    /// Runs the load on this machine, beside bpftrace with the script that everyone copies.
    pub(super) fn main(&'static self, args: &Args, mut arguments: Vec<String>) -> Result<ExitCode> {
        let (netdiag, load) = here::programs(args, &format!("{}_load", self.name))?;
        let text = if args.alone {
            here::run(&netdiag, &load, &arguments)?
        } else {
            setup::bench_tools()?;
            arguments.push(others::script(&here::source(&netdiag)?).to_owned());
            here::run_with_tracefs(&netdiag, &load, &arguments)?
        };
        let measured = Measured::parse(self, &text)?;
        eprint!("{}", measured.table());
        let mut json = measured.json();
        if !args.alone {
            json["others"] = others::versions()?;
        }
        println!("{json}");
        let over = measured.over();
        if !over.is_empty() {
            bail!("netdiag takes more than it may: {}", over.join("; "));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A round: each part by its name.
type Round = BTreeMap<String, f64>;

/// What a load measured.
struct Measured {
    what: &'static Measurement,
    /// By tracer, as many of each.
    tracers: BTreeMap<String, Vec<Round>>,
}

impl Measured {
    /// Reads the load's JSON.
    fn parse(what: &'static Measurement, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Said {
            tracers: BTreeMap<String, Vec<Round>>,
        }
        let Said { tracers } = serde_json::from_str(text).context("the load printed no result")?;
        let rounds = tracers.get(NETDIAG).map_or(0, Vec::len);
        let is_whole = |round: &Round| what.parts.iter().all(|part| round.contains_key(part.name));
        let as_many = tracers.values().all(|all| all.len() == rounds && all.iter().all(is_whole));
        ensure!(rounds > 0 && as_many, "the load printed {text:?}");
        Ok(Self { what, tracers })
    }

    /// A part of a tracer, round by round.
    fn rounds(&self, tracer: &str, part: &Part) -> impl Iterator<Item = f64> {
        let name = part.name;
        self.tracers[tracer].iter().map(move |round| round[name])
    }

    /// netdiag's part by that of another tracer in the same round.
    fn ratio(&self, other: &str, part: &Part) -> Spread {
        let pairs = self.rounds(NETDIAG, part).zip(self.rounds(other, part));
        Spread::of(pairs.map(|(netdiag, other)| netdiag / other))
    }

    /// The tracers that netdiag is divided by.
    fn divisors(&self) -> impl Iterator<Item = &str> {
        let is_compared = self.what.is_compared;
        let all = self.tracers.keys().map(String::as_str);
        all.filter(move |name| is_compared && *name != NETDIAG)
    }

    /// For people.
    fn table(&self) -> String {
        let rounds = self.tracers[NETDIAG].len();
        let mut table = format!(
            "bench: {}, {rounds} rounds\n{:<26} {COLUMNS} {:>7}\n",
            self.what.title, "", "limit"
        );
        for part in self.what.parts {
            for tracer in self.tracers.keys() {
                let columns = Spread::of(self.rounds(tracer, part)).columns(part.digits);
                let limit = shown(part.limit.filter(|_| tracer == NETDIAG));
                let name = format!("{}, {tracer}", part.name);
                table += &format!("{name:<26} {columns} {limit:>7}\n");
            }
            for other in self.divisors() {
                let (name, ratio) = (format!("netdiag by {other}"), self.ratio(other, part));
                let limit = shown(part.ratio_limit);
                table += &format!("{name:<26} {} {limit:>7}\n", ratio.columns(2));
            }
        }
        table
    }

    /// For programs.
    fn json(&self) -> Value {
        let parts = self.what.parts;
        let of = |tracer: &str| -> Map<String, Value> {
            let spread = |part| Spread::of(self.rounds(tracer, part)).json(3);
            parts.iter().map(|part| (part.name.to_owned(), spread(part))).collect()
        };
        let by = |other: &str| -> Map<String, Value> {
            let ratio = |part| self.ratio(other, part).json(3);
            parts.iter().map(|part| (part.name.to_owned(), ratio(part))).collect()
        };
        let tracers: Map<_, _> =
            self.tracers.keys().map(|name| (name.clone(), Value::Object(of(name)))).collect();
        let ratios: Map<_, _> =
            self.divisors().map(|name| (name.to_owned(), Value::Object(by(name)))).collect();
        let limits: Map<_, _> =
            parts.iter().map(|part| (part.name.to_owned(), json!(part.limit))).collect();
        let ratio_limits: Map<_, _> =
            parts.iter().map(|part| (part.name.to_owned(), json!(part.ratio_limit))).collect();
        json!({
            "schema": format!("netdiag.bench.{}/1", self.what.name),
            "rounds": self.tracers[NETDIAG].len(),
            "tracers": tracers,
            "ratios": ratios,
            "limits": limits,
            "ratio_limits": ratio_limits,
        })
    }

    /// What of netdiag is over its limit.
    fn over(&self) -> Vec<String> {
        let mut over = Vec::new();
        for part in self.what.parts {
            let (name, digits) = (part.name, part.digits);
            let median = Spread::of(self.rounds(NETDIAG, part)).median;
            if let Some(limit) = part.limit.filter(|&limit| median > limit) {
                over.push(format!("{name} is {median:.digits$}, of at most {limit}"));
            }
            for other in self.divisors() {
                let ratio = self.ratio(other, part).median;
                if let Some(limit) = part.ratio_limit.filter(|&limit| ratio > limit) {
                    over.push(format!("{name} is {ratio:.2} of {other}'s, of at most {limit}"));
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: Measurement = Measurement {
        name: "test",
        title: "what it takes",
        parts: &[
            Part { name: "first_ms", digits: 0, limit: Some(550.0), ratio_limit: Some(4.5) },
            Part { name: "share_percent", digits: 2, limit: None, ratio_limit: Some(1.5) },
        ],
        is_compared: true,
    };
    static COMPARED: Measurement = WHAT;
    static ALONE: Measurement = Measurement { is_compared: false, ..WHAT };

    fn round(first: f64, share: f64) -> Value {
        json!({ "first_ms": first, "share_percent": share })
    }

    #[test]
    fn parts_are_held_against_those_of_the_same_round_and_their_limits() {
        let netdiag = [round(600.0, 0.1), round(800.0, 0.3), round(500.0, 0.2)];
        let bpftrace = [round(100.0, 0.1), round(400.0, 0.1), round(125.0, 0.1)];
        let tracers = json!({ "tracers": { "netdiag": netdiag, "bpftrace": bpftrace } });
        let measured = Measured::parse(&COMPARED, &tracers.to_string()).unwrap();
        assert_eq!(
            measured.table(),
            "bench: what it takes, 3 rounds\n\
             \x20                           median   least    most   limit\n\
             first_ms, bpftrace             125     100     400    none\n\
             first_ms, netdiag              600     500     800     550\n\
             netdiag by bpftrace           4.00    2.00    6.00     4.5\n\
             share_percent, bpftrace       0.10    0.10    0.10    none\n\
             share_percent, netdiag        0.20    0.10    0.30    none\n\
             netdiag by bpftrace           2.00    1.00    3.00     1.5\n"
        );
        let over = [
            "first_ms is 600, of at most 550",
            "share_percent is 2.00 of bpftrace's, of at most 1.5",
        ];
        assert_eq!(measured.over(), over);
        let json = measured.json();
        assert_eq!(json["ratio_limits"]["first_ms"], 4.5);
        assert_eq!(json["schema"], "netdiag.bench.test/1");
        assert_eq!(json["ratios"]["bpftrace"]["first_ms"]["median"], 4.0);
        assert_eq!(json["tracers"]["netdiag"]["share_percent"]["most"], 0.3);
        let measured = Measured::parse(&ALONE, &tracers.to_string()).unwrap();
        assert_eq!(measured.table().lines().count(), 6);
        assert_eq!(measured.json()["ratios"], json!({}));
        assert_eq!(measured.over(), over[..1]);
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        let one = [round(1.0, 2.0)];
        for bad in [
            json!({}),
            json!({ "tracers": {} }),
            json!({ "tracers": { "bpftrace": one } }),
            json!({ "tracers": { "netdiag": one, "bpftrace": [] } }),
            json!({ "tracers": { "netdiag": [{ "first_ms": 1.0 }] } }),
        ] {
            assert!(Measured::parse(&COMPARED, &bad.to_string()).is_err(), "{bad}");
        }
        let whole = json!({ "tracers": { "netdiag": one } }).to_string();
        assert!(Measured::parse(&COMPARED, &whole).unwrap().over().is_empty());
    }
}
