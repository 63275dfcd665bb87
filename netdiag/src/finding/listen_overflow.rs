//! A listener's accept queue is full: the application accepts too late for what comes.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::{end, threads_of},
    node::{graded, holder, inside, name, part},
};
use crate::watched::{Queues, Watched};

const LEAST: Threshold = Threshold {
    name: "overflows",
    value: 5.0,
    unit: Unit::Count,
    help: "connections in a window for which an accept queue had no room",
    source: "each keeps a client waiting for 1 s or more; a few may be one burst",
};
const CRITICAL_SHARE: Threshold = Threshold {
    name: "critical_share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of all that asked for a connection of the namespace, from which on it hardly serves",
    source: "the larger part is turned away",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "listen-overflow",
    help: "an application accepts connections later than they come, and they are dropped",
    thresholds: &[&LEAST, &CRITICAL_SHARE],
    needs: &[],
    parts: &[],
    node: &[Part::Tcp, Part::Listeners],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved", "tcp-memory-pressure", "slow-local-application"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let namespaces = watched.namespaces().into_iter();
    namespaces.flat_map(|netns| of_namespace(watched, limits, netns)).collect()
}

fn of_namespace(watched: &Watched, limits: &Limits, netns: u32) -> Vec<Finding> {
    let overflows = watched.tcp(netns, "ListenOverflows").unwrap_or(0);
    if (overflows as f64) < limits.of(&LEAST) {
        return Vec::new();
    }
    // What a listener drops it may have dropped for want of room for requests, too.
    let others = watched.tcp(netns, "TCPReqQFullDrop").unwrap_or(0);
    let listeners = watched.listeners(netns);
    let is_full = |one: &&Queues| one.limit > 0 && one.accept_queue >= one.limit;
    let full = listeners.iter().filter(|one| is_full(one) || (others == 0 && one.drops > 0));
    let mut full: Vec<_> = full.collect();
    let many = |one: &&Queues| one.drops as f64 >= limits.of(&LEAST);
    match full.iter().filter(|one| many(one)).count() {
        // Where nobody dropped many alone, the one that dropped most is named.
        0 => full.truncate(1),
        _ => full.retain(many),
    }
    if full.is_empty() {
        return vec![found(watched, limits, netns, overflows, None)];
    }
    full.into_iter().map(|one| found(watched, limits, netns, overflows, Some(one))).collect()
}

fn found(
    watched: &Watched,
    limits: &Limits,
    netns: u32,
    overflows: u64,
    listener: Option<&Queues>,
) -> Finding {
    let accepted = watched.tcp(netns, "PassiveOpens").unwrap_or(0);
    let share = part(overflows, accepted);
    let severity = match graded(share, limits, &[(Severity::Critical, &CRITICAL_SHARE)]) {
        Some((severity, _)) => severity,
        None => Severity::Warning,
    };
    let owner = listener.map(|one| one.owner.clone()).unwrap_or_default();
    let who = name(&owner);
    let (scope, title) = match listener {
        Some(one) => {
            let scope = holder(Some(netns), &owner);
            let scope = match one.local.port {
                Some(port) => scope.at(port),
                None => scope,
            };
            let title = format!(
                "{who} accepts too late at {}: its accept queue of {} overflows",
                end(&one.local),
                one.limit
            );
            (scope, title)
        }
        None => (
            Scope::namespace(netns),
            "an application accepts too late: an accept queue overflows".to_owned(),
        ),
    };
    let finding = Finding::new(watched, severity, scope, title)
        .confidence(if listener.is_some() { 0.95 } else { 0.8 })
        .because(
            "The connection is done for the client, or nearly, and there is no room for it here: the kernel \
             drops the client's segment without a word, and the client tries again after 1 s, 3 s, 7 s.",
        )
        .beyond(watched, "accept queue overflows", overflows as f64, &LEAST, limits)
        .beyond(watched, "part of all that asked", share, &CRITICAL_SHARE, limits);
    let port = listener.and_then(|one| one.local.port);
    let finding = queues(finding, watched, netns, listener, port);
    let somaxconn = watched.settings(netns).and_then(|settings| settings.somaxconn);
    let finding = finding
        .advise(format!(
            "find out why {who} accepts late: all its threads busy, blocked, or one that accepts and works"
        ))
        .advise("more workers that accept (SO_REUSEPORT, more processes or instances)")
        .advise(match somaxconn {
            Some(n) => format!(
                "a longer queue helps against bursts only: the backlog that it gives listen(), at most \
                 net.core.somaxconn, here {n}"
            ),
            None => "a longer queue helps against bursts only: the backlog that it gives listen(), at most \
                     net.core.somaxconn"
                .to_owned(),
        });
    let filter = port.map(|port| format!(" 'sport = :{port}'")).unwrap_or_default();
    let finding = finding.confirm_by(inside(watched, netns, &owner, &format!("ss -ltnp{filter}")));
    match owner.pid {
        Some(pid) => finding.confirm_by(threads_of(pid)),
        None => finding,
    }
}

/// What is known of the queue, and how long those waited that were accepted.
fn queues(
    finding: Finding,
    watched: &Watched,
    netns: u32,
    listener: Option<&Queues>,
    port: Option<u16>,
) -> Finding {
    let Some(one) = listener else {
        return finding.not_seeing("which listener it was: the kernel told of none that dropped");
    };
    let finding = finding
        .with(watched, "dropped by this listener", one.drops as f64, Unit::Count)
        .with(watched, "waiting to be accepted, at most", one.accept_queue.into(), Unit::Count)
        .with(watched, "room for them", one.limit.into(), Unit::Count);
    let services = watched.by_service();
    let service = port.and_then(|port| services.get(&(Some(netns), port)));
    match service.and_then(|group| group.sums.quantile("accept_wait", 0.9, 5)) {
        Some(ns) => finding.with(watched, "accept_wait p90", ns as f64, Unit::Ns),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Listener, Owner},
        watched::kit::{self, NETNS, end},
    };

    /// So many overflows and connections in the first second, of a listener that the kernel told of.
    fn of(overflows: u64, accepted: u64, told: bool) -> Watched {
        let flow = kit::flow("f1").serving(8080).latency("accept_wait", 10, 900_000_000);
        kit::with_nodes(&[flow], |second, node| {
            if second > 0 {
                return;
            }
            kit::tcp(node, "ListenOverflows", overflows);
            kit::tcp(node, "PassiveOpens", accepted);
            if told {
                node.listeners.push(Listener {
                    netns: NETNS,
                    local: end("0.0.0.0", 8080),
                    owner: kit::owner("tomcat"),
                    drops: overflows,
                    accept_queue: 6,
                    accept_queue_limit: 5,
                });
            }
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(4, 1_000, true), None);
        check(&DEFINITION, &of(5, 1_000, true), Some(Severity::Warning));
        check(&DEFINITION, &of(500, 501, true), Some(Severity::Warning));
        check(&DEFINITION, &of(500, 500, true), Some(Severity::Critical));
    }

    #[test]
    fn whose_it_is() {
        let scope = |watched: &Watched| rule(watched, &Limits::default()).remove(0).scope;
        let known = scope(&of(50, 100, true));
        assert_eq!((known.name.as_str(), known.port), ("tomcat/812", Some(8080)));
        assert_eq!(scope(&of(50, 100, false)), Scope::namespace(NETNS));
        let nobody = kit::with_node(&[], |node| {
            kit::tcp(node, "ListenOverflows", 50);
            node.listeners.push(Listener {
                netns: NETNS,
                local: end("0.0.0.0", 8080),
                owner: Owner::default(),
                drops: 50,
                accept_queue: 6,
                accept_queue_limit: 5,
            });
        });
        assert_eq!(scope(&nobody), Scope::namespace(NETNS).at(8080));
    }

    /// A listener without room for requests is not one without room for connections.
    #[test]
    fn requests_without_room_are_something_else() {
        let watched = kit::with_node(&[], |node| {
            kit::tcp(node, "TCPReqQFullDrop", 500);
            kit::tcp(node, "ListenDrops", 500);
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(120, 300, true)));
    }
}
