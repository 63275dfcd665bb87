//! What is loaded into the kernel, to see that nothing stays behind.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tool;

/// Ids of everything that BPF users hold in the kernel, with kind and name, as bpftool lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded(BTreeSet<(String, u64, String)>);

impl Loaded {
    /// Lists programs, maps and links, and perf events with programs on them (kprobes and
    /// tracepoints).
    ///
    /// # Errors
    /// When bpftool fails.
    pub fn now() -> Result<Self> {
        let mut all = BTreeSet::new();
        for kind in ["prog", "map", "link"] {
            let text = tool::run("bpftool", &["-j", kind, "list"])?;
            let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
            for item in list.as_array().into_iter().flatten() {
                let name = item["name"].as_str().or(item["type"].as_str()).unwrap_or_default();
                all.insert((kind.to_owned(), item["id"].as_u64().context("id")?, name.to_owned()));
            }
        }
        // The count is all that a probe without a link shows of itself.
        let text = tool::run("bpftool", &["-j", "perf", "list"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        for item in list.as_array().into_iter().flatten() {
            let id = item["prog_id"].as_u64().unwrap_or_default();
            all.insert(("perf".to_owned(), id, item["pid"].to_string()));
        }
        Ok(Self(all))
    }

    /// What is here and was not there earlier. The kernel gives no id of it twice.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.difference(&earlier.0).cloned().collect())
    }

    /// What is here and was there as well.
    #[must_use]
    pub fn of(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// What is in either.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something of a kind is there.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|(of, ..)| of == kind)
    }
}
