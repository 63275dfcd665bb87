//! Connections to a server are reset instead of answered.

use std::net::IpAddr;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{beside_others, events, inside},
};
use crate::{
    snapshot::Role,
    watched::{Group, Seen, Watched},
};

const LEAST: Threshold = Threshold {
    name: "least_resets",
    value: 5.0,
    unit: Unit::Count,
    help: "connections reset in a window, fewer say nothing",
    source: "a connection kept too long is reset now and then",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.05,
    unit: Unit::Ratio,
    help: "the same of all connections",
    source: "one in twenty is felt",
};
const CRITICAL_SHARE: Threshold = Threshold {
    name: "critical_share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "the same, from which on little works",
    source: "retries fail as often as not",
};
const LEAST_SECONDS: Threshold = Threshold {
    name: "least_seconds",
    value: 3.0,
    unit: Unit::Count,
    help: "seconds of a window with resets of connections that got no answer; less is a deploy or an end",
    source: "a server that ends resets all at once",
};
const LONG_SECONDS: Threshold = Threshold {
    name: "long_seconds",
    value: 10.0,
    unit: Unit::Count,
    help: "the same where connections had had answers before",
    source: "a rolling deploy resets each connection once, in some seconds",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "connection-reset",
    help: "connections are reset instead of answered, again and again",
    thresholds: &[&LEAST, &SHARE, &CRITICAL_SHARE, &LEAST_SECONDS, &LONG_SECONDS],
    needs: &[Signal::Reset],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[
        Packets { at: |role| role != Some(Role::Server), ..Packets::of("resets_received") },
        Packets {
            but: Some(NO_CONNECTION),
            at: |role| role == Some(Role::Server),
            ..Packets::of("resets_sent.")
        },
    ],
    causes: &["listen-overflow", "firewall-drop", "half-open-peer", "tcp-memory-pressure"],
    rule,
};

/// Resets that are about no connection: nobody listens, or one ended long ago.
const NO_CONNECTION: &str = "resets_sent.NO_SOCKET";

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let is_tcp = |flow: &Seen| flow.protocol.as_deref() == Some("tcp");
    // Of old connections it is not known who asked.
    let asked = watched.by(|flow| {
        let asks = is_tcp(flow) && flow.role != Some(Role::Server);
        asks.then_some((flow.netns, flow.peer.ip?, flow.peer.port?))
    });
    let asked = asked.iter().filter_map(|(&(netns, ip, port), group)| {
        let cut = Cut::of(
            group,
            (watched, limits),
            |flow| flow.sums.at_least("resets_received"),
            |flow| {
                flow.sums.at_least("bytes_sent") > 0 && flow.sums.at_least("bytes_received") == 0
            },
        )?;
        Some(by_peer(watched, limits, (netns, ip, port), &cut))
    });
    let services = watched.by_service();
    let serves = services.iter().filter_map(|(&(netns, port), group)| {
        let sent = |flow: &Seen| {
            flow.sums.at_least("resets_sent").saturating_sub(flow.sums.at_least(NO_CONNECTION))
        };
        let cut = Cut::of(group, (watched, limits), sent, |flow| {
            flow.sums.at_least("bytes_received") > 0 && flow.sums.at_least("bytes_sent") == 0
        })?;
        Some(by_service(watched, limits, (netns, port), &cut))
    });
    asked.chain(serves).collect()
}

/// Connections that were reset.
struct Cut<'a> {
    group: Group<'a>,
    connections: usize,
    share: f64,
    in_vain: usize,
    seconds: f64,
    severity: Severity,
}

/// Seconds with resets, at least: of intervals longer than one, the first and the last may have had theirs
/// within one, where they meet. Never more than connections that were reset.
fn seconds(group: &Group<'_>, every: f64) -> f64 {
    let intervals = f64::from(group.seconds(|course| course.reset).count());
    if every < 1.5 {
        return intervals;
    }
    let spans = intervals * every - 2.0 * (every - 1.0);
    spans.min(group.flows.len() as f64).max(intervals.min(2.0)).floor()
}

impl<'a> Cut<'a> {
    fn of(
        all: &Group<'a>,
        (watched, limits): (&Watched, &Limits),
        resets: impl Fn(&Seen) -> u64,
        is_in_vain: impl Fn(&Seen) -> bool,
    ) -> Option<Self> {
        let is_cut = |flow: &Seen| {
            resets(flow) > 0 && flow.sums.at_least("connects_failed.ECONNREFUSED") == 0
        };
        let group = all.only(is_cut)?;
        let (count, connections) = (group.flows.len(), all.flows.len());
        let in_vain = group.flows.iter().filter(|flow| is_in_vain(flow)).count();
        let share = count as f64 / connections as f64;
        if (count as f64) < limits.of(&LEAST) {
            return None;
        }
        let seconds = seconds(&group, watched.every());
        let is_failing =
            in_vain as f64 >= limits.of(&LEAST) && seconds >= limits.of(&LEAST_SECONDS);
        let goes_on = is_failing || seconds >= limits.of(&LONG_SECONDS);
        let severity = match share {
            share if !goes_on || share < limits.of(&SHARE) => Severity::Info,
            share if share >= limits.of(&CRITICAL_SHARE) => Severity::Critical,
            _ => Severity::Warning,
        };
        // Of all connections fewer are known then than of those that were reset.
        let severity =
            if watched.others_connected() { severity.min(Severity::Warning) } else { severity };
        Some(Self { group, connections, share, in_vain, seconds, severity })
    }

    fn told(&self, watched: &Watched, limits: &Limits, scope: Scope, title: String) -> Finding {
        let threshold = if self.severity == Severity::Critical { &CRITICAL_SHARE } else { &SHARE };
        let count = self.group.flows.len();
        let finding = Finding::new(watched, self.severity, scope, title)
            .beyond(watched, "connections reset of all", self.share, threshold, limits)
            .beyond(watched, "connections reset", count as f64, &LEAST, limits)
            .beyond(watched, "seconds with resets", self.seconds, &LEAST_SECONDS, limits)
            .with(watched, "reset with a request and no answer", self.in_vain as f64, Unit::Count)
            .with(watched, "connections", self.connections as f64, Unit::Count);
        let finding = beside_others(finding, watched);
        let every = watched.every();
        if self.severity == Severity::Info && every > 2.0 {
            return finding.not_seeing(format!(
                "whether it goes on: intervals of {every:.0} s do not tell a burst from it; -i 1s does"
            ));
        }
        finding
    }
}

fn by_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): (Option<u32>, IpAddr, u16),
    cut: &Cut<'_>,
) -> Finding {
    let group = &cut.group;
    let scope = Scope::backend(netns, ip, port).by(&group.owner());
    let title =
        format!("{} resets {} of {} connections", scope.name, group.flows.len(), cut.connections);
    cut.told(watched, limits, scope, title)
        .because(
            "They were established and ended by the peer's reset. Its application closed with the request \
             unread, aborted or died, or what stands between (a firewall, a load balancer) gave them up.",
        )
        .ruling_out("refused connections: these were established before")
        .ruling_out("an end of old connections at once, as in a deploy: an info at most")
        .not_seeing("who sent the reset: the peer, or something between in its name")
        .advise(format!("see what the service at {ip}:{port} logs at that time: crashes, limits, timeouts"))
        .advise("if connections are idle before: let clients close them sooner than the server does")
        .advise("where a device between gives them up, the resets have another TTL than the peer's segments")
        .confirm_by(events("reset", netns, ip))
        .confirm_by(inside(group, &format!("tcpdump -nvi any '{} & 4 != 0 and host {ip}'", flags_of(ip))))
}

/// The byte of TCP's flags as a filter of pcap has it: of IPv6 it knows no `tcp[…]`.
const fn flags_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "ip6[6] == 6 and ip6[53]" } else { "tcp[tcpflags]" }
}

fn by_service(
    watched: &Watched,
    limits: &Limits,
    (netns, port): (Option<u32>, u16),
    cut: &Cut<'_>,
) -> Finding {
    let group = &cut.group;
    let scope = Scope::process(netns, &group.owner()).at(port);
    let title = format!(
        "{} of {} connections to port {port} are reset by this end",
        group.flows.len(),
        cut.connections
    );
    let reasons = group.sums.keys("resets_sent");
    let reason = reasons.first().map_or("unknown", |(reason, _)| *reason).to_owned();
    let netns = netns.map(|netns| format!(" --netns {netns}")).unwrap_or_default();
    cut.told(watched, limits, scope, title)
        .because(
            "This end's application closed with data unread or aborted (SO_LINGER of 0), or the kernel did \
             so for it. The client sees `connection reset by peer`.",
        )
        .with(watched, "segments received by these", group.sums.at_least("segments_received") as f64, Unit::Count)
        .ruling_out(format!("a port that nobody listens at: the kernel's reason is {reason}"))
        .advise(match group.comm() {
            Some(comm) => format!("see what {comm} logs at that time: crashes, limits, requests too large"),
            None => "see what the service logs at that time: crashes, limits, requests too large".to_owned(),
        })
        .advise("an application that reads all of a request before it closes ends with FIN, not a reset")
        .confirm_by(format!("netdiag events --kind reset --local-port {port}{netns}"))
        .confirm_by(inside(group, &format!("ss -tinmp sport = :{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// A connection for one request, with or without its answer.
    fn once(id: &str, answer: u64, resets: u64) -> Flow {
        let flow = kit::flow(id).count("bytes_sent", 100).count("bytes_received", answer);
        Flow { closed: true, ..flow.count("resets_received", resets) }
    }

    /// Ten seconds with so many connections each, of which the first is reset in so many of them.
    fn of(each: u64, seconds: u64, answer: u64) -> Watched {
        kit::series(|second| {
            let is_reset = |n| u64::from(n == 0 && second < seconds);
            let one = |n| {
                let reset = is_reset(n);
                once(&format!("f{second}-{n}"), if reset == 1 { answer } else { 900 }, reset)
            };
            (0..each).map(one).collect()
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(4, 4, 0), None);
        check(&DEFINITION, &of(4, 5, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(10, 5, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(11, 5, 0), Some(Severity::Info));
        check(&DEFINITION, &of(2, 10, 0), Some(Severity::Critical));
        check(&DEFINITION, &of(2, 9, 0), Some(Severity::Warning));
        // They had had answers.
        check(&DEFINITION, &of(4, 9, 900), Some(Severity::Info));
        check(&DEFINITION, &of(4, 10, 900), Some(Severity::Warning));
    }

    /// Intervals of ten seconds: what goes on through three of them is no deploy.
    #[test]
    fn long_intervals() {
        let slow = |intervals: u64, each: u64| {
            let mut watched = Watched::default();
            for nth in 0..6 {
                let one = |n| once(&format!("f{nth}-{n}"), 0, u64::from(nth < intervals));
                let mut snapshot = kit::snapshot(nth * 10, (0..each).map(one).collect());
                snapshot.end = kit::snapshot(nth * 10 + 10, vec![]).start;
                watched.take(&snapshot);
            }
            watched
        };
        check(&DEFINITION, &slow(3, 6), Some(Severity::Critical));
        check(&DEFINITION, &slow(2, 6), Some(Severity::Info));
        let found = rule(&slow(2, 6), &Limits::default()).remove(0);
        assert!(found.not_observable[0].contains("-i 1s"), "{:?}", found.not_observable);
    }

    #[test]
    fn a_deploy_alarms_nobody() {
        let deploy = |seconds: u64| {
            kit::series(|second| {
                let one = |n| once(&format!("f{second}-{n}"), 0, u64::from(second < seconds));
                (0..6).map(one).collect()
            })
        };
        check(&DEFINITION, &deploy(2), Some(Severity::Info));
        check(&DEFINITION, &deploy(3), Some(Severity::Warning));
    }

    #[test]
    fn a_service_that_resets_is_found_and_its_clients_ends_are_not() {
        let served = |name: &'static str| {
            kit::series(move |second| {
                let flow = kit::flow(&format!("f{second}")).serving(8080).of(90, "api");
                let flow = flow.count("bytes_sent", 0).count("bytes_received", 100);
                vec![flow.count(name, 1)]
            })
        };
        check(&DEFINITION, &served("resets_sent.TCP_ABORT_ON_CLOSE"), Some(Severity::Critical));
        check(&DEFINITION, &served("resets_sent.NO_SOCKET"), None);
        check(&DEFINITION, &served("resets_received"), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(4, 10, 0)));
    }
}
