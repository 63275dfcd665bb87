//! What findings of the node share: how bad a number is, whose it is, and what to run.

use std::net::IpAddr;

use super::{
    Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{end, within},
};
use crate::{
    format,
    snapshot::{Owner, TopCreator, node::SocketGroup},
    watched::Watched,
};

/// What comes of changing the rings or queues of a card by `ethtool`.
pub(super) const LINK_GOES: &str =
    "many cards drop the link for seconds then, and your own session with it";

/// Creators that are told as evidence.
const CREATORS: usize = 3;

/// How bad a value is by thresholds, the worst first; none where it is below all of them.
pub(super) fn graded(
    value: f64,
    limits: &Limits,
    steps: &[(Severity, &'static Threshold)],
) -> Option<(Severity, &'static Threshold)> {
    steps.iter().find(|(_, threshold)| value >= limits.of(threshold)).copied()
}

/// Part of it in both, 0 where there is nothing.
pub(super) fn part(of: u64, rest: u64) -> f64 {
    of as f64 / (of + rest).max(1) as f64
}

/// Name of a process, or what to call it.
pub(super) fn name(owner: &Owner) -> String {
    owner.comm.clone().unwrap_or_else(|| "its process".to_owned())
}

/// A process, or several of one name; where it is not known, its namespace.
pub(super) fn holder(netns: Option<u32>, owner: &Owner) -> Scope {
    match netns {
        Some(netns) if !owner.is_known() => Scope::namespace(netns).by(owner),
        _ => Scope::process(netns, owner),
    }
}

/// Who has connections like these, by what was seen of them in the window; of several processes what they have in
/// common.
pub(super) fn who(watched: &Watched, netns: u32, group: &SocketGroup) -> Owner {
    let same = |port: Option<u16>, of: Option<u16>| port.is_none() || port == of;
    let alike = watched.flows.values().filter(|flow| {
        flow.netns == Some(netns)
            && flow.peer.ip == group.peer.ip
            && same(group.peer.port, flow.peer.port)
            && same(group.local.port, flow.local.port)
            && flow.owner.is_known()
    });
    Owner::common(alike.map(|flow| &flow.owner))
}

/// A command in the network namespace of this process, or of any that is known to be there.
pub(super) fn inside(watched: &Watched, netns: u32, owner: &Owner, command: &str) -> String {
    let pid = owner.pid.or_else(|| watched.inhabitant(netns));
    format!("{}{command}", within(pid, Some(netns)))
}

/// Whether ports in TIME_WAIT towards an address are given to new connections after a second: 1 for all, 2 on the
/// loopback (`net.ipv4.tcp_tw_reuse`, Documentation/networking/ip-sysctl.rst, Linux 6.12).
pub(super) fn is_given_again(watched: &Watched, netns: u32, ip: IpAddr) -> bool {
    match watched.settings(netns).and_then(|settings| settings.tcp_tw_reuse) {
        Some(1) => true,
        Some(2) => ip.is_loopback(),
        _ => false,
    }
}

/// Who makes entries of a namespace's connection tracking table, the most first.
pub(super) fn creators(watched: &Watched, netns: u32) -> Vec<&TopCreator> {
    watched.creators.iter().filter(|one| one.netns == Some(netns) && made(one) > 0).collect()
}

/// Entries that one made, or would have.
pub(super) fn made(one: &TopCreator) -> u64 {
    one.new.max(one.confirmed).max(one.table_full).unwrap_or(0)
}

/// `php/812 to 10.0.0.2:9200`.
pub(super) fn creator(one: &TopCreator) -> String {
    let who = match &one.creator {
        Some(Owner { comm: Some(comm), pid: Some(pid), .. }) => format!("{comm}/{pid}"),
        Some(Owner { comm: Some(comm), .. }) => comm.clone(),
        Some(Owner { pid: Some(pid), .. }) => format!("process {pid}"),
        _ => "others".to_owned(),
    };
    format!("{who} to {}", end(&one.destination))
}

/// Says who makes the entries, and how fast.
pub(super) fn with_creators(finding: Finding, watched: &Watched, netns: u32) -> Finding {
    let creators = creators(watched, netns);
    if creators.is_empty() {
        return finding.not_seeing(match watched.sees("conntrack") {
            true => "who makes the entries: nobody made any in the window that could be told",
            false => "who makes the entries: the signal `conntrack` is off",
        });
    }
    creators.into_iter().take(CREATORS).fold(finding, |finding, one| {
        let rate = made(one) as f64 / watched.seconds.max(1e-9);
        finding.with(watched, &format!("entries made by {}", creator(one)), rate, Unit::PerSecond)
    })
}

/// What a table of connections that is twice as large costs.
pub(super) fn doubled(max: u64) -> String {
    /// Field practice: 262,144 entries take about 75 MB.
    const ENTRY_BYTES: u64 = 300;
    format!(
        "only then raise net.netfilter.nf_conntrack_max: {} instead of {max} cost up to {} more of kernel \
         memory (about {ENTRY_BYTES} bytes an entry), and nf_conntrack_buckets has to grow with it",
        max * 2,
        format::bytes(max * ENTRY_BYTES)
    )
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnosis::{Diagnosis, Thresholds},
        finding::Finding,
        snapshot::node::{Node, PortUse, Ports, SocketGroup, Sockets, States},
        watched::kit::{self, NETNS, end},
    };

    fn diagnosed(node: impl Fn(&mut Node)) -> Vec<Finding> {
        let mut diagnosis = Diagnosis::new(Thresholds::new());
        for second in 0..10 {
            let mut snapshot = kit::snapshot(second, vec![]);
            node(&mut snapshot.node);
            diagnosis.take(&snapshot);
        }
        diagnosis.report().expect("a report").findings
    }

    fn waiting(node: &mut Node, netns: u32) {
        let states = States { time_wait: 23_000, ..States::default() };
        let local = crate::snapshot::Endpoint { port: None, ..end("10.0.0.1", 1) };
        let time_wait = vec![SocketGroup { local, peer: end("10.0.0.2", 3306), count: 15_000 }];
        node.sockets.push(Sockets { netns, states, time_wait, ..Sockets::default() });
    }

    fn exhausted(node: &mut Node) {
        node.ports.push(Ports {
            netns: NETNS,
            age_ns: 0,
            unchanged_ns: None,
            first: None,
            last: None,
            available: Some(15_000),
            taken: 15_000,
            destinations: vec![PortUse {
                local_ip: "10.0.0.1".parse().expect("an address"),
                peer: end("10.0.0.2", 3306),
                taken: 15_000,
                time_wait: 15_000,
                owner: kit::owner("worker"),
            }],
        });
    }

    /// What explains stands first though it is not as bad, and only within the namespace.
    #[test]
    fn causes_come_before_symptoms() {
        let told = |netns| {
            let found = diagnosed(|node| {
                waiting(node, netns);
                exhausted(node);
            });
            let told = found.into_iter().map(|one| (one.id, one.caused_by.join(" ")));
            told.collect::<Vec<_>>()
        };
        let [waiting, exhausted] = ["time-wait-buildup", "ephemeral-ports-exhausted"];
        let pair = |id: &str, cause: &str| (id.to_owned(), cause.to_owned());
        assert_eq!(told(NETNS), [pair(waiting, ""), pair(exhausted, waiting)]);
        assert_eq!(told(NETNS + 1), [pair(exhausted, ""), pair(waiting, "")]);
    }
}
