//! Peers do not close connections that this end has closed.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::{end, host},
    node::{inside, name, who},
};
use crate::{
    snapshot::{
        Node,
        node::{SocketGroup, Sockets},
    },
    watched::Watched,
};

const COUNT: Threshold = Threshold {
    name: "count",
    value: 500.0,
    unit: Unit::Count,
    help: "sockets in FIN_WAIT2 that stay",
    source: "field practice: above 500 a peer does not close",
};
const SECONDS: Threshold = Threshold {
    name: "seconds",
    value: 5.0,
    unit: Unit::S,
    help: "how long there are so many",
    source: "a peer that closes does so within a few seconds",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "fin-wait-buildup",
    help: "peers do not close connections that this end has closed",
    thresholds: &[&COUNT, &SECONDS],
    needs: &[],
    parts: &[],
    node: &[Part::Sockets],
    exact: &[],
    packets: &[],
    causes: &["close-wait-leak"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let Some(node) = watched.node() else { return Vec::new() };
    node.sockets.iter().flat_map(|sockets| of_namespace(watched, limits, sockets)).collect()
}

/// How many, and how old that is.
fn fin_wait2(node: &Node, netns: u32) -> Option<(u64, u64)> {
    let sockets = node.sockets.iter().find(|one| one.netns == netns)?;
    Some((sockets.states.fin_wait2, sockets.known_ns()))
}

fn of_namespace(watched: &Watched, limits: &Limits, sockets: &Sockets) -> Vec<Finding> {
    let netns = sockets.netns;
    let lately = watched.lately(limits.of(&SECONDS), |node| fin_wait2(node, netns));
    let least = lately.and_then(|lately| lately.into_iter().min()).unwrap_or(0);
    if (least as f64) < limits.of(&COUNT) {
        return Vec::new();
    }
    let many = sockets.fin_wait2.iter().filter(|group| group.count as f64 >= limits.of(&COUNT));
    let many: Vec<_> = many.collect();
    if many.is_empty() {
        return vec![found(watched, limits, sockets, None)];
    }
    many.into_iter().map(|group| found(watched, limits, sockets, Some(group))).collect()
}

fn found(
    watched: &Watched,
    limits: &Limits,
    sockets: &Sockets,
    group: Option<&SocketGroup>,
) -> Finding {
    let netns = sockets.netns;
    let owner = group.map(|group| who(watched, netns, group)).unwrap_or_default();
    let scope = match group.map(|group| (group.peer.ip, group.peer.port, group.local.port)) {
        Some((Some(ip), Some(port), _)) => Scope::backend(Some(netns), ip, port).by(&owner),
        Some((Some(ip), None, Some(port))) => Scope::peer(Some(netns), ip).at(port).by(&owner),
        Some((Some(ip), ..)) => Scope::peer(Some(netns), ip).by(&owner),
        _ => Scope::namespace(netns),
    };
    let count = group.map_or(sockets.states.fin_wait2, |group| group.count);
    let peer = group.map_or_else(|| "peers".to_owned(), |group| end(&group.peer));
    let verb = if group.is_some() { "does" } else { "do" };
    let title = format!("{peer} {verb} not close {count} connections that this end has closed");
    let timeout = watched.settings(netns).and_then(|settings| settings.tcp_fin_timeout_s);
    let finding = Finding::new(watched, Severity::Warning, scope, title)
        .about(group.map_or_else(String::new, |group| end(&group.local)))
        .because(format!(
            "The peer's kernel has acknowledged the end and its application has not closed. What a process of this \
             node has let go is forgotten after {} s, what it still holds (it has shut down one way) never.",
            timeout.unwrap_or(60)
        ))
        .beyond(watched, "sockets in FIN_WAIT2 at the end", count as f64, &COUNT, limits)
        .with(watched, "of the whole namespace", sockets.states.fin_wait2 as f64, Unit::Count)
        .ruling_out("the path: the peer's kernel acknowledged the end of each")
        .not_seeing("what the peer's application waits for");
    let finding = match owner.comm {
        Some(_) => finding,
        None => finding.not_seeing("whose they are, where their process has closed them"),
    };
    let who = name(&owner);
    let list = match group.and_then(|group| group.peer.ip) {
        Some(ip) => format!("ss -tanpo state fin-wait-2 dst {}", host(ip)),
        None => "ss -tanpo state fin-wait-2".to_owned(),
    };
    finding
        .advise(format!(
            "ask the owner of {peer}: its application leaks connections (CLOSE_WAIT there); netdiag diagnose on \
             that node tells close-wait-leak"
        ))
        .advise(format!("if {who} only shuts down one way: close, or wait with a timeout"))
        .advise("net.ipv4.tcp_fin_timeout makes the kernel forget those sooner that no process holds")
        .confirm_by(inside(watched, netns, &owner, &list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::{Endpoint, node::States},
        watched::kit::{self, NETNS, end},
    };

    /// Sockets in FIN_WAIT2 by second, of one group.
    fn of(count: impl Fn(u64) -> u64) -> Watched {
        kit::with_nodes(&[kit::flow("f1").to("10.0.0.2", 8080)], |second, node| {
            let count = count(second);
            let states = States { fin_wait2: count, ..States::default() };
            let local = Endpoint { port: None, ..end("10.0.0.1", 1) };
            let fin_wait2 = vec![SocketGroup { local, peer: end("10.0.0.2", 8080), count }];
            node.sockets.push(Sockets { netns: NETNS, states, fin_wait2, ..Sockets::default() });
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(|_| 499), None);
        check(&DEFINITION, &of(|_| 500), Some(Severity::Warning));
        check(&DEFINITION, &of(|second| if second < 5 { 0 } else { 600 }), Some(Severity::Warning));
        check(&DEFINITION, &of(|second| if second < 6 { 0 } else { 600 }), None);
    }

    /// Where there are many sockets they are not counted in each interval.
    #[test]
    fn one_count_that_is_told_again_is_one() {
        let counted = |every: u64| {
            kit::with_nodes(&[], |second, node| {
                let states = States { fin_wait2: 900, ..States::default() };
                let age_ns = second % every * 1_000_000_000;
                node.sockets.push(Sockets { netns: NETNS, age_ns, states, ..Sockets::default() });
            })
        };
        check(&DEFINITION, &counted(10), None);
        check(&DEFINITION, &counted(5), Some(Severity::Warning));
    }

    /// A burst of closes is over in a moment.
    #[test]
    fn a_burst_is_none() {
        check(&DEFINITION, &of(|second| if second % 2 == 0 { 900 } else { 100 }), None);
    }

    #[test]
    fn many_peers_are_the_namespace() {
        let watched = kit::with_node(&[], |node| {
            let states = States { fin_wait2: 900, ..States::default() };
            node.sockets.push(Sockets { netns: NETNS, states, ..Sockets::default() });
        });
        let found = rule(&watched, &Limits::default()).remove(0);
        assert_eq!(found.scope, Scope::namespace(NETNS));
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(|_| 800)));
    }
}
