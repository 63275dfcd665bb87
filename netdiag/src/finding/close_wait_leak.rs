//! A process does not close connections that its peers have closed.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    node::{graded, holder, inside, name},
};
use crate::{
    snapshot::{
        Node, Owner,
        node::{HeldSockets, Sockets},
    },
    watched::Watched,
};

const COUNT: Threshold = Threshold {
    name: "count",
    value: 100.0,
    unit: Unit::Count,
    help: "sockets in CLOSE_WAIT that stay",
    source: "field practice: above 100 the application leaks",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 1_000.0,
    unit: Unit::Count,
    help: "the same, from which on the process may have no file descriptor left",
    source: "the usual limit of open files is 1,024",
};
const SECONDS: Threshold = Threshold {
    name: "seconds",
    value: 5.0,
    unit: Unit::S,
    help: "how long they do not become fewer",
    source: "who closes late does so within a few seconds",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "close-wait-leak",
    help: "a process does not close connections that its peers have closed",
    thresholds: &[&COUNT, &CRITICAL, &SECONDS],
    needs: &[],
    parts: &[],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let Some(node) = watched.node() else { return Vec::new() };
    node.sockets.iter().flat_map(|sockets| of_namespace(watched, limits, sockets)).collect()
}

/// How many, and how old that is.
fn close_wait(node: &Node, netns: u32) -> Option<(u64, u64)> {
    let sockets = node.sockets.iter().find(|one| one.netns == netns)?;
    Some((sockets.states.close_wait, sockets.known_ns()))
}

fn of_namespace(watched: &Watched, limits: &Limits, sockets: &Sockets) -> Vec<Finding> {
    let netns = sockets.netns;
    let Some(lately) = watched.lately(limits.of(&SECONDS), |node| close_wait(node, netns)) else {
        return Vec::new();
    };
    let (Some(first), Some(last)) = (lately.first(), lately.last()) else { return Vec::new() };
    let least = lately.iter().min().copied().unwrap_or(0);
    if (least as f64) < limits.of(&COUNT) || last < first {
        return Vec::new();
    }
    let grew = last - first;
    let told: u64 = sockets.close_wait.iter().map(|held| held.count).sum();
    let untold = sockets.states.close_wait.saturating_sub(told);
    let is_known = |held: &&HeldSockets| held.owner.pid.is_some() || held.owner.comm.is_some();
    let known = sockets.close_wait.iter().filter(is_known);
    let many: Vec<_> = known.filter(|held| held.count as f64 >= limits.of(&COUNT)).collect();
    if many.is_empty() {
        let nobody = Owner::default();
        return Vec::from_iter(found(watched, limits, netns, &nobody, *last, grew));
    }
    let found =
        many.iter().filter_map(|held| found(watched, limits, netns, &held.owner, held.count, grew));
    let found = found.map(|finding| match untold {
        0 => finding,
        n => finding.not_seeing(format!(
            "whose {n} more of the namespace are, maybe this one's: owners are told of the first 4,096 only, and \
             of ten processes"
        )),
    });
    found.collect()
}

fn found(
    watched: &Watched,
    limits: &Limits,
    netns: u32,
    owner: &Owner,
    count: u64,
    grew: u64,
) -> Option<Finding> {
    let steps = [(Severity::Critical, &CRITICAL), (Severity::Warning, &COUNT)];
    let (severity, threshold) = graded(count as f64, limits, &steps)?;
    let scope = holder(netns, owner);
    let is_known = scope != Scope::namespace(netns);
    let who = if is_known { name(owner) } else { "a process".to_owned() };
    let title = format!("{who} keeps {count} connections open that their peers have closed");
    let finding = Finding::new(watched, severity, scope, title)
        .confidence(if is_known { 0.95 } else { 0.8 })
        .because(
            "A socket stays in CLOSE_WAIT until the process closes it; no timer of the kernel does. Each keeps a \
             file descriptor and memory, until the process can open nothing more.",
        )
        .beyond(watched, "sockets in CLOSE_WAIT at the end", count as f64, threshold, limits)
        .with(watched, "more of the namespace within the last seconds", grew as f64, Unit::Count)
        .ruling_out("a moment: there were no fewer at the end than before");
    let finding = if is_known {
        finding
    } else {
        finding.not_seeing("which process holds them, or several hold a few each")
    };
    let finding = finding
        .advise(format!(
            "look for a path in {who} that does not close: an error, a timeout, a response that is not read to \
             its end"
        ))
        .advise("a pool must test connections before use, and throw out those that read end of file")
        .advise("until it is mended: restart it before it runs out of descriptors (ulimit -n)")
        .confirm_by(inside(watched, netns, owner, "ss -tanp state close-wait"));
    Some(match owner.pid {
        Some(pid) => finding
            .confirm_by(format!("grep 'open files' /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l")),
        None => finding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::node::States,
        watched::kit::{self, NETNS},
    };

    /// Sockets in CLOSE_WAIT by second, of two processes: the second one has ten.
    fn of(count: impl Fn(u64) -> u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            let close_wait = count(second);
            let states = States { close_wait, ..States::default() };
            let held = |comm, count| HeldSockets { owner: kit::owner(comm), count };
            let close_wait = vec![held("orders", close_wait.saturating_sub(10)), held("web", 10)];
            node.sockets.push(Sockets { netns: NETNS, states, close_wait, ..Sockets::default() });
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(|_| 99), None);
        check(&DEFINITION, &of(|_| 110), Some(Severity::Warning));
        check(&DEFINITION, &of(|_| 1_009), Some(Severity::Warning));
        check(&DEFINITION, &of(|_| 1_010), Some(Severity::Critical));
        check(&DEFINITION, &of(|second| if second < 5 { 0 } else { 300 }), Some(Severity::Warning));
        check(&DEFINITION, &of(|second| if second < 6 { 0 } else { 300 }), None);
    }

    /// Where there are many sockets they are not counted in each interval.
    #[test]
    fn one_count_that_is_told_again_is_one() {
        let counted = |every: u64| {
            kit::with_nodes(&[], |second, node| {
                let states = States { close_wait: 300, ..States::default() };
                let age_ns = second % every * 1_000_000_000;
                node.sockets.push(Sockets { netns: NETNS, age_ns, states, ..Sockets::default() });
            })
        };
        check(&DEFINITION, &counted(10), None);
        check(&DEFINITION, &counted(5), Some(Severity::Warning));
    }

    #[test]
    fn what_has_no_owner_is_said() {
        let watched = kit::with_node(&[], |node| {
            let states = States { close_wait: 9_000, ..States::default() };
            let close_wait = vec![HeldSockets { owner: kit::owner("orders"), count: 4_096 }];
            node.sockets.push(Sockets { netns: NETNS, states, close_wait, ..Sockets::default() });
        });
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.not_observable[0].contains("4904 more"), "{:?}", found.not_observable);
    }

    #[test]
    fn two_long_intervals_are_enough() {
        let mut watched = Watched::default();
        for minute in 0..2 {
            let mut snapshot = kit::snapshot(minute * 60, vec![]);
            snapshot.end = kit::snapshot(minute * 60 + 60, vec![]).start;
            let states = States { close_wait: 300, ..States::default() };
            snapshot.node.sockets.push(Sockets { netns: NETNS, states, ..Sockets::default() });
            watched = watched.next();
            watched.take(&snapshot);
            check(&DEFINITION, &watched, (minute > 0).then_some(Severity::Warning));
        }
    }

    /// A server that closes late has some, and then others.
    #[test]
    fn what_is_closed_is_no_leak() {
        check(&DEFINITION, &of(|second| 300 - second * 10), None);
        check(&DEFINITION, &of(|second| if second == 7 { 20 } else { 300 }), None);
    }

    #[test]
    fn where_no_process_is_known_it_is_the_namespace() {
        let watched = kit::with_node(&[], |node| {
            let states = States { close_wait: 300, ..States::default() };
            let close_wait = vec![HeldSockets { owner: Owner::default(), count: 300 }];
            node.sockets.push(Sockets { netns: NETNS, states, close_wait, ..Sockets::default() });
        });
        let found = rule(&watched, &Limits::default()).remove(0);
        assert_eq!(found.scope, Scope::namespace(NETNS));
    }

    #[test]
    fn wording() {
        let watched = of(|second| 300 + 10 * second);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
