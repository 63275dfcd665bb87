//! More connection requests are not confirmed than a listener has room for.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::end,
    node::{holder, inside, name},
};
use crate::watched::{Queues, Watched};

const LEAST: Threshold = Threshold {
    name: "without_room",
    value: 10.0,
    unit: Unit::Count,
    help: "connection requests in a window for which there was no room",
    source: "each dropped one keeps a client waiting for 1 s or more; a few may be one burst",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 100.0,
    unit: Unit::Count,
    help: "the same, where they are dropped (no SYN cookies)",
    source: "clients behind a flood do not get in",
};
const SYN_RECV: Threshold = Threshold {
    name: "syn_recv",
    value: 500.0,
    unit: Unit::Count,
    help: "sockets in SYN_RECV, for an info",
    source: "field practice: above 500 it is a SYN flood, or handshakes are slow",
};

/// Part of `tcp_max_syn_backlog` that is kept for clients that the kernel knows, without SYN cookies
/// (`tcp_conn_request`, net/ipv4/tcp_input.c).
const KEPT: u64 = 4;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "syn-backlog-overflow",
    help: "more connection requests wait for their confirmation than there is room for",
    thresholds: &[&LEAST, &CRITICAL, &SYN_RECV],
    needs: &[],
    parts: &[],
    node: &[Part::Tcp, Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["listen-overflow"],
    rule,
};

/// What a namespace had no room for.
struct Room {
    netns: u32,
    dropped: u64,
    cookies: u64,
    syn_recv: u64,
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let namespaces = watched.namespaces().into_iter();
    namespaces.filter_map(|netns| of_namespace(watched, limits, netns)).collect()
}

/// The most that were in SYN_RECV.
fn syn_recv(watched: &Watched, netns: u32) -> u64 {
    let told = watched.intervals.iter().flat_map(|interval| &interval.node.sockets);
    told.filter(|one| one.netns == netns).map(|one| one.states.syn_recv).max().unwrap_or(0)
}

fn room(watched: &Watched, netns: u32) -> Room {
    let tcp = |counter| watched.tcp(netns, counter).unwrap_or(0);
    let syn_recv = syn_recv(watched, netns);
    let most = watched.settings(netns).and_then(|settings| settings.tcp_max_syn_backlog);
    // Those beyond three quarters are dropped and have no counter of their own.
    let few_left = most.is_some_and(|most| syn_recv + 2 >= most - most / KEPT);
    let counted = tcp("ListenOverflows") + tcp("TCPReqQFullDrop");
    let unexplained = if few_left { tcp("ListenDrops").saturating_sub(counted) } else { 0 };
    let dropped = tcp("TCPReqQFullDrop") + unexplained;
    Room { netns, dropped, cookies: tcp("TCPReqQFullDoCookies"), syn_recv }
}

fn of_namespace(watched: &Watched, limits: &Limits, netns: u32) -> Option<Finding> {
    let room = room(watched, netns);
    let without = (room.dropped + room.cookies) as f64;
    if without < limits.of(&LEAST) {
        let many = room.syn_recv as f64 >= limits.of(&SYN_RECV);
        return many.then(|| slow(watched, limits, &room));
    }
    let (severity, threshold) = match room.dropped as f64 {
        dropped if dropped >= limits.of(&CRITICAL) => (Severity::Critical, &CRITICAL),
        _ => (Severity::Warning, &LEAST),
    };
    let (deciding, value) = match threshold.name {
        "critical" => ("requests dropped for want of room", room.dropped as f64),
        _ => ("requests without room", without),
    };
    let mut listeners = watched.listeners(netns);
    listeners.sort_by_key(|one| std::cmp::Reverse((one.requests, one.drops)));
    let listener = listeners.first().filter(|one| one.requests.is_some() || one.drops > 0);
    let title = match listener {
        Some(one) => format!(
            "{} at {} has no room for more connection requests",
            name(&one.owner),
            end(&one.local)
        ),
        None => "a listener has no room for more connection requests".to_owned(),
    };
    let finding = Finding::new(watched, severity, scope(netns, listener), title)
        .because(
            "They were answered, and nobody confirmed them yet: a flood of SYNs from addresses that do not \
             exist, answers that do not arrive, or a queue that is too short for how far the clients are.",
        )
        .beyond(watched, deciding, value, threshold, limits);
    Some(told(finding, watched, &room, listener))
}

fn scope(netns: u32, listener: Option<&Queues>) -> Scope {
    let Some(one) = listener else { return Scope::namespace(netns) };
    let scope = holder(Some(netns), &one.owner);
    match one.local.port {
        Some(port) => scope.at(port),
        None => scope,
    }
}

/// Many wait, and there is room for them.
fn slow(watched: &Watched, limits: &Limits, room: &Room) -> Finding {
    let title = "many connection requests wait for their confirmation";
    let finding = Finding::new(watched, Severity::Info, Scope::namespace(room.netns), title)
        .confidence(0.7)
        .because(
            "A SYN flood, or clients to which answers take long or do not come; there is room yet.",
        )
        .beyond(watched, "sockets in SYN_RECV", room.syn_recv as f64, &SYN_RECV, limits)
        .advise("look where they come from: many addresses with one SYN each are a flood");
    told(finding, watched, room, None)
}

fn told(finding: Finding, watched: &Watched, room: &Room, listener: Option<&Queues>) -> Finding {
    let owner = listener.map(|one| one.owner.clone()).unwrap_or_default();
    // The kernel may have no such counter.
    let told = [
        ("dropped", room.dropped, ["TCPReqQFullDrop", "ListenDrops"]),
        ("answered with SYN cookies", room.cookies, ["TCPReqQFullDoCookies"; 2]),
    ];
    let finding = told.into_iter().fold(finding, |finding, (what, n, counters)| {
        if counters.iter().any(|counter| watched.tcp(room.netns, counter).is_some()) {
            finding.with(watched, what, n as f64, Unit::Count)
        } else {
            finding.not_seeing(format!("requests {what}: the kernel does not count them"))
        }
    });
    let finding = finding.with(watched, "in SYN_RECV, at most", room.syn_recv as f64, Unit::Count);
    let finding = match listener.filter(|one| one.limit > 0) {
        Some(one) => finding.with(watched, "room of the listener", one.limit.into(), Unit::Count),
        None => finding.not_seeing("which listener it was"),
    };
    let finding = if room.dropped > 0 {
        finding.advise("switch SYN cookies on: net.ipv4.tcp_syncookies=1, they need no room")
    } else {
        finding
            .ruling_out("requests dropped: SYN cookies answered those for which there was no room")
            .advise(
                "no client is kept out; SYN cookies do without some TCP options, so end the flood",
            )
    };
    let filter = listener.and_then(|one| one.local.port);
    let filter = filter.map(|port| format!(" 'sport = :{port}'")).unwrap_or_default();
    let list = format!("ss -tn state syn-recv{filter}");
    finding
        .advise("filter a flood where it comes from, or at the edge")
        .advise(
            "for true clients: a larger backlog of listen() and net.core.somaxconn, then \
             net.ipv4.tcp_max_syn_backlog",
        )
        .confirm_by(inside(watched, room.netns, &owner, &list))
        .confirm_by(inside(watched, room.netns, &owner, "nstat -az TcpExtTCPReqQFull*"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::node::{ListenQueue, Settings, Sockets, States},
        watched::kit::{self, NETNS, end},
    };

    /// So many requests in the first second counted by that counter.
    fn of(counter: &str, n: u64, syn_recv: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            kit::tcp(node, counter, if second == 0 { n } else { 0 });
            kit::tcp(
                node,
                "ListenDrops",
                if second == 0 && counter.ends_with("Drop") { n } else { 0 },
            );
            let states = States { syn_recv, ..States::default() };
            node.sockets.push(Sockets { netns: NETNS, states, ..Sockets::default() });
            node.listen_queues.push(ListenQueue {
                netns: NETNS,
                local: end("0.0.0.0", 443),
                owner: kit::owner("proxy"),
                accept_queue: 0,
                accept_queue_limit: 128,
                syn_recv,
            });
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of("TCPReqQFullDoCookies", 9, 100), None);
        check(&DEFINITION, &of("TCPReqQFullDoCookies", 10, 100), Some(Severity::Warning));
        check(&DEFINITION, &of("TCPReqQFullDoCookies", 900, 100), Some(Severity::Warning));
        check(&DEFINITION, &of("TCPReqQFullDrop", 99, 100), Some(Severity::Warning));
        check(&DEFINITION, &of("TCPReqQFullDrop", 100, 100), Some(Severity::Critical));
        check(&DEFINITION, &of("TCPReqQFullDrop", 0, 499), None);
        check(&DEFINITION, &of("TCPReqQFullDrop", 0, 500), Some(Severity::Info));
    }

    /// Requests that are dropped near `tcp_max_syn_backlog` have no counter of their own; those for another
    /// reason are something else.
    #[test]
    fn what_is_kept_for_known_clients() {
        let dropping = |syn_recv| {
            kit::with_node(&[], |node| {
                kit::tcp(node, "ListenDrops", 10);
                let states = States { syn_recv, ..States::default() };
                node.sockets.push(Sockets { netns: NETNS, states, ..Sockets::default() });
                let settings = Settings {
                    netns: NETNS,
                    tcp_max_syn_backlog: Some(128),
                    ..Settings::default()
                };
                node.settings.push(settings);
            })
        };
        check(&DEFINITION, &dropping(94), Some(Severity::Critical));
        check(&DEFINITION, &dropping(50), None);
    }

    #[test]
    fn what_is_not_counted_is_not_0() {
        let found = rule(&of("TCPReqQFullDrop", 50, 100), &Limits::default()).remove(0);
        assert!(found.evidence.iter().any(|one| one.metric == "dropped"));
        assert!(found.evidence.iter().all(|one| !one.metric.contains("cookies")));
    }

    #[test]
    fn a_full_accept_queue_is_something_else() {
        let watched = kit::with_node(&[], |node| {
            kit::tcp(node, "ListenDrops", 50);
            kit::tcp(node, "ListenOverflows", 50);
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        let watched = of("TCPReqQFullDrop", 1_200, 128);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
