//! What netdiag was last accepted to cost, by the instructions of a guest.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Accepted costs, by series of the kernel and what is traced: a source of the signal `send`, another signal,
/// or `all`.
type Baselines = BTreeMap<String, BTreeMap<String, f64>>;

/// By how much more a cost is worse.
const WORSE: f64 = 0.05;
/// Instructions by which two builds that are alike may differ.
const ALIKE: f64 = 10.0;

/// A cost beside the one that was accepted.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    cost: f64,
    pub(super) baseline: Option<f64>,
}

impl Held {
    /// Holds a cost against benches/icount.json; with `NETDIAG_BLESS` it is the accepted one from now on.
    pub(super) fn new(series: &str, traced: &str, cost: f64) -> Result<Self> {
        let mut all = read()?;
        if env::var_os("NETDIAG_BLESS").is_some() {
            all.entry(series.to_owned()).or_default().insert(traced.to_owned(), cost.round());
            fs::write(path(), serde_json::to_string_pretty(&all)? + "\n")?;
        }
        let baseline = all.get(series).and_then(|series| series.get(traced)).copied();
        Ok(Self { cost, baseline })
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let Some(baseline) = self.baseline else {
            return "nothing is accepted for this in benches/icount.json".to_owned();
        };
        let line = format!("{:.0} instructions of {baseline:.0} accepted", self.cost);
        match baseline - self.cost > most(baseline) - baseline {
            true => line + ": NETDIAG_BLESS=1 holds it to that from now on",
            false => line,
        }
    }

    /// Why it is worse than accepted, if it is.
    pub(super) fn worse(&self) -> Option<String> {
        let baseline = self.baseline.filter(|&baseline| self.cost > most(baseline))?;
        Some(format!("{:.0} instructions, {baseline:.0} are accepted", self.cost))
    }
}

/// The most that is not worse.
fn most(baseline: f64) -> f64 {
    baseline + (baseline * WORSE).max(ALIKE)
}

fn path() -> PathBuf {
    workspace::root().join("benches/icount.json")
}

fn read() -> Result<Baselines> {
    let text = fs::read_to_string(path()).context("cannot read benches/icount.json")?;
    serde_json::from_str(&text).context("benches/icount.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_more_is_not_worse() {
        let held = |cost, baseline| Held { cost, baseline: Some(baseline) };
        assert_eq!(held(1050.0, 1000.0).worse(), None);
        assert_eq!(held(1051.0, 1000.0).worse().unwrap(), "1051 instructions, 1000 are accepted");
        assert_eq!(held(9.0, 0.0).worse(), None);
        assert!(held(11.0, 0.0).worse().is_some());
        assert!(held(900.0, 1000.0).line().ends_with("from now on"));
        assert!(!held(960.0, 1000.0).line().ends_with("from now on"));
        assert_eq!(Held { cost: 5.0, baseline: None }.worse(), None);
    }

    #[test]
    fn the_tested_kernels_have_baselines() {
        let all = read().unwrap();
        assert!(all["6.12"]["kprobe"] > all["6.12"]["fexit"]);
        assert!(all["5.10"].contains_key("fexit"));
    }
}
