//! Connections to a peer are asked for, and nothing answers, or only some SYNs get an answer.

use std::collections::BTreeMap;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Part, Scope, Severity, Threshold, Unit,
    advice::{beside_others, by_no_listener_here, events, inside, many},
};
use crate::{
    format,
    watched::{Backend, Group, Peer, Seen, Sums, Watched},
};

mod late;
mod no_route;
mod raced;

use raced::Established;

const LEAST: Threshold = Threshold {
    name: "least_unanswered",
    value: 4.0,
    unit: Unit::Count,
    help: "connections asked for in a window that nothing answered",
    source: "a lost SYN or two is loss",
};
const RATE: Threshold = Threshold {
    name: "rate",
    value: 0.15,
    unit: Unit::PerSecond,
    help: "the same each second, for a warning; fewer give an info",
    source: "one client with a timeout of some 5 s; a probe every 10 s has less",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the connections asked for that nothing answered",
    source: "with less the peer is there, and loses SYNs or has no room",
};
const GIVEN_UP: Threshold = Threshold {
    name: "given_up",
    value: 0.2,
    unit: Unit::S,
    help: "time after which a client that gives a connection up, and heard nothing, found it unanswered",
    source: "a round trip to another continent takes less; whoever goes sooner did not wait for an answer",
};
/// What the kernel says when nothing answers, or a router in its place.
const ERRORS: [&str; 5] = ["ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN"];

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "peer-unreachable",
    help: "connections to a peer are asked for, and nothing answers, or only some SYNs get an answer, or there is no \
           route to it",
    thresholds: &[
        &LEAST,
        &RATE,
        &SHARE,
        &GIVEN_UP,
        &late::LATE,
        &late::SHARE,
        &late::LEAST,
        &late::SECONDS,
        &late::TIMES,
        &late::SYN_SENT,
        &no_route::RATE,
        &no_route::LEAST,
    ],
    // Until it fails, SYNs that are sent again are all that can be seen.
    needs: &[Signal::Socket, Signal::Retransmit],
    parts: &[],
    // What has no route.
    node: &[Part::Protocols],
    // A connection that was not seen to succeed would count as none.
    exact: &[Signal::Socket],
    packets: &[Packets::of("retransmits.syn")],
    causes: &[
        "firewall-drop",
        "half-open-peer",
        "conntrack-full",
        "conntrack-insert-failed",
        "interface-errors",
        "qdisc-drop",
        "softnet-drop",
        "interface-saturated",
        "bufferbloat",
        "packet-loss",
        "listen-overflow",
        "syn-backlog-overflow",
    ],
    rule,
};

/// When a SYN is sent again for the second time, in seconds (RFC 6298). Where kernels begin with several timeouts of 1 s
/// (`net.ipv4.tcp_syn_linear_timeouts`, since Linux 6.5), after 2 s: then some count in two windows.
const SECOND_S: f64 = 3.0;

/// Whether it was asked for in this window, as far as that is told. One of an earlier window counts there: in this one it
/// sent no more than SYNs again.
fn began(sums: &Sums) -> bool {
    let again = sums.at_least("retransmits.syn");
    sums.count("segments_sent").is_none_or(|sent| sent > again)
}

/// Whether it was asked for in an earlier window and counts in this one, in which it is gone: there it lasted on, and was
/// too young for two SYNs to have been sent again.
fn is_left(flow: &Seen) -> bool {
    let Some((lived_ns, last)) = flow.sums.count("lifetime_ns").zip(flow.course.asked_again.last())
    else {
        return false;
    };
    // It is gone in that second, so that it was no older when the window began.
    let age_s = lived_ns as f64 / 1e9 - f64::from(last);
    flow.closed && !began(&flow.sums) && (0.0..=SECOND_S).contains(&age_s)
}

/// Whether nothing answered: an error says so, or SYNs were sent again and it was given up or lasts on.
fn is_unanswered(flow: &Seen) -> bool {
    /// When a SYN is sent again for the first time: in whatever window that was.
    const FIRST_NS: u64 = 1_000_000_000;
    let sums = &flow.sums;
    let failed = ERRORS.iter().any(|error| sums.at_least(&format!("connects_failed.{error}")) > 0);
    let again = sums.at_least("retransmits.syn");
    let heard = sums.samples("connect") > 0 || sums.at_least("segments_received") > 0;
    let was_again = again >= 1
        || sums.at_least("connects_failed.closed") > 0 && sums.at_least("lifetime_ns") >= FIRST_NS;
    let is_it = match began(sums) {
        true => failed || again >= 2 || again >= 1 && flow.closed,
        false => was_again && is_left(flow),
    };
    !heard && is_it
}

/// Whether its client gave it up before a SYN was sent again, and nothing had come by then: after twice the time in
/// which other connections there were established, where there are any. Of an older one of an earlier window it is not
/// known whether that was sent again there.
fn is_given_up(flow: &Seen, limits: &Limits, usual_ns: Option<u64>) -> bool {
    let sums = &flow.sums;
    let enough_ns = (limits.of(&GIVEN_UP) * 1e9).max(usual_ns.unwrap_or(0) as f64 * 2.0);
    flow.closed
        && (began(sums) || is_left(flow))
        && sums.at_least("retransmits.syn") == 0
        && sums.at_least("connects_failed.closed") > 0
        && sums.count("segments_received") == Some(0)
        && sums.at_least("lifetime_ns") as f64 >= enough_ns
}

/// Connections to a backend that nothing answered; none where there are none.
fn unanswered<'a>(limits: &Limits, backend: &Group<'a>) -> Option<Group<'a>> {
    let usual_ns = backend.sums.quantile("connect", 0.5, 1);
    backend.only(|flow| is_unanswered(flow) || is_given_up(flow, limits, usual_ns))
}

/// First packets that connection tracking dropped since another connection had their place; those of a pod go
/// through the node's table, too.
fn clashes(watched: &Watched) -> u64 {
    let tables = watched.tracked();
    tables.iter().filter_map(|one| one.table.insert_failed).sum()
}

struct Unanswered<'a> {
    group: Group<'a>,
    port: u16,
    share: f64,
    /// Those that were given up before a SYN was sent again.
    given_up: usize,
    /// How long their clients waited, at most.
    waited_ns: u64,
    /// Each was given up for another address.
    is_raced: bool,
}

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut peers: BTreeMap<Peer, Vec<Unanswered<'_>>> = BTreeMap::new();
    let groups = watched.by_peer();
    let established = Established::of(watched);
    let mut found = no_route::rule(watched, limits);
    for (at, backend) in watched.by_backend() {
        let peer = (at.0, at.1);
        match of_backend(limits, at.2, &backend, &established) {
            Some(unanswered) => peers.entry(peer).or_default().push(unanswered),
            None => {
                found.extend(late::of_backend(watched, limits, at, &backend, groups.get(&peer)));
            }
        }
    }
    for (peer, backends) in peers {
        let is_heard =
            groups.get(&peer).is_some_and(|group| group.seconds(|course| course.heard).count() > 0);
        for backend in &backends {
            // One finding for a peer of which nothing is heard at all, by the port with the most that nobody raced.
            let most = backends.iter().max_by_key(|one| (!one.is_raced, one.group.flows.len()));
            let most = most.map(|one| one.port);
            if is_heard || most == Some(backend.port) {
                let at = (peer.0, peer.1, backend.port);
                found.extend(told(watched, limits, at, backend, (is_heard, backends.len())));
            }
        }
    }
    found
}

fn of_backend<'a>(
    limits: &Limits,
    port: u16,
    backend: &Group<'a>,
    established: &Established,
) -> Option<Unanswered<'a>> {
    let group = unanswered(limits, backend)?;
    let count = group.flows.len() as f64;
    let share = count / (count + backend.sums.samples("connect") as f64);
    let given_up = || group.flows.iter().filter(|flow| !is_unanswered(flow));
    let waited_ns = given_up().map(|flow| flow.sums.at_least("lifetime_ns")).max().unwrap_or(0);
    let given_up = given_up().count();
    if count < limits.of(&LEAST) || share < limits.of(&SHARE) {
        return None;
    }
    let is_raced = given_up == group.flows.len() && established.instead(&group);
    Some(Unanswered { group, port, share, given_up, waited_ns, is_raced })
}

fn told(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): Backend,
    unanswered: &Unanswered<'_>,
    (is_heard, ports): (bool, usize),
) -> Option<Finding> {
    let Unanswered { group, share, given_up, waited_ns, is_raced, .. } = unanswered;
    let count = group.flows.len();
    // Of what was given up early nobody knows whether an answer was under way.
    let is_sure = (count - given_up) as f64 >= limits.of(&LEAST);
    let rate = count as f64 / watched.seconds.max(1e-9);
    let is_all = *share >= 1.0 && !watched.others_connected();
    let severity = match rate >= limits.of(&RATE) {
        _ if *is_raced => Severity::Info,
        false => Severity::Info,
        true if is_all && is_sure => Severity::Critical,
        true => Severity::Warning,
    };
    let scope = if is_heard { Scope::backend(netns, ip, port) } else { Scope::peer(netns, ip) };
    let asked = many(count, "connection");
    let (name, owner) = (scope.name.clone(), group.owner());
    let title = if is_all {
        format!("{name} answers none of {asked} that were asked for")
    } else if *share >= 1.0 {
        format!("{name} does not answer {asked} that were asked for")
    } else {
        format!(
            "{name} does not answer {asked}, {:.0} % of those that were asked for",
            share * 100.0
        )
    };
    let waited = format::duration(*waited_ns);
    let title = match *given_up == count {
        true => format!("{title}, all given up within {waited}"),
        false => title,
    };
    let by_router =
        ERRORS[1..].iter().map(|error| group.sums.at_least(&format!("connects_failed.{error}")));
    let by_router: u64 = by_router.sum();
    let finding = Finding::new(watched, severity, scope.by(&owner), title)
        .confidence(if is_all && is_sure { 0.95 } else { 0.7 })
        .because(match (is_heard, by_router) {
            _ if *is_raced => {
                "A program that asks for the addresses of both families keeps the connection that is there first \
                 and gives the other one up (RFC 8305). That each time it was this address says that it is \
                 farther away, or that the way to it is broken."
            }
            (_, 0) if !is_sure => {
                "A SYN is sent again after 1 s, and clients gave up before that. Neither an answer nor a refusal \
                 had come. The peer is down, the way to it is broken, a firewall drops SYNs without a word, or \
                 all of it takes longer than clients have patience."
            }
            (_, 1..) => {
                "A router on the way says that it cannot reach the peer, having no route or hearing nobody who \
                 answers for its address; or this node hears nobody itself, on a link of its own."
            }
            (false, 0) => {
                "SYNs are sent again after 1 s and more, and neither an answer nor a refusal comes. The \
                 peer is down, the way to it is broken, or a firewall drops them without a word."
            }
            (true, 0) => {
                "The peer is heard at other connections, so it is up: SYNs to this port are dropped, by a \
                 firewall or for want of room in its listener's queue."
            }
        })
        .beyond(watched, "connections that nothing answered", count as f64, &LEAST, limits)
        .beyond(watched, "of those asked for", *share, &SHARE, limits)
        .beyond(watched, "each second", rate, &RATE, limits)
        .with(watched, "SYNs sent again", group.sums.at_least("retransmits.syn") as f64, Unit::Count)
        .with(watched, "failures that ICMP or ARP told of", by_router as f64, Unit::Count)
        .with(watched, "ports of the peer that do not answer", ports as f64, Unit::Count)
        .ruling_out("a port that nobody listens at: that is refused at once")
        .not_seeing("where SYNs or their answers are lost: a rule on the peer and a dead peer look alike")
        .advise(match (is_heard, by_router) {
            (_, 1..) => format!("see the route and the neighbour: ip route get {ip}; ip neigh show {ip}"),
            (false, 0) => format!("see whether {ip} is the right address, and whether it is up"),
            (true, 0) => format!("look at the firewall before {ip}:{port}, and at its listener's queue: ss -ltn"),
        })
        .advise(match is_raced {
            true => "if it is only farther away, leave it: clients wait for no more than the head start that it has",
            false => "take it out of the clients' list, and give connect a timeout of its own",
        })
        .confirm_by(inside(group, &format!("nc -zvw 3 {ip} {port}")))
        .confirm_by(inside(group, &format!("ip route get {ip}")))
        .confirm_by(events("connect", netns, ip))
        // A path that loses some segments is none that carries nothing.
        .clearing(&late::OF_THE_PATH);
    let finding = by_no_listener_here(finding, group);
    // Each clash takes one SYN: fewer of them than connections do not explain these.
    let finding = match clashes(watched) < count as u64 {
        true => finding.clearing(&["conntrack-insert-failed"]),
        false => finding,
    };
    let finding = match is_raced {
        true => finding.ruling_out(
            "a failure: each time the process got through to that port at an address of the other family",
        ),
        false => finding,
    };
    let finding = late::syn_sent(finding, watched, limits, (netns, ip, port));
    let finding = match given_up {
        0 => finding,
        n => finding
            .with(watched, "given up before a SYN was sent again", *n as f64, Unit::Count)
            .with(watched, "after, at most", *waited_ns as f64, Unit::Ns)
            .not_seeing(format!(
                "answers that would have come later: clients waited {waited} at most"
            )),
    };
    Some(beside_others(finding, watched))
}

#[cfg(test)]
mod tests;
