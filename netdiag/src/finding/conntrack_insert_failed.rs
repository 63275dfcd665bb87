//! Connections lose a race for their place in the connection tracking table, and their packets are dropped.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    conntrack_full::NEARLY,
    node::{creator, creators, inside},
};
use crate::{
    snapshot::{Owner, TopCreator},
    watched::{Tracked, Watched},
};

const FAILED: Threshold = Threshold {
    name: "failed",
    value: 5.0,
    unit: Unit::Count,
    help: "connections in a window that could not be put into the table",
    source: "field practice: any is bad, a name asked for takes 5 s then; a few may be one accident",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "conntrack-insert-failed",
    help: "first packets are dropped since another connection has their place in connection tracking",
    thresholds: &[&FAILED],
    needs: &[],
    parts: &[],
    node: &[Part::Conntrack],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let tables = watched.tracked();
    tables.iter().filter_map(|table| of_table(watched, limits, table)).collect()
}

fn is_dns(one: &TopCreator) -> bool {
    one.protocol.as_deref() == Some("udp") && one.destination.port == Some(53)
}

fn of_table(watched: &Watched, limits: &Limits, tracked: &Tracked) -> Option<Finding> {
    let table = &tracked.table;
    let failed = table.insert_failed?;
    if (failed as f64) < limits.of(&FAILED) {
        return None;
    }
    let too_long = table.chaintoolong.unwrap_or(0);
    let crowded = too_long * 2 > failed;
    let title = if crowded {
        format!("{failed} connections found their hash chain of connection tracking too long")
    } else {
        format!("{failed} connections lost the race for their place in connection tracking")
    };
    let finding = Finding::new(watched, Severity::Warning, Scope::namespace(table.netns), title)
        .because(if crowded {
            "The table has too few buckets for its entries: the kernel gives up after a long chain, and drops \
             the packet."
        } else {
            "Two packets at once made an entry for the same conversation, or address translation chose for one \
             what another one has: the second is dropped. Names asked for over UDP hit it most, A and AAAA \
             being sent at once by one socket; the resolver then waits 5 s."
        })
        .beyond(watched, "connections that could not be put in", failed as f64, &FAILED, limits);
    let finding = [
        ("packets dropped", table.drop),
        ("hash chains too long", table.chaintoolong),
        ("clashes that were settled", table.clash_resolve),
    ]
    .into_iter()
    .fold(finding, |finding, (metric, n)| match n {
        Some(n) => finding.with(watched, metric, n as f64, Unit::Count),
        None => finding,
    });
    let finding = match tracked.fill {
        Some(fill) => finding.with(watched, "part of the table taken, at most", fill, Unit::Ratio),
        None => finding,
    };
    let finding = match tracked.fill {
        Some(fill) if fill < NEARLY => finding.ruling_out("a full table: there was room in it"),
        _ => finding,
    };
    let finding = finding.not_seeing("which of the connections lost: the kernel counts them only");
    Some(advised(finding, watched, table.netns, crowded))
}

fn advised(finding: Finding, watched: &Watched, netns: u32, crowded: bool) -> Finding {
    let creators = creators(watched, netns);
    let dns = creators.iter().find(|one| is_dns(one));
    let finding = if crowded {
        finding.advise(
            "give the table more buckets: net.netfilter.nf_conntrack_buckets, one per entry or two",
        )
    } else {
        let finding = match dns {
            Some(one) => finding.advise(format!(
                "names first: {}; a cache on the node (node-local DNS) over TCP, or options \
                 single-request-reopen or use-vc in resolv.conf",
                creator(one)
            )),
            None => finding.advise(
                "if names are asked for over UDP: a cache on the node, or options single-request-reopen or \
                 use-vc in resolv.conf",
            ),
        };
        finding
            .advise("let address translation choose ports at random: --random-fully of SNAT and MASQUERADE")
            .advise("do not track UDP to port 53 where it needs no address translation (NOTRACK)")
    };
    finding
        .confirm_by(inside(watched, netns, &Owner::default(), "conntrack -S"))
        .confirm_by(format!("netdiag events --kind dns --netns {netns}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::ConntrackTable,
        watched::kit::{self, NETNS, end},
    };

    fn of(failed: u64, chaintoolong: u64) -> Watched {
        let mut watched = kit::with_nodes(&[], |second, node| {
            let once = |n| Some(if second == 0 { n } else { 0 });
            node.conntrack.push(ConntrackTable {
                netns: NETNS,
                entries: 300,
                max: Some(1_000),
                insert_failed: once(failed),
                drop: once(failed),
                early_drop: Some(0),
                clash_resolve: Some(2),
                invalid: Some(0),
                chaintoolong: once(chaintoolong),
            });
        });
        watched.creators.push(TopCreator {
            netns: Some(NETNS),
            protocol: Some("udp".to_owned()),
            destination: end("10.0.0.53", 53),
            creator: Some(kit::owner("resolver")),
            new: Some(1_000),
            confirmed: None,
            table_full: None,
        });
        watched
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(4, 0), None);
        check(&DEFINITION, &of(5, 0), Some(Severity::Warning));
    }

    #[test]
    fn chains_are_told_apart() {
        let advice = |watched: &Watched| rule(watched, &Limits::default()).remove(0).advice;
        assert!(advice(&of(50, 50))[0].contains("buckets"));
        assert!(advice(&of(50, 0))[0].contains("resolver/812"));
    }

    /// Clashes that were settled cost nothing.
    #[test]
    fn what_was_settled_is_nothing() {
        check(&DEFINITION, &of(0, 0), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(40, 0)));
    }
}
