//! A program asks for addresses of both families and keeps what is there first: the other one is given up, and well.

use std::collections::BTreeMap;

use crate::watched::{Group, Seen, Watched};

/// A process in its network namespace, a port of others, and whether it gets there over IPv4.
type Way = (u32, Option<u32>, u16, bool);

/// Connections that were established, by their way.
pub(super) struct Established(BTreeMap<Way, u64>);

/// None where it is not known whose the flow is, or where to.
fn way(flow: &Seen) -> Option<Way> {
    // An IPv4 address may be written as one of IPv6.
    let is_v4 = flow.peer.ip?.to_canonical().is_ipv4();
    Some((flow.owner.pid?, flow.netns, flow.peer.port?, is_v4))
}

impl Established {
    pub(super) fn of(watched: &Watched) -> Self {
        let mut all: BTreeMap<Way, u64> = BTreeMap::new();
        for flow in watched.flows.values().filter(|flow| flow.is_client()) {
            if let Some(way) = way(flow) {
                *all.entry(way).or_default() += flow.sums.samples("connect");
            }
        }
        Self(all)
    }

    /// Whether for each of these, which were given up, its process got through to that port over the other family:
    /// clients that start both soon after another (RFC 8305) close the one that comes second.
    pub(super) fn instead(&self, given_up: &Group<'_>) -> bool {
        let mut needed: BTreeMap<Way, u64> = BTreeMap::new();
        for flow in &given_up.flows {
            let Some((pid, netns, port, is_v4)) = way(flow) else { return false };
            *needed.entry((pid, netns, port, !is_v4)).or_default() += 1;
        }
        needed.iter().all(|(way, n)| self.0.get(way).is_some_and(|established| established >= n))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        finding::{Limits, Severity, peer_unreachable::DEFINITION, tests::check},
        snapshot::{Flow, Owner},
        watched::kit,
    };

    /// The address that is farther away is given up by the nth process as the other one has answered.
    fn lost(n: u32) -> Flow {
        let flow = kit::flow(&format!("lost{n}")).to("2001:db8::2", 443).of(1_000 + n, "curl");
        Flow { closed: true, ..flow }
            .count("connects_failed.closed", 1)
            .count("retransmits.syn", 0)
            .count("segments_sent", 1)
            .count("segments_received", 0)
            .count("lifetime_ns", 210_000_000)
    }

    fn won(n: u32) -> Flow {
        let flow = kit::flow(&format!("won{n}")).of(1_000 + n, "curl");
        flow.latency("connect", 1, 10_000_000).count("segments_received", 5)
    }

    /// Five races, and what else is there.
    #[track_caller]
    fn five(lost: impl Fn(u32) -> Flow, won: impl Fn(u32) -> Flow, expected: Severity) {
        check(&DEFINITION, &kit::once((0..5).flat_map(|n| [lost(n), won(n)])), Some(expected));
    }

    #[test]
    fn who_comes_second_is_not_unreachable() {
        five(lost, won, Severity::Info);
        let all = kit::once((0..5).flat_map(|n| [lost(n), won(n)]));
        let found = (DEFINITION.rule)(&all, &Limits::default()).remove(0);
        assert!(found.ruled_out.iter().any(|line| line.starts_with("a failure")), "{found:#?}");
        // As an IPv4 address may be written.
        five(lost, |n| won(n).to("::ffff:10.0.0.2", 443), Severity::Info);
        five(|n| lost(n).to("10.0.0.9", 443), |n| won(n).to("2001:db8::3", 443), Severity::Info);
    }

    #[test]
    fn each_process_gets_through_to_that_port_over_the_other_family() {
        five(lost, |n| won(n + 1), Severity::Warning);
        five(lost, |n| won(n).to("10.0.0.2", 80), Severity::Warning);
        five(lost, |n| won(n).to("2001:db8::3", 443), Severity::Warning);
        five(lost, |n| Flow { netns: Some(kit::NETNS + 1), ..won(n) }, Severity::Warning);
        five(|n| Flow { owner: Owner::default(), ..lost(n) }, won, Severity::Warning);
        // One that is asked again is not given up for another one.
        let again = |n| match n {
            0 => lost(n).count("retransmits.syn", 2).count("segments_sent", 3),
            _ => lost(n),
        };
        five(again, won, Severity::Warning);
    }

    #[test]
    fn a_process_gets_through_as_often() {
        let one = |established: u64| {
            let lost = (0..5).map(|n| lost(n).of(9, "shop"));
            let won = won(0).of(9, "shop").latency("connect", established, 10_000_000);
            kit::once(lost.chain([won]))
        };
        check(&DEFINITION, &one(5), Some(Severity::Info));
        check(&DEFINITION, &one(4), Some(Severity::Warning));
    }

    #[test]
    fn another_port_of_the_peer_is_not_hidden() {
        let dead = (0..4).map(|n| {
            let flow = kit::flow(&format!("dead{n}")).to("2001:db8::2", 8443);
            let flow = flow.count("retransmits.syn", 2).count("segments_sent", 3);
            flow.count("segments_received", 0)
        });
        let raced = (0..5).flat_map(|n| [lost(n), won(n)]);
        check(&DEFINITION, &kit::once(dead.chain(raced)), Some(Severity::Critical));
    }
}
