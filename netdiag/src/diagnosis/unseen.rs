//! What a run could not see, for the lines that say so.

use std::collections::BTreeSet;

use super::Thresholds;
use crate::{
    finding::{cpu_starved, periodic_latency},
    snapshot::{SignalStatus, Snapshot},
    watched::{Series, Watched},
};

/// Queueing disciplines that a node lists at most.
const MOST_QUEUES: usize = 1_000;

/// Blind spots, as they come up.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// The most interfaces of an interval that were not listed.
    interfaces: u64,
    /// The most control groups of an interval whose CPU limit nobody followed.
    cgroups: u64,
    /// A list of queueing disciplines was full.
    queues: bool,
    /// The most flows of an interval that were not told apart.
    flows: u64,
    /// Some were not in a recording that does not say how many.
    some_flows: bool,
    /// Tables of iptables-legacy whose rules nobody counts, by namespace.
    legacy: BTreeSet<u32>,
    /// Namespaces in which nftables did not tell its rules.
    untold: BTreeSet<u32>,
    /// Intervals without a gap, and the most of these; the most of a window.
    in_a_row: usize,
    most_in_a_row: usize,
    most_of_window: usize,
}

impl Unseen {
    /// Time has passed unseen.
    pub(super) const fn gap(&mut self) {
        self.in_a_row = 0;
    }

    /// An interval has passed, and is in the window.
    pub(super) fn take(&mut self, snapshot: &Snapshot, window: &Watched) {
        let node = &snapshot.node;
        self.interfaces = self.interfaces.max(node.interfaces_left_out.unwrap_or(0));
        self.cgroups = self.cgroups.max(node.cgroups_left_out.unwrap_or(0));
        self.queues |= node.qdiscs.len() >= MOST_QUEUES;
        self.flows = self.flows.max(window.folded);
        self.some_flows |= snapshot.folded.is_none() && snapshot.other.is_active();
        for table in node.netfilter.iter().filter(|table| table.rules.is_none()) {
            let namespaces = if table.legacy { &mut self.legacy } else { &mut self.untold };
            namespaces.insert(table.netns);
        }
        self.in_a_row += 1;
        self.most_in_a_row = self.most_in_a_row.max(self.in_a_row);
        self.most_of_window = self.most_of_window.max(window.intervals.len());
    }

    /// A line for each. What a run is too short for goes by the thresholds that its rules went by.
    pub(super) fn lines(
        &self,
        signals: &[SignalStatus],
        series: &Series,
        thresholds: &Thresholds,
    ) -> Vec<String> {
        let given = |id: &str| thresholds.get(id).cloned().unwrap_or_default();
        let periods = given(periodic_latency::DEFINITION.id);
        let periods = periodic_latency::not_observable(series, &periods);
        let starved = given(cpu_starved::DEFINITION.id);
        let starved = cpu_starved::not_observable(series.seconds(), &starved);
        let flows = self.folded();
        let signals = signals.iter().flat_map(|signal| {
            signal.missing.iter().map(move |missing| format!("{}: {missing}", signal.signal))
        });
        let interfaces = (self.interfaces > 0)
            .then(|| format!("{} network interfaces beyond those listed", self.interfaces));
        let cgroups = (self.cgroups > 0).then(|| {
            format!(
                "whether {} control groups or more are held back by their CPU limit, beyond those looked at",
                self.cgroups
            )
        });
        let queues =
            self.queues.then(|| format!("queueing disciplines beyond the first {MOST_QUEUES}"));
        let all = flows.into_iter().chain([periods]).chain(starved);
        let all = all.chain(signals).chain(interfaces).chain(cgroups).chain(queues);
        all.chain(self.uncounted_rules())
            .chain(self.untold_rules())
            .chain(self.too_long())
            .collect()
    }

    fn folded(&self) -> Option<String> {
        let how_many = match (self.flows, self.some_flows) {
            (0, false) => return None,
            (0, true) => String::new(),
            (n, _) => format!("{n} "),
        };
        Some(format!(
            "{how_many}flows of an interval beyond those that fail and those with the most send calls, of which \
             only the sum is known; narrow it by filters"
        ))
    }

    fn uncounted_rules(&self) -> Option<String> {
        let namespaces = namespaces(&self.legacy)?;
        Some(format!(
            "heavy-netfilter: rules of iptables-legacy in {namespaces}; count them there by \
             `iptables-legacy-save | grep -c ^-A`"
        ))
    }

    fn untold_rules(&self) -> Option<String> {
        let namespaces = namespaces(&self.untold)?;
        Some(format!(
            "heavy-netfilter: packet filter rules in {namespaces}, which could not be read; it takes \
             CAP_NET_ADMIN"
        ))
    }

    /// What intervals are too long for.
    fn too_long(&self) -> Option<String> {
        let least = if self.most_in_a_row < 2 {
            "close-wait-leak, fin-wait-buildup, local-not-reading: what stays takes two intervals; give \
             --interval half of --duration at most"
        } else if self.most_of_window < 2 {
            "local-not-reading: sockets that stay full take two intervals in a minute; give --interval 30s \
             at most"
        } else {
            return None;
        };
        Some(least.to_owned())
    }
}

/// The first of them, and how many more.
fn namespaces(all: &BTreeSet<u32>) -> Option<String> {
    let first = all.first()?;
    Some(match all.len() - 1 {
        0 => format!("namespace {first}"),
        more => format!("namespace {first} and {more} more"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::node::RuleTable,
        watched::{MOST_FLOWS, kit},
    };

    fn lines(tables: &[(u32, bool)]) -> Vec<String> {
        let mut unseen = Unseen::default();
        for second in 0..2 {
            let mut snapshot = kit::snapshot(second, Vec::new());
            let table = |&(netns, legacy): &(u32, bool)| RuleTable {
                netns,
                family: "ip".to_owned(),
                table: "nat".to_owned(),
                legacy,
                rules: (!legacy).then_some(9),
            };
            snapshot.node.netfilter = tables.iter().map(table).collect();
            let mut window = Watched::default();
            window.take(&snapshot);
            window.take(&snapshot);
            unseen.take(&snapshot, &window);
        }
        unseen.lines(&[], &Series::default(), &Thresholds::new())
    }

    #[test]
    fn rules_that_nobody_counts_are_said() {
        let only_periods = lines(&[(7, false)]);
        assert_eq!(only_periods.len(), 1, "{only_periods:?}");
        let said = lines(&[(9, true), (7, true), (7, true)]);
        assert!(said[1].contains("in namespace 7 and 1 more;"), "{said:?}");
        let mut snapshot = kit::snapshot(0, Vec::new());
        let (family, table) = ("any".to_owned(), String::new());
        snapshot.node.netfilter =
            vec![RuleTable { netns: 7, family, table, legacy: false, rules: None }];
        let mut unseen = Unseen::default();
        unseen.take(&snapshot, &Watched::default());
        let untold = unseen.untold_rules();
        assert!(untold.is_some_and(|line| line.contains("in namespace 7, which could not be")));
    }

    /// Flows beyond those that a window tells apart are, and what belongs to no flow is none.
    #[test]
    fn flows_that_are_not_told_apart_are_said() {
        let said = |flows: usize, folded: Option<u64>| {
            let flows = (0..flows).map(|n| kit::flow(&format!("f{n}")).count("sends", 1)).collect();
            let mut snapshot = kit::snapshot(0, flows);
            snapshot.other.counts = kit::flow("other").count("drops.NO_SOCKET", 1).counts;
            snapshot.folded = folded;
            let (mut window, mut unseen) = (Watched::default(), Unseen::default());
            window.take(&snapshot);
            unseen.take(&snapshot, &window);
            unseen.folded().map(|line| line.split(" beyond").next().unwrap_or("").to_owned())
        };
        assert_eq!(said(1, Some(0)), None);
        let told = |line: &str| Some(line.to_owned());
        assert_eq!(said(MOST_FLOWS + 3, Some(0)), told("3 flows of an interval"));
        assert_eq!(said(MOST_FLOWS + 3, Some(4)), told("7 flows of an interval"));
        assert_eq!(said(1, None), told("flows of an interval"), "an older netdiag");
    }

    #[test]
    fn control_groups_left_out_are_said() {
        let mut unseen = Unseen::default();
        for left_out in [None, Some(3), Some(0)] {
            let mut snapshot = kit::snapshot(0, Vec::new());
            snapshot.node.cgroups_left_out = left_out;
            unseen.take(&snapshot, &Watched::default());
        }
        let said = unseen.lines(&[], &Series::default(), &Thresholds::new());
        assert!(said.iter().any(|line| line.starts_with("whether 3 control groups")), "{said:?}");
    }

    #[test]
    fn long_intervals_are_said() {
        let mut unseen = Unseen::default();
        let snapshot = kit::snapshot(0, Vec::new());
        let mut window = Watched::default();
        window.take(&snapshot);
        unseen.take(&snapshot, &window);
        assert!(unseen.too_long().is_some_and(|line| line.contains("half of --duration")));
        unseen.gap();
        unseen.take(&snapshot, &window);
        assert!(unseen.too_long().is_some_and(|line| line.contains("half of --duration")));
        unseen.take(&snapshot, &window);
        assert!(unseen.too_long().is_some_and(|line| line.contains("--interval 30s")));
    }
}
