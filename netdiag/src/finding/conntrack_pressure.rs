//! The connection tracking table is nearly full.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    conntrack_full::{advised, dropped},
    node::with_creators,
};
use crate::{
    format,
    watched::{Tracked, Watched},
};

const FILL: Threshold = Threshold {
    name: "fill",
    value: 0.8,
    unit: Unit::Ratio,
    help: "part of the table that is taken, at most",
    source: "field practice: from 80 % on it is worth a look",
};
/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "conntrack-pressure",
    help: "the connection tracking table is nearly full",
    thresholds: &[&FILL],
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

fn of_table(watched: &Watched, limits: &Limits, tracked: &Tracked) -> Option<Finding> {
    let table = &tracked.table;
    let max = table.max.filter(|max| *max > 0)?;
    let fill = tracked.fill?;
    if fill < limits.of(&FILL) {
        return None;
    }
    let title = format!(
        "connection tracking is nearly full: {} of {max} entries ({})",
        tracked.peak,
        format::percent(fill)
    );
    let finding =
        Finding::new(watched, Severity::Warning, Scope::namespace(table.netns), title)
            .unless(&["conntrack-full"])
            .because(
                "A burst of new connections fills the rest. What finds no room is dropped without a word; \
                 clients see timeouts.",
            )
            .beyond(watched, "part of the table taken, at most", fill, &FILL, limits)
            .with(watched, "entries at the end", table.entries as f64, Unit::Count)
            .with(watched, "room (nf_conntrack_max)", max as f64, Unit::Count);
    let grows = table.entries as f64 - tracked.first as f64;
    let rate = grows / tracked.seconds.max(1e-9);
    let finding = if rate >= 1.0 {
        let left = max.saturating_sub(table.entries) as f64 / rate;
        finding.with(watched, "full at this growth after", left, Unit::S)
    } else {
        finding
    };
    let finding = with_creators(finding, watched, table.netns);
    let finding = match dropped(watched, tracked) {
        0 => finding.ruling_out("packets dropped for want of room: none in the window"),
        n => finding.with(watched, "packets dropped by a full table", n as f64, Unit::Count),
    };
    Some(advised(finding, watched, table.netns, max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::{Diagnosis, Thresholds},
        finding::tests::check,
        snapshot::ConntrackTable,
        watched::kit::{self, NETNS},
    };

    /// One of ten thousand.
    fn table(entries: u64, drop: u64) -> ConntrackTable {
        ConntrackTable {
            netns: NETNS,
            entries,
            max: Some(10_000),
            insert_failed: Some(0),
            drop: Some(drop),
            early_drop: Some(0),
            clash_resolve: None,
            invalid: Some(0),
            chaintoolong: None,
        }
    }

    /// With so many entries at first and at the end.
    fn of(first: u64, last: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            node.conntrack.push(table(first + (last - first) * second / 9, 0));
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(7_000, 7_999), None);
        check(&DEFINITION, &of(7_000, 8_000), Some(Severity::Warning));
        check(&DEFINITION, &of(7_000, 9_499), Some(Severity::Warning));
    }

    /// By the thresholds of conntrack-full, whatever they are.
    #[test]
    fn a_full_one_is_told_of_once() {
        let told = |last: u64, drop: u64, fill: f64| {
            let given = Limits::new(vec![("fill", fill)]);
            let mut diagnosis = Diagnosis::new(Thresholds::from([("conntrack-full", given)]));
            for second in 0..10 {
                let mut snapshot = kit::snapshot(second, vec![]);
                snapshot.node.conntrack.push(table(last, drop));
                diagnosis.take(&snapshot);
            }
            let found = diagnosis.report().expect("a report").findings;
            found.into_iter().map(|one| one.id).collect::<Vec<_>>()
        };
        assert_eq!(told(9_499, 0, 0.95), ["conntrack-pressure"]);
        assert_eq!(told(9_500, 0, 0.95), ["conntrack-full"]);
        assert_eq!(told(9_700, 0, 0.99), ["conntrack-pressure"]);
        assert_eq!(told(9_100, 5, 0.95), ["conntrack-full"]);
    }

    /// What is told at the end of the first interval has grown in the others alone.
    #[test]
    fn growth_is_that_of_the_time_between_the_first_count_and_the_last() {
        let left = |watched: &Watched| {
            let found = rule(watched, &Limits::default()).remove(0);
            let full = found.evidence.iter().find(|one| one.metric.starts_with("full at"));
            full.map(|one| one.value)
        };
        assert_eq!(left(&of(8_000, 8_900)), Some(11.0), "100 a second for nine of them");
        assert_eq!(left(&of(8_000, 8_009)), Some(1_991.0));
        assert_eq!(left(&of(8_000, 8_008)), None, "less than one a second");
        let mut once = Watched::default();
        let mut snapshot = kit::snapshot(0, vec![]);
        snapshot.node.conntrack.push(table(8_500, 0));
        once.take(&snapshot);
        assert_eq!(left(&once), None, "nobody knows how many there were before");
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(8_000, 8_900)));
    }
}
