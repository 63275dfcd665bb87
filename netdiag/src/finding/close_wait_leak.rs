//! A process does not close connections that its peers have closed.

use super::{
    Definition, Finding, Limits, Part, Severity, Threshold, Unit,
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
    help: "how long there are so many",
    source: "who closes late does so within a few seconds",
};
const FALL: Threshold = Threshold {
    name: "fall",
    value: 0.1,
    unit: Unit::Ratio,
    help: "by which part they may become fewer in that time",
    source: "what normal traffic leaves for a moment comes and goes around what leaks",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "close-wait-leak",
    help: "a process does not close connections that its peers have closed",
    thresholds: &[&COUNT, &CRITICAL, &SECONDS, &FALL],
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

/// How many stay.
struct Stays {
    /// The fewest of late, and the last.
    least: u64,
    last: u64,
    /// By how many they became more.
    grew: u64,
}

impl Stays {
    /// Of those that `count` tells of a namespace; none where they do not stay, or are few.
    fn of(
        watched: &Watched,
        limits: &Limits,
        netns: u32,
        count: impl Fn(&Sockets) -> u64,
    ) -> Option<Self> {
        let lately = watched.lately(limits.of(&SECONDS), |node: &Node| {
            let sockets = node.sockets.iter().find(|one| one.netns == netns)?;
            Some((count(sockets), sockets.known_ns()))
        })?;
        let (first, last) = (*lately.first()?, *lately.last()?);
        let least = lately.into_iter().min()?;
        let are_closed = (last as f64) < first as f64 * (1.0 - limits.of(&FALL));
        let stay = least as f64 >= limits.of(&COUNT) && !are_closed;
        stay.then(|| Self { least, last, grew: last.saturating_sub(first) })
    }
}

/// How many a process holds.
fn held_by(sockets: &Sockets, owner: &Owner) -> u64 {
    let is_its =
        |held: &&HeldSockets| (held.owner.pid, &held.owner.comm) == (owner.pid, &owner.comm);
    sockets.close_wait.iter().filter(is_its).map(|held| held.count).sum()
}

/// How many the namespace has, without those that wait to be accepted: no process has these to close.
fn accepted(sockets: &Sockets) -> u64 {
    sockets.states.close_wait.saturating_sub(sockets.close_wait_unaccepted.unwrap_or(0))
}

/// How many of these it is not known of which process they are: those that no owner was found of, and those that none was
/// looked for. What else is not told is of processes that hold fewer than the ten that are. An older netdiag did not say
/// for how many it looked.
fn of_nobody(sockets: &Sockets) -> u64 {
    let told = |is_known: bool| {
        let held = sockets.close_wait.iter().filter(|held| held.owner.is_known() == is_known);
        held.map(|held| held.count).sum::<u64>()
    };
    match sockets.close_wait_looked_at {
        Some(looked_at) => told(false) + accepted(sockets).saturating_sub(looked_at),
        None => accepted(sockets).saturating_sub(told(true)),
    }
}

/// Those of each process by themselves: what others have for a moment says nothing of them.
fn of_namespace(watched: &Watched, limits: &Limits, sockets: &Sockets) -> Vec<Finding> {
    let netns = sockets.netns;
    let told: u64 = sockets.close_wait.iter().map(|held| held.count).sum();
    let untold = accepted(sockets).saturating_sub(told);
    let known = sockets.close_wait.iter().filter(|held| held.owner.is_known());
    let leaks = known.filter_map(|held| {
        let owner = &held.owner;
        let stays = Stays::of(watched, limits, netns, |sockets| held_by(sockets, owner))?;
        found(watched, limits, netns, owner, &stays)
    });
    let leaks: Vec<_> = leaks.collect();
    if leaks.is_empty() {
        let rest = Stays::of(watched, limits, netns, of_nobody);
        let nobody = Owner::default();
        return Vec::from_iter(rest.and_then(|rest| found(watched, limits, netns, &nobody, &rest)));
    }
    let leaks = leaks.into_iter().map(|finding| match untold {
        0 => finding,
        n => finding.not_seeing(format!(
            "whose {n} more of the namespace are, maybe this one's: owners are told of the first 4,096 only, and \
             of ten processes"
        )),
    });
    leaks.collect()
}

fn found(
    watched: &Watched,
    limits: &Limits,
    netns: u32,
    owner: &Owner,
    &Stays { least, last: count, grew }: &Stays,
) -> Option<Finding> {
    let steps = [(Severity::Critical, &CRITICAL), (Severity::Warning, &COUNT)];
    let (severity, threshold) = graded(count as f64, limits, &steps)?;
    let (scope, is_known) = (holder(Some(netns), owner), owner.is_known());
    let who = if is_known { name(owner) } else { "a process".to_owned() };
    let title = format!("{who} keeps {count} connections open that their peers have closed");
    let finding = Finding::new(watched, severity, scope, title)
        .confidence(if is_known { 0.95 } else { 0.8 })
        .because(
            "A socket stays in CLOSE_WAIT until the process closes it; no timer of the kernel does. Each keeps a \
             file descriptor and memory, until the process can open nothing more.",
        )
        .beyond(watched, "sockets in CLOSE_WAIT at the end", count as f64, threshold, limits)
        .with(watched, "fewest within the last seconds", least as f64, Unit::Count)
        .with(watched, "more within the last seconds", grew as f64, Unit::Count)
        .ruling_out("a moment: so many were there all the time, and hardly fewer in the end");
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
        finding::{Scope, tests::check},
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

    /// Beside normal traffic there are now some more of them and now some fewer.
    #[test]
    fn what_comes_and_goes_beside_it_changes_nothing() {
        check(&DEFINITION, &of(|second| 300 + second * 7 % 20), Some(Severity::Warning));
        let falling = |last| of(move |second| if second == 9 { last } else { 1_010 });
        check(&DEFINITION, &falling(910), Some(Severity::Warning));
        check(&DEFINITION, &falling(908), None);
    }

    /// What another process closes is not this one's.
    #[test]
    fn each_process_is_looked_at_by_itself() {
        let beside = |others: fn(u64) -> u64| {
            kit::with_nodes(&[], |second, node| {
                let others = others(second);
                let states = States { close_wait: 300 + others, ..States::default() };
                let web = Owner { pid: Some(9), ..kit::owner("web") };
                let close_wait = vec![
                    HeldSockets { owner: web, count: others },
                    HeldSockets { owner: kit::owner("orders"), count: 300 },
                ];
                let sockets = Sockets { netns: NETNS, states, close_wait, ..Sockets::default() };
                node.sockets.push(sockets);
            })
        };
        let both: [fn(u64) -> u64; 2] =
            [|second| 1_000 - 100 * second, |second| if second < 9 { 0 } else { 500 }];
        for others in both {
            let found = rule(&beside(others), &Limits::default());
            let names: Vec<_> = found.iter().map(|one| one.scope.name.as_str()).collect();
            assert_eq!(names, ["orders/812"]);
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

    /// Two pools that each have some make no leak together.
    #[test]
    fn what_known_processes_hold_is_theirs() {
        let beside = |count: u64, nobody: u64| {
            kit::with_node(&[], |node| {
                let states = States { close_wait: 2 * count + nobody, ..States::default() };
                let held = |pid| {
                    let owner = Owner { pid: Some(pid), ..kit::owner("worker") };
                    HeldSockets { owner, count }
                };
                let close_wait = vec![held(8), held(9)];
                let sockets = Sockets { netns: NETNS, states, close_wait, ..Sockets::default() };
                node.sockets.push(sockets);
            })
        };
        check(&DEFINITION, &beside(99, 0), None);
        check(&DEFINITION, &beside(99, 99), None);
        check(&DEFINITION, &beside(99, 100), Some(Severity::Warning));
        let found = rule(&beside(99, 100), &Limits::default()).remove(0);
        assert_eq!(found.scope, Scope::namespace(NETNS));
        assert!(found.title.contains("keeps 100 connections"), "{}", found.title);
    }

    /// The pools of many workers: all of their owners are found, and ten of them told.
    #[test]
    fn those_of_more_processes_than_are_told_have_owners_too() {
        let pools = |close_wait: u64, each: u64, looked_at: u64, unknown: u64| {
            kit::with_node(&[], |node| {
                let held = |pid| {
                    let owner = Owner { pid: Some(pid), ..kit::owner("worker") };
                    HeldSockets { owner, count: each }
                };
                let nobody = HeldSockets { owner: Owner::default(), count: unknown };
                node.sockets.push(Sockets {
                    netns: NETNS,
                    states: States { close_wait, ..States::default() },
                    close_wait: (0..9).map(held).chain([nobody]).collect(),
                    close_wait_looked_at: Some(looked_at),
                    ..Sockets::default()
                });
            })
        };
        check(&DEFINITION, &pools(1_280, 20, 1_280, 0), None);
        check(&DEFINITION, &pools(600, 30, 600, 0), None);
        // Those that no owner was found of, and those that none was looked for.
        check(&DEFINITION, &pools(1_379, 20, 1_379, 99), None);
        check(&DEFINITION, &pools(1_380, 20, 1_380, 100), Some(Severity::Warning));
        check(&DEFINITION, &pools(4_195, 60, 4_096, 0), None);
        check(&DEFINITION, &pools(4_196, 60, 4_096, 0), Some(Severity::Warning));
    }

    /// Clients that have given up wait in the accept queue of a server that accepts late.
    #[test]
    fn what_nobody_accepted_is_no_leak() {
        let waiting = |unaccepted| {
            kit::with_node(&[], |node| {
                node.sockets.push(Sockets {
                    netns: NETNS,
                    states: States { close_wait: 300, ..States::default() },
                    close_wait_unaccepted: Some(unaccepted),
                    ..Sockets::default()
                });
            })
        };
        check(&DEFINITION, &waiting(200), Some(Severity::Warning));
        check(&DEFINITION, &waiting(201), None);
    }

    #[test]
    fn wording() {
        let watched = of(|second| 300 + 10 * second);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
