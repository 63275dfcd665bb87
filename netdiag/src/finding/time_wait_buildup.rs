//! Very many connections were closed a short time ago.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::end,
    node::{graded, inside, is_given_again, who},
};
use crate::{
    snapshot::{
        Endpoint, Owner,
        node::{SocketGroup, Sockets},
    },
    watched::Watched,
};

const COUNT: Threshold = Threshold {
    name: "count",
    value: 10_000.0,
    unit: Unit::Count,
    help: "sockets of a network namespace in TIME_WAIT",
    source: "field practice: above 10,000 connections are too short-lived",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 20_000.0,
    unit: Unit::Count,
    help: "the same towards one server, from which on ports run out",
    source: "field practice: above 20,000; the default range has 28,232 ports",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "time-wait-buildup",
    help: "very many sockets wait in TIME_WAIT",
    thresholds: &[&COUNT, &CRITICAL],
    needs: &[],
    parts: &[],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["connection-churn"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let Some(node) = watched.node() else { return Vec::new() };
    node.sockets.iter().filter_map(|sockets| of_namespace(watched, limits, sockets)).collect()
}

/// Whether this end asked for the connections of a group.
const fn is_ours(group: &SocketGroup) -> bool {
    group.peer.port.is_some() && group.local.port.is_none()
}

/// Whether its ports are given to new connections while they wait.
fn is_reused(watched: &Watched, netns: u32, group: &SocketGroup) -> bool {
    is_ours(group) && group.peer.ip.is_some_and(|ip| is_given_again(watched, netns, ip))
}

/// The end of a group that is a server's, and whether this end asked it.
const fn server(group: &SocketGroup) -> (bool, &Endpoint) {
    if is_ours(group) { (true, &group.peer) } else { (false, &group.local) }
}

/// What connections have in common: a server, of this node or asked by it.
#[derive(Clone, Copy)]
struct Server<'a> {
    /// The largest of its groups.
    group: &'a SocketGroup,
    /// Connections of all its groups that are told.
    count: u64,
}

impl<'a> Server<'a> {
    /// The one that has the most.
    fn most(groups: &'a [SocketGroup]) -> Option<Self> {
        let all = groups.iter().map(|group| {
            let its = groups.iter().filter(|other| server(other) == server(group));
            Self { group, count: its.map(|one| one.count).sum() }
        });
        // Of equal ones the first, whose group is the largest.
        all.rev().max_by_key(|one| one.count)
    }

    fn words(self, of: u64) -> String {
        let Self { group, count } = self;
        let whose = match server(group) {
            (true, server) => format!("to {}", end(server)),
            (false, server) => format!("closed by the server at {}", end(server)),
        };
        let part = if count > of / 2 { "most".to_owned() } else { count.to_string() };
        format!("{part} of them {whose}")
    }
}

fn of_namespace(watched: &Watched, limits: &Limits, sockets: &Sockets) -> Option<Finding> {
    let (netns, count) = (sockets.netns, sockets.states.time_wait);
    let most = Server::most(&sockets.time_wait);
    let takes = |group: &&SocketGroup| is_ours(group) && !is_reused(watched, netns, group);
    let taking = sockets.time_wait.iter().filter(takes);
    let towards_one = taking.map(|group| group.count).max().unwrap_or(0);
    graded(count as f64, limits, &[(Severity::Warning, &COUNT)])?;
    let critical = graded(towards_one as f64, limits, &[(Severity::Critical, &CRITICAL)]);
    let severity = critical.map_or(Severity::Warning, |(severity, _)| severity);
    let owner = most.map(|most| who(watched, netns, most.group)).unwrap_or_default();
    let words = most.map(|most| format!(", {}", most.words(count))).unwrap_or_default();
    let title = format!("{count} connections wait in TIME_WAIT{words}");
    let finding = Finding::new(watched, severity, Scope::namespace(netns), title)
        .because(
            "Who closes first keeps a connection's ports for 60 s more. So many mean that connections are closed \
             after about each request: each pays for a handshake, and a client's ports towards a server run out.",
        )
        .beyond(watched, "sockets in TIME_WAIT", count as f64, &COUNT, limits);
    let finding = match critical {
        Some(_) => {
            finding.beyond(watched, "most towards one", towards_one as f64, &CRITICAL, limits)
        }
        None => finding,
    };
    let finding = sockets.time_wait.iter().take(3).fold(finding, |finding, group| {
        let metric = if is_ours(group) {
            format!("to {}", end(&group.peer))
        } else {
            format!("of {} with {}", end(&group.local), end(&group.peer))
        };
        finding.with(watched, &metric, group.count as f64, Unit::Count)
    });
    let finding = match watched.tcp(netns, "TCPTimeWaitOverflow") {
        Some(n) => {
            let metric = "closed without it, since there was no room";
            finding.with(watched, metric, n as f64, Unit::Count)
        }
        None => finding.not_seeing("sockets closed without it for want of room"),
    };
    let finding = advised(finding, most.map(|most| most.group), &owner);
    Some(
        ports(finding, watched, sockets)
            .advise("never make TIME_WAIT shorter by net.ipv4.tcp_max_tw_buckets: old segments get into new connections")
            .confirm_by(inside(watched, netns, &owner, "ss -tan state time-wait"))
            .confirm_by(format!("netdiag events --kind close --netns {netns}")),
    )
}

fn advised(finding: Finding, most: Option<&SocketGroup>, owner: &Owner) -> Finding {
    match owner.comm.as_deref().zip(most) {
        Some((comm, group)) if is_ours(group) => finding.advise(format!(
            "pool connections: {comm} should keep some to {} open and reuse them (keep-alive)",
            end(&group.peer)
        )),
        Some((comm, group)) => finding.advise(format!(
            "let {comm} at {} keep connections open between requests (keep-alive), and let clients close first",
            end(&group.local)
        )),
        None => finding
            .advise("pool connections: keep some open and reuse them (keep-alive)")
            .not_seeing("whose they were: no process holds a socket in TIME_WAIT"),
    }
}

/// Which of them take ports of this node: those that it asked for, as long as no other connection gets these.
fn ports(finding: Finding, watched: &Watched, sockets: &Sockets) -> Finding {
    let count = sockets.states.time_wait;
    let (ours, theirs): (Vec<_>, Vec<_>) = sockets.time_wait.iter().partition(|one| is_ours(one));
    let (reused, taking): (Vec<_>, Vec<_>) =
        ours.into_iter().partition(|one| is_reused(watched, sockets.netns, one));
    let served: u64 = theirs.iter().map(|group| group.count).sum();
    let told: u64 = sockets.time_wait.iter().map(|group| group.count).sum();
    let finding = match taking.first() {
        Some(group) => finding.advise(format!(
            "net.ipv4.tcp_tw_reuse=1 lets new connections have the ports of those to {} (with timestamps)",
            end(&group.peer)
        )),
        None => finding,
    };
    let finding = match reused.first() {
        Some(group) => finding.ruling_out(format!(
            "ports of those to {}: by net.ipv4.tcp_tw_reuse new connections have them after 1 s (with timestamps)",
            end(&group.peer)
        )),
        None => finding,
    };
    let finding = match served {
        0 => finding,
        n => finding.ruling_out(format!(
            "ports of this node, as far as {n} go: a server's sockets in TIME_WAIT take none"
        )),
    };
    if told > count / 2 {
        return finding;
    }
    finding.not_seeing(format!(
        "whose the other {} are, and whether they take ports of this node: the ten largest groups are told",
        count.saturating_sub(told)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{
            Flow,
            node::{Settings, States},
        },
        watched::kit::{self, NETNS, end},
    };

    fn any_port(ip: &str) -> Endpoint {
        Endpoint { port: None, ..end(ip, 1) }
    }

    /// So many, of which so many are of one group.
    fn of(time_wait: u64, local: &Endpoint, peer: &Endpoint, count: u64) -> Watched {
        kit::with_node(&[kit::flow("f1")], |node| {
            let states = States { time_wait, ..States::default() };
            let group = SocketGroup { local: local.clone(), peer: peer.clone(), count };
            let time_wait = vec![group];
            node.sockets.push(Sockets { netns: NETNS, states, time_wait, ..Sockets::default() });
        })
    }

    fn asking(time_wait: u64) -> Watched {
        of(time_wait, &any_port("10.0.0.1"), &end("10.0.0.2", 443), time_wait - 10)
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &asking(9_999), None);
        check(&DEFINITION, &asking(10_000), Some(Severity::Warning));
        check(&DEFINITION, &asking(20_009), Some(Severity::Warning));
        check(&DEFINITION, &asking(20_010), Some(Severity::Critical));
    }

    #[test]
    fn a_server_has_ports_enough() {
        let watched = of(30_000, &end("10.0.0.1", 443), &any_port("10.0.0.2"), 29_000);
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.ruled_out[0].contains("as far as 29000 go"), "{:?}", found.ruled_out);
        assert!(found.advice.iter().all(|line| !line.contains("tw_reuse")), "{:?}", found.advice);
    }

    /// By that `net.ipv4.tcp_tw_reuse`.
    #[test]
    fn ports_that_are_given_out_again_do_not_run_out() {
        let to = |reuse, ip: &str| {
            let mut watched = of(30_000, &any_port(ip), &end(ip, 443), 29_000);
            let settings = Settings { netns: NETNS, tcp_tw_reuse: reuse, ..Settings::default() };
            let nodes = watched.intervals.iter_mut().map(|interval| &mut interval.node);
            nodes.for_each(|node| node.settings = vec![settings.clone()]);
            watched
        };
        let here = "127.0.0.1";
        for (reuse, ip, are_reused) in [
            (None, here, false),
            (Some(0), here, false),
            (Some(1), "10.0.0.2", true),
            (Some(2), "10.0.0.2", false),
            (Some(2), here, true),
        ] {
            let watched = to(reuse, ip);
            let expected = if are_reused { Severity::Warning } else { Severity::Critical };
            check(&DEFINITION, &watched, Some(expected));
            let found = rule(&watched, &Limits::default()).remove(0);
            let says = |lines: &[String]| lines.iter().any(|line| line.contains("tcp_tw_reuse"));
            assert_eq!(
                (says(&found.advice), says(&found.ruled_out)),
                (!are_reused, are_reused),
                "{reuse:?} {ip}"
            );
        }
    }

    fn group(local: Endpoint, peer: Endpoint, count: u64) -> SocketGroup {
        SocketGroup { local, peer, count }
    }

    fn told(time_wait: u64, groups: &[SocketGroup]) -> Finding {
        let watched = kit::with_node(&[], |node| {
            let states = States { time_wait, ..States::default() };
            let time_wait = groups.to_vec();
            node.sockets.push(Sockets { netns: NETNS, states, time_wait, ..Sockets::default() });
        });
        rule(&watched, &Limits::default()).remove(0)
    }

    #[test]
    fn most_are_more_than_half() {
        let asked = |count| group(any_port("10.0.0.1"), end("10.0.0.2", 80), count);
        let title = |count| told(12_000, &[asked(count)]).title;
        assert!(title(6_001).ends_with(", most of them to 10.0.0.2:80"), "{}", title(6_001));
        assert!(title(6_000).ends_with(", 6000 of them to 10.0.0.2:80"), "{}", title(6_000));
        // Clients of one server together.
        let served = |ip: &str| group(end("10.0.0.1", 443), any_port(ip), 4_000);
        let both = told(12_000, &[served("10.0.0.2"), served("10.0.0.3")]).title;
        assert!(both.ends_with(", most of them closed by the server at 10.0.0.1:443"), "{both}");
    }

    /// What a server holds says nothing of the ports that the others take.
    #[test]
    fn ports_of_the_others_are_not_ruled_out() {
        let served = group(end("10.0.0.1", 443), any_port("10.0.0.2"), 25_000);
        let asked = group(any_port("10.0.0.1"), end("10.0.0.3", 3306), 20_000);
        let found = told(45_000, &[served.clone(), asked]);
        assert_eq!(found.severity, Severity::Critical);
        assert!(found.advice.iter().any(|line| line.contains("tw_reuse")), "{:?}", found.advice);
        let found = told(50_000, &[served]);
        assert!(found.not_observable.iter().any(|line| line.contains("the other 25000")));
        assert!(told(12_000, &[]).ruled_out.is_empty());
    }

    #[test]
    fn of_several_programs_none_is_named_for_all() {
        let advice = |flows: &[Flow]| {
            let watched = kit::with_node(flows, |node| {
                let states = States { time_wait: 12_000, ..States::default() };
                let time_wait = vec![group(any_port("10.0.0.1"), end("10.0.0.2", 443), 11_000)];
                let sockets = Sockets { netns: NETNS, states, time_wait, ..Sockets::default() };
                node.sockets.push(sockets);
            });
            rule(&watched, &Limits::default()).remove(0).advice.remove(0)
        };
        let beside = |name| advice(&[kit::flow("f1"), kit::flow("f2").of(9, name)]);
        assert!(beside("shop").starts_with("pool connections: shop should keep some"));
        assert!(beside("cron").starts_with("pool connections: keep some open"));
    }

    #[test]
    fn several_namespaces_are_no_sum() {
        let watched = kit::with_node(&[], |node| {
            for netns in [NETNS, NETNS + 1] {
                let states = States { time_wait: 6_000, ..States::default() };
                node.sockets.push(Sockets { netns, states, ..Sockets::default() });
            }
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &asking(23_000)));
    }
}
