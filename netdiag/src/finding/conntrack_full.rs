//! The connection tracking table has no room: new connections are dropped without a word.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::many,
    node::{creator, creators, doubled, graded, inside, made, with_creators},
};
use crate::{
    format,
    snapshot::Owner,
    watched::{Tracked, Watched},
};

const FILL: Threshold = Threshold {
    name: "fill",
    value: 0.95,
    unit: Unit::Ratio,
    help: "part of the table that is taken, at most",
    source: "field practice: 95 % and more is bad",
};
const DROPS: Threshold = Threshold {
    name: "drops",
    value: 1.0,
    unit: Unit::Count,
    help: "packets of new connections that a full table dropped",
    source: "field practice: any drop is bad",
};

/// Below this part of the table what is dropped is dropped for something else, unless it was seen why. It is counted
/// once an interval, and from 95 % on the kernel throws entries out early (`gc_worker`,
/// net/netfilter/nf_conntrack_core.c), so the counts may all be some percent below a table that was full.
pub(super) const NEARLY: f64 = 0.9;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "conntrack-full",
    help: "the connection tracking table is full, new connections are dropped",
    thresholds: &[&FILL, &DROPS],
    needs: &[],
    parts: &[],
    node: &[Part::Conntrack],
    exact: &[],
    packets: &[],
    causes: &["connection-churn"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let tables = watched.tracked();
    tables.iter().filter_map(|table| of_table(watched, limits, table)).collect()
}

/// Packets that were dropped because it was full.
pub(super) fn dropped(watched: &Watched, tracked: &Tracked) -> u64 {
    let table = &tracked.table;
    let of_here = watched.creators.iter().filter(|one| one.netns == Some(table.netns));
    let seen: u64 = of_here.filter_map(|one| one.table_full).sum();
    // The kernel counts those that lost a race for a place as well.
    let others = table.insert_failed.unwrap_or(0);
    let counted = table.drop.unwrap_or(0).saturating_sub(others);
    let is_near = tracked.fill.is_some_and(|fill| fill >= NEARLY);
    if is_near { counted.max(seen) } else { seen }
}

fn of_table(watched: &Watched, limits: &Limits, tracked: &Tracked) -> Option<Finding> {
    let table = &tracked.table;
    let max = table.max.filter(|max| *max > 0)?;
    let fill = tracked.fill?;
    let dropped = dropped(watched, tracked);
    let drops = graded(dropped as f64, limits, &[(Severity::Critical, &DROPS)]);
    let (severity, _) = drops.or(graded(fill, limits, &[(Severity::Warning, &FILL)]))?;
    let full = match tracked.peak.saturating_mul(100) / max {
        100.. => "full".to_owned(),
        percent => format!("{percent} % full"),
    };
    let room = format!("{} of {max} entries", tracked.peak);
    let title = match dropped {
        0 => format!("connection tracking is {full}: {room}"),
        n => {
            let packets = many(n as usize, "packet");
            format!("connection tracking is {full} ({room}) and dropped {packets}")
        }
    };
    let finding = Finding::new(watched, severity, Scope::namespace(table.netns), title)
        .confidence(0.95)
        .because(
            "Each connection that passes the packet filter needs an entry, long after it ended: 120 s for \
             closed TCP, 30 s for UDP, 5 days for TCP that nobody closed. Without room its first packet is \
             dropped; clients see timeouts and no error.",
        );
    let finding = match drops {
        Some(_) => finding
            .beyond(watched, "packets dropped by a full table", dropped as f64, &DROPS, limits)
            .beyond(watched, "part of the table taken, at most", fill, &FILL, limits),
        None => finding.beyond(watched, "part of the table taken, at most", fill, &FILL, limits),
    };
    let finding = finding
        .with(watched, "entries at the end", table.entries as f64, Unit::Count)
        .with(watched, "room (nf_conntrack_max)", max as f64, Unit::Count);
    let finding = match table.early_drop {
        Some(n) => finding.with(watched, "thrown out early to make room", n as f64, Unit::Count),
        None => finding,
    };
    let finding = with_creators(finding, watched, table.netns);
    Some(advised(finding, watched, table.netns, max))
}

/// Whoever makes the entries first, the table last.
pub(super) fn advised(finding: Finding, watched: &Watched, netns: u32, max: u64) -> Finding {
    let most = creators(watched, netns).into_iter().next();
    let finding = match most {
        Some(one) => {
            let rate = made(one) as f64 / watched.seconds.max(1e-9);
            let what = match one.protocol.as_deref() {
                Some("tcp") => "keep connections and pool them, one for many requests",
                Some("udp") if one.destination.port == Some(53) => {
                    "cache names on this node, or ask over connections that last"
                }
                _ => "use one socket for many of its packets, they are one entry then",
            };
            finding.advise(format!(
                "pool connections: {} makes {} entries a second; {what}",
                creator(one),
                format::count(rate.round() as u64)
            ))
        }
        None => finding.advise(
            "pool connections: find who opens one for each request, and have it keep some instead",
        ),
    };
    let owner = Owner::default();
    finding
        .advise(
            "do not track what needs it not (a NOTRACK rule in the raw table for busy ports without NAT)",
        )
        .advise(
            "let entries go sooner: nf_conntrack_tcp_timeout_established and _time_wait, below 5 days and 120 s",
        )
        .advise(doubled(max))
        .confirm_by(inside(watched, netns, &owner, "conntrack -S"))
        .confirm_by(inside(
            watched,
            netns,
            &owner,
            "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        ))
        .confirm_by(format!("netdiag events --kind conntrack --netns {netns}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{ConntrackTable, TopCreator},
        watched::kit::{self, NETNS, end},
    };

    /// A table of a thousand with so many entries, which drops so many packets in the first second, of
    /// which so many have lost a race.
    fn of(entries: u64, drop: u64, insert_failed: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            let once = |n| Some(if second == 0 { n } else { 0 });
            node.conntrack.push(ConntrackTable {
                netns: NETNS,
                entries,
                max: Some(1_000),
                insert_failed: once(insert_failed),
                drop: once(drop),
                early_drop: Some(0),
                clash_resolve: None,
                invalid: Some(0),
                chaintoolong: None,
            });
        })
    }

    fn made(mut watched: Watched, table_full: u64) -> Watched {
        watched.creators.push(TopCreator {
            netns: Some(NETNS),
            protocol: Some("tcp".to_owned()),
            destination: end("10.0.0.2", 9200),
            creator: Some(kit::owner("php")),
            new: Some(4_000),
            confirmed: Some(3_900),
            table_full: Some(table_full),
        });
        watched
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(949, 0, 0), None);
        check(&DEFINITION, &of(950, 0, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(950, 1, 0), Some(Severity::Critical));
        check(&DEFINITION, &of(1_100, 100, 0), Some(Severity::Critical));
    }

    #[test]
    fn only_what_has_no_room_is_full() {
        let title = |entries, drop| rule(&of(entries, drop, 0), &Limits::default()).remove(0).title;
        assert_eq!(title(950, 0), "connection tracking is 95 % full: 950 of 1000 entries");
        assert_eq!(title(999, 0), "connection tracking is 99 % full: 999 of 1000 entries");
        assert_eq!(title(1_000, 0), "connection tracking is full: 1000 of 1000 entries");
        assert_eq!(
            title(960, 1),
            "connection tracking is 96 % full (960 of 1000 entries) and dropped 1 packet"
        );
    }

    /// A packet that is dropped in a table with room has lost a race, or something else happened to it.
    #[test]
    fn drops_with_room_are_something_else() {
        check(&DEFINITION, &of(500, 100, 100), None);
        check(&DEFINITION, &of(500, 100, 0), None);
        check(&DEFINITION, &of(940, 100, 100), None);
        check(&DEFINITION, &made(of(500, 0, 0), 0), None);
        check(&DEFINITION, &made(of(500, 0, 0), 1), Some(Severity::Critical));
        let without_limit = kit::with_node(&[], |node| {
            node.conntrack.push(ConntrackTable {
                netns: NETNS,
                entries: 5_000_000,
                max: None,
                insert_failed: None,
                drop: None,
                early_drop: None,
                clash_resolve: None,
                invalid: None,
                chaintoolong: None,
            });
        });
        check(&DEFINITION, &without_limit, None);
    }

    #[test]
    fn wording() {
        let watched = made(of(1_000, 70, 0), 60);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
