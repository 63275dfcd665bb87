//! The flows whose peers, network or applications took the most time.

use std::{cmp::Reverse, collections::HashMap};

use crate::{
    snapshot::Flow,
    watched::{Seen, Watched},
};

/// Flows that are shown.
const SHOWN: usize = 5;
/// Flows that are remembered between windows.
const REMEMBERED: usize = 512;

/// What the flows of all windows took.
#[derive(Debug, Default)]
pub(super) struct Worst {
    /// By run and id.
    flows: HashMap<(u32, String), Seen>,
}

impl Worst {
    /// A window is over.
    pub(super) fn take(&mut self, watched: &Watched, run: u32) {
        for (id, seen) in &watched.flows {
            if took(seen) == 0 {
                continue;
            }
            match self.flows.get_mut(&(run, id.clone())) {
                Some(known) => known.follow(seen),
                None => {
                    self.flows.insert((run, id.clone()), seen.clone());
                }
            }
        }
        if self.flows.len() > REMEMBERED {
            let mut flows: Vec<_> = self.flows.drain().collect();
            flows.sort_by_key(|(_, seen)| Reverse(took(seen)));
            flows.truncate(REMEMBERED);
            self.flows = flows.into_iter().collect();
        }
    }

    /// The worst, first the one that took most.
    pub(super) fn flows(self) -> Vec<Flow> {
        let mut flows: Vec<_> = self.flows.into_values().collect();
        flows.sort_by(|one, other| took(other).cmp(&took(one)).then_with(|| one.id.cmp(&other.id)));
        flows.iter().take(SHOWN).map(Seen::flow).collect()
    }
}

/// Nanoseconds by all whose time it was.
fn took(seen: &Seen) -> u64 {
    seen.sums.keys("spent_ns").iter().map(|(_, n)| n).sum()
}
