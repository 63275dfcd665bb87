//! The first look at recordings: when, which groups, which conversations, what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{
    Asked, By, CONVERSATIONS, Columns, Origin,
    columns::nanoseconds,
    counts,
    ends::{Ends, Key, Pair},
    nodes::Node,
};
use crate::{
    finding::Finding,
    snapshot::{Flow, Snapshot},
    watched::Watched,
};

/// Groups of one kind that are told apart; where there are more the lesser half is forgotten, and begins anew when
/// it comes again.
const MOST_GROUPS: usize = 32_768;
/// Flows that are counted one by one, in each kind of groups; beyond, groups do not say how many they have.
const MOST_FLOWS: usize = 4_000_000;
/// Samples of an interval from which on a percentile of them says something.
const SAMPLES: u64 = 10;

/// What a finding must be to be told.
pub type IsWanted = Arc<dyn Fn(&Finding, &Watched) -> Option<bool> + Send + Sync>;

/// How much there is to be said of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    flows: u64,
    /// What its samples took together, about.
    spent_ns: u64,
    /// What of its counts tells of trouble.
    trouble: u64,
    /// The largest 99th percentile of an interval.
    slow_ns: u64,
}

/// Groups of one kind.
#[derive(Debug, Default)]
struct Groups {
    all: HashMap<String, Weight>,
    forgotten: u64,
}

impl Groups {
    fn add(&mut self, name: Option<String>, more: Weight) {
        let room = self.all.len() < MOST_GROUPS;
        if !room && !self.all.contains_key(name.as_deref().unwrap_or_default()) {
            self.forget();
        }
        match self.all.entry(name.unwrap_or_default()) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.flows = known.flows.saturating_add(more.flows);
                known.spent_ns = known.spent_ns.saturating_add(more.spent_ns);
                known.trouble = known.trouble.saturating_add(more.trouble);
                known.slow_ns = known.slow_ns.max(more.slow_ns);
            }
            Entry::Vacant(place) => drop(place.insert(more)),
        }
    }

    /// Forgets those in which least time was spent and that had the least trouble.
    fn forget(&mut self) {
        let mut weights: Vec<_> =
            self.all.values().map(|weight| (weight.trouble, weight.spent_ns)).collect();
        let middle = weights.len() / 2;
        let (_, least, _) = weights.select_nth_unstable(middle);
        let least = *least;
        let before = self.all.len();
        self.all.retain(|_, weight| (weight.trouble, weight.spent_ns) > least);
        self.forgotten += (before - self.all.len()) as u64;
    }

    /// The names of those that get a row: in turn the one with the most time spent, the most trouble, and the slowest.
    fn choose(&self, top: usize) -> Vec<(String, u64)> {
        let mut names: Vec<&String> = self.all.keys().collect();
        names.sort_unstable();
        let orders: [fn(&Weight) -> u64; 3] =
            [|weight| weight.spent_ns, |weight| weight.trouble, |weight| weight.slow_ns];
        let sorted = orders.map(|order| {
            let mut names = names.clone();
            names.sort_by_key(|name| std::cmp::Reverse(order(&self.all[*name])));
            names
        });
        let mut chosen = BTreeSet::new();
        let mut rows = Vec::new();
        for name in (0..names.len()).flat_map(|at| sorted.iter().map(move |names| names[at])) {
            if rows.len() < top && chosen.insert(name) {
                rows.push((name.clone(), self.all[name].flows));
            }
        }
        rows
    }
}

/// What was found.
pub struct Survey {
    asked: Asked,
    wanted: IsWanted,
    nodes: BTreeMap<String, Node>,
    groups: Vec<Groups>,
    flows: HashSet<u64>,
    hasher: RandomState,
    ends: Ends,
    times: Option<(i64, i64)>,
    longest: i64,
    other: bool,
    grouped: bool,
}

impl std::fmt::Debug for Survey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// What the second look needs of the first.
#[derive(Debug)]
pub struct Chosen {
    pub(super) asked: Asked,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) columns: Columns,
    /// Names of the groups that have a row, with how many flows they have, for each kind; empty: unknown.
    pub(super) groups: Vec<Vec<(String, u64)>>,
    /// How many there are beyond those.
    pub(super) folded: Vec<u64>,
    pub(super) pairs: Vec<Pair>,
    /// Runs by pair of files.
    pub(super) runs: HashMap<usize, u32>,
    /// Whether flows were too many to be counted, or groups to be remembered.
    pub(super) uncounted: bool,
    /// Whether recordings tell of groups, of which nobody knows how many flows they had in all.
    pub(super) grouped: bool,
    /// Flows that were not looked at as ends of conversations.
    pub(super) ends_left_out: u64,
    /// Whether recordings sum up flows that no filter can be asked for.
    pub(super) other_left_out: bool,
}

impl Survey {
    /// Of nothing yet.
    #[must_use]
    pub fn new(asked: Asked, wanted: IsWanted) -> Self {
        let groups = asked.by.iter().map(|_| Groups::default()).collect();
        Self {
            asked,
            wanted,
            nodes: BTreeMap::new(),
            groups,
            flows: HashSet::new(),
            hasher: RandomState::new(),
            ends: Ends::default(),
            times: None,
            longest: 0,
            other: false,
            grouped: false,
        }
    }

    /// Adds an interval; those of a node in the order of its files. Without times it says nothing.
    pub fn take(&mut self, origin: Origin<'_>, snapshot: &Snapshot) {
        let times = nanoseconds(&snapshot.start).zip(nanoseconds(&snapshot.end));
        let Some((start, end)) = times.filter(|(start, _)| self.asked.has(*start)) else { return };
        let (first, last) = self.times.get_or_insert((start, start));
        (*first, *last) = ((*first).min(start), (*last).max(start));
        self.longest = self.longest.max(end.saturating_sub(start));
        let wanted = Arc::clone(&self.wanted);
        let node = self.nodes.entry(origin.node.to_owned()).or_insert_with(|| {
            Node::new(snapshot, start, move |finding, watched| wanted(finding, watched))
        });
        let narrowed = self.asked.narrowed(snapshot);
        node.conclude(narrowed.as_ref().unwrap_or(snapshot));
        let run = node.take(origin.pair, snapshot, (start, end));
        for flow in &snapshot.flows {
            self.flow(origin.node, run, flow, (start, end));
        }
        self.other |= snapshot.other.is_active();
        if let Some(conntrack) = &snapshot.conntrack {
            self.ends.translate(origin.node, run, conntrack);
        }
    }

    fn flow(&mut self, node: &str, run: u32, flow: &Flow, times: (i64, i64)) {
        let (mut spent_ns, mut slow_ns) = (0_u64, 0);
        for told in flow.metrics.values() {
            let spent = told.count.saturating_mul(told.p50_ns.unwrap_or(0));
            spent_ns = spent_ns.saturating_add(spent);
            if told.count >= SAMPLES {
                slow_ns = slow_ns.max(told.p99_ns.unwrap_or(0));
            }
        }
        let wanted = (self.asked.wanted)(flow);
        let key = Key { node: node.to_owned(), run, id: flow.id.clone() };
        self.ends.take(key, flow, (spent_ns, wanted), times);
        if !wanted {
            return;
        }
        self.grouped |= flow.group.is_some();
        let weight = Weight { flows: 0, spent_ns, trouble: counts::trouble(&flow.counts), slow_ns };
        for (by, groups) in self.asked.by.iter().zip(&mut self.groups) {
            let name = by.of(node, run, flow);
            // Whose a flow is may become known later, and then it is in another row as well.
            let hash = self.hasher.hash_one((by.name(), &name, node, run, &flow.id));
            let is_new = self.flows.len() < MOST_FLOWS && self.flows.insert(hash);
            groups.add(name, Weight { flows: is_new.into(), ..weight });
        }
    }

    /// What is worth a second look; none where there was no interval.
    #[must_use]
    pub fn choose(self) -> Option<Chosen> {
        let (first, last) = self.times?;
        let top = self.asked.top;
        let groups: Vec<_> = self.groups.iter().map(|groups| groups.choose(top)).collect();
        let folded = self.groups.iter().zip(&groups);
        let folded = folded.map(|(all, rows)| (all.all.len() - rows.len()) as u64 + all.forgotten);
        let forgotten = self.groups.iter().any(|groups| groups.forgotten > 0);
        let runs = self.nodes.values().flat_map(Node::runs).collect();
        Some(Chosen {
            columns: Columns::covering(first, last, self.longest),
            folded: folded.collect(),
            pairs: self.ends.pairs(CONVERSATIONS),
            ends_left_out: self.ends.left_out,
            uncounted: self.flows.len() >= MOST_FLOWS || forgotten,
            grouped: self.grouped,
            other_left_out: self.asked.filtered && self.other,
            nodes: self.nodes,
            asked: self.asked,
            groups,
            runs,
        })
    }
}

impl Chosen {
    /// The kinds of groups.
    pub(super) fn kinds(&self) -> impl Iterator<Item = By> + '_ {
        self.asked.by.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_with_time_with_trouble_and_the_slow() {
        let mut groups = Groups::default();
        let weight = |spent_ns, trouble, slow_ns| Weight { flows: 1, spent_ns, trouble, slow_ns };
        for (name, weight) in [
            ("much", weight(1_000, 0, 1)),
            ("more", weight(2_000, 0, 1)),
            ("lossy", weight(1, 9, 1)),
            ("slow", weight(1, 0, 900)),
            ("quiet", weight(1, 0, 1)),
        ] {
            groups.add(Some(name.to_owned()), weight);
        }
        let names = |top| groups.choose(top).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(3), ["more", "lossy", "slow"]);
        assert_eq!(names(4), ["more", "lossy", "slow", "much"]);
        assert_eq!(names(9).len(), 5);
    }

    #[test]
    fn groups_are_bounded() {
        let mut groups = Groups::default();
        let weight = |spent_ns| Weight { flows: 1, spent_ns, ..Weight::default() };
        groups.add(Some("large".to_owned()), weight(u64::MAX));
        for nth in 0..3 * MOST_GROUPS as u64 {
            groups.add(Some(nth.to_string()), weight(nth % 7));
            assert!(groups.all.len() <= MOST_GROUPS);
        }
        assert_eq!(groups.choose(1)[0].0, "large");
        assert_eq!(groups.all.len() as u64 + groups.forgotten, 1 + 3 * MOST_GROUPS as u64);
    }
}
