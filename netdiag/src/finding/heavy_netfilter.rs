//! So many packet filter rules that going through them takes its time.

use std::collections::BTreeMap;

use super::{Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, node::inside};
use crate::{
    snapshot::{Owner, node::RuleTable},
    watched::Watched,
};

const RULES: Threshold = Threshold {
    name: "rules",
    value: 10_000.0,
    unit: Unit::Count,
    help: "packet filter rules of a network namespace",
    source: "field practice: above 10,000 it hurts",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "heavy-netfilter",
    help: "a network namespace has very many packet filter rules",
    thresholds: &[&RULES],
    needs: &[],
    parts: &[],
    node: &[Part::Netfilter],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    // Tables may be told in some intervals only: the last that was told of each counts.
    let mut tables: BTreeMap<_, &RuleTable> = BTreeMap::new();
    for table in watched.intervals.iter().flat_map(|interval| &interval.node.netfilter) {
        tables.insert((table.netns, &table.family, &table.table, table.legacy), table);
    }
    let mut namespaces: BTreeMap<u32, Vec<&RuleTable>> = BTreeMap::new();
    for table in tables.into_values() {
        namespaces.entry(table.netns).or_default().push(table);
    }
    let found = namespaces.into_iter();
    found.filter_map(|(netns, tables)| of_namespace(watched, limits, netns, tables)).collect()
}

fn of_namespace(
    watched: &Watched,
    limits: &Limits,
    netns: u32,
    mut tables: Vec<&RuleTable>,
) -> Option<Finding> {
    let rules: u64 = tables.iter().filter_map(|table| table.rules).sum();
    if (rules as f64) < limits.of(&RULES) {
        return None;
    }
    tables.sort_by_key(|table| std::cmp::Reverse(table.rules));
    let title = format!("the packet filter has {rules} rules, which packets go through one by one");
    let finding = Finding::new(watched, Severity::Warning, Scope::namespace(netns), title)
        .confidence(0.6)
        .because(
            "Rules of a chain are tried in order until one matches: thousands cost each packet, or each first \
             packet of a connection, many microseconds, and changing them takes seconds.",
        )
        .beyond(watched, "packet filter rules", rules as f64, &RULES, limits);
    let finding = tables.iter().take(3).fold(finding, |finding, table| {
        let Some(rules) = table.rules.filter(|rules| *rules > 0) else { return finding };
        let metric = format!("in table {} {}", table.family, table.table);
        finding.with(watched, &metric, rules as f64, Unit::Count)
    });
    let softirq = watched.node().and_then(|node| node.cpu).map(|cpu| cpu.most_softirq);
    let finding = match softirq {
        Some(cpu) => finding.with(
            watched,
            "software interrupts of the CPU that has most",
            cpu.softirq_ratio,
            Unit::Ratio,
        ),
        None => finding,
    };
    let finding = if tables.iter().any(|table| table.rules.is_none()) {
        finding.not_seeing("the rules of tables that could not be read")
    } else {
        finding
    };
    let legacy = tables.first().is_some_and(|table| table.legacy);
    let owner = Owner::default();
    Some(
        finding
            .not_seeing("how many of them a packet meets, and the time that takes")
            .advise("accept what is established in the first rule, so that only first packets meet the others")
            .advise("sets and maps for lists of addresses (ipset, nft sets): one look-up for all of them")
            .advise("kube-proxy: the modes nftables or ipvs, or a CNI on eBPF, have no rule for each service")
            .confirm_by(inside(
                watched,
                netns,
                &owner,
                if legacy { "iptables-legacy-save | grep -c -e ^-A" } else { "nft list ruleset | wc -l" },
            ))
            .confirm_by(format!("netdiag live --netns {netns} --sort rtt.p99")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        watched::kit::{self, NETNS},
    };

    /// Rules that are told in the second interval only.
    fn of(nat: u64, filter: Option<u64>) -> Watched {
        kit::with_nodes(&[], |second, node| {
            if second != 1 {
                return;
            }
            for (table, rules) in [("nat", Some(nat)), ("filter", filter)] {
                node.netfilter.push(RuleTable {
                    netns: NETNS,
                    family: "ip".to_owned(),
                    table: table.to_owned(),
                    legacy: false,
                    rules,
                });
            }
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(9_000, Some(999)), None);
        check(&DEFINITION, &of(9_000, Some(1_000)), Some(Severity::Warning));
        check(&DEFINITION, &of(9_999, None), None);
    }

    #[test]
    fn tables_of_several_namespaces_are_no_sum() {
        let watched = kit::with_node(&[], |node| {
            for netns in [NETNS, NETNS + 1] {
                node.netfilter.push(RuleTable {
                    netns,
                    family: "inet".to_owned(),
                    table: "filter".to_owned(),
                    legacy: false,
                    rules: Some(6_000),
                });
            }
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(18_000, Some(40))));
    }
}
