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
    help: "connections reset with a request and no answer, of all; with less it is an info",
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
    help: "the same of connections that had had answers and asked for more; a warning at most",
    source: "a rolling deploy resets each connection once, in some seconds",
};

/// Bytes below which nothing may be asked for: farewells. A TLS close_notify (RFC 8446, 6.1) takes up to 85 with its
/// record, and beside it there may be one more, such as a GOAWAY of HTTP/2 (RFC 9113, 6.8).
const FAREWELL_BYTES: u64 = 200;

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

/// Why one ends connections with resets that nobody waits at.
const ON_PURPOSE: &str = "an end without the wait of TIME_WAIT, as SO_LINGER of 0 or HAProxy's nolinger make it, or \
                          data that came unasked or late.";

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
        let fate = |flow: &Seen| {
            let [this, peer] = payload(flow);
            Fate::of(this, peer, flow.course.asked_bytes)
        };
        let resets = |flow: &Seen| flow.sums.at_least("resets_received");
        let cut = Cut::of(group, (watched, limits), resets, fate)?;
        Some(by_peer(watched, limits, (netns, ip, port), &cut))
    });
    let services = watched.by_service();
    let serves = services.iter().filter_map(|(&(netns, port), group)| {
        let sent = |flow: &Seen| {
            flow.sums.at_least("resets_sent").saturating_sub(flow.sums.at_least(NO_CONNECTION))
        };
        let fate = |flow: &Seen| {
            let [this, peer] = payload(flow);
            Fate::of(peer, this, flow.course.owed_bytes)
        };
        let cut = Cut::of(group, (watched, limits), sent, fate)?;
        Some(by_service(watched, limits, (netns, port), &cut))
    });
    asked.chain(serves).collect()
}

/// Payload bytes that this end of a connection sent, and the peer.
fn payload(flow: &Seen) -> [u64; 2] {
    ["bytes_sent", "bytes_received"].map(|name| flow.sums.at_least(name))
}

/// What a reset did to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Something was asked for, and had no answer.
    InVain,
    /// There were answers, and something else was asked for after them.
    Open,
    /// Nothing was asked for, or it was answered, as far as intervals tell.
    Served,
}

impl Fate {
    /// By the bytes of who asks and of who answers, and those of who asks since an answer came.
    const fn of(asked: u64, answered: u64, since: u64) -> Self {
        match (asked, answered) {
            (1.., 0) => Self::InVain,
            _ if since >= FAREWELL_BYTES => Self::Open,
            _ => Self::Served,
        }
    }
}

/// Connections that were reset.
struct Cut<'a> {
    group: Group<'a>,
    connections: usize,
    in_vain: Failed,
    open: Failed,
    /// Whether the latter decided.
    is_open: bool,
    /// Whether it is known what was sent on them.
    is_told: bool,
    severity: Severity,
}

/// Those of them that failed for who asked.
struct Failed {
    count: usize,
    /// Of all connections.
    share: f64,
    seconds: f64,
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
        fate: impl Fn(&Seen) -> Fate,
    ) -> Option<Self> {
        let is_cut = |flow: &Seen| {
            resets(flow) > 0 && flow.sums.at_least("connects_failed.ECONNREFUSED") == 0
        };
        let group = all.only(is_cut)?;
        let connections = all.flows.len();
        if (group.flows.len() as f64) < limits.of(&LEAST) {
            return None;
        }
        let failed = |so: Fate| {
            let group = group.only(|flow| fate(flow) == so);
            let count = group.as_ref().map_or(0, |group| group.flows.len());
            let seconds = group.map_or(0.0, |group| seconds(&group, watched.every()));
            Failed { count, share: count as f64 / connections as f64, seconds }
        };
        let (in_vain, open) = (failed(Fate::InVain), failed(Fate::Open));
        let goes_on = |failed: &Failed, least: &Threshold| {
            failed.count as f64 >= limits.of(&LEAST)
                && failed.share >= limits.of(&SHARE)
                && failed.seconds >= limits.of(least)
        };
        // Who ends with resets what it has answered fails nobody by it.
        let fails = goes_on(&in_vain, &LEAST_SECONDS);
        let is_open = !fails && goes_on(&open, &LONG_SECONDS);
        let severity = match fails {
            true if in_vain.share >= limits.of(&CRITICAL_SHARE) => Severity::Critical,
            true => Severity::Warning,
            false if is_open => Severity::Warning,
            false => Severity::Info,
        };
        // Of all connections fewer are known then than of those that were reset.
        let severity =
            if watched.others_connected() { severity.min(Severity::Warning) } else { severity };
        let is_told = group.sums.count("bytes_received").is_some();
        Some(Self { group, connections, in_vain, open, is_open, is_told, severity })
    }

    /// Whether nobody is known to have waited for an answer.
    const fn is_served(&self) -> bool {
        self.is_told && self.in_vain.count == 0 && self.open.count == 0
    }

    /// What a title ends with.
    const fn ending(&self) -> &'static str {
        if self.is_served() { ", none with a request known to be open" } else { "" }
    }

    fn told(&self, watched: &Watched, limits: &Limits, scope: Scope, title: String) -> Finding {
        let count = self.group.flows.len() as f64;
        let finding = Finding::new(watched, self.severity, scope, title);
        let finding = if self.is_told {
            let finding = self.failed(finding, watched, limits);
            finding.with(watched, "connections reset", count, Unit::Count)
        } else {
            finding.beyond(watched, "connections reset", count, &LEAST, limits).not_seeing(
                "whether they had answers: nobody tells their bytes (the signal `socket`)",
            )
        };
        let connections = self.connections as f64;
        let finding = finding.with(watched, "connections", connections, Unit::Count);
        let finding = beside_others(finding, watched);
        let every = watched.every();
        match self.severity {
            _ if self.is_served() => finding.not_seeing(
                "whether the answers were whole, and requests that were open for less than an interval",
            ),
            Severity::Info if every > 2.0 => finding.not_seeing(format!(
                "whether it goes on: intervals of {every:.0} s do not tell a burst from it; -i 1s does"
            )),
            _ => finding,
        }
    }

    /// What decided.
    fn failed(&self, finding: Finding, watched: &Watched, limits: &Limits) -> Finding {
        let threshold = if self.severity == Severity::Critical { &CRITICAL_SHARE } else { &SHARE };
        let (failed, least, what) = if self.is_open {
            (&self.open, &LONG_SECONDS, "reset with one more request open")
        } else {
            (&self.in_vain, &LEAST_SECONDS, "reset with a request and no answer")
        };
        finding
            .beyond(watched, &format!("{what}, of all"), failed.share, threshold, limits)
            .beyond(watched, what, failed.count as f64, &LEAST, limits)
            .beyond(watched, "seconds with these", failed.seconds, least, limits)
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
    let title = format!(
        "{} resets {} of {} connections{}",
        scope.name,
        group.flows.len(),
        cut.connections,
        cut.ending()
    );
    let finding = cut
        .told(watched, limits, scope, title)
        .ruling_out("refused connections: these were established before")
        .not_seeing("who sent the reset: the peer, or something between in its name");
    let finding = if cut.is_served() {
        finding
            .because(format!(
                "They waited for nothing when they were ended by the peer's reset: {ON_PURPOSE}"
            ))
            .advise(
                "where clients see no errors nothing has to be done; a server that sets no SO_LINGER of 0 (HAProxy: \
                 no nolinger) ends connections with FIN",
            )
    } else {
        finding
            .ruling_out("an end of old connections at once, as in a deploy: an info at most")
            .because(
                "They were established and ended by the peer's reset. Its application closed with the request \
                 unread, aborted or died, or what stands between (a firewall, a load balancer) gave them up.",
            )
            .advise(format!("see what the service at {ip}:{port} logs at that time: crashes, limits, timeouts"))
    };
    finding
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
        "{} of {} connections to port {port} are reset by this end{}",
        group.flows.len(),
        cut.connections,
        cut.ending()
    );
    let reasons = group.sums.keys("resets_sent");
    let reason = reasons.first().map_or("unknown", |(reason, _)| *reason).to_owned();
    let netns = netns.map(|netns| format!(" --netns {netns}")).unwrap_or_default();
    let finding = cut
        .told(watched, limits, scope, title)
        .with(
            watched,
            "segments received by these",
            group.sums.at_least("segments_received") as f64,
            Unit::Count,
        )
        .ruling_out(format!("a port that nobody listens at: the kernel's reason is {reason}"));
    let finding = if cut.is_served() {
        finding.because(format!(
            "Clients waited for nothing when this end reset their connections: {ON_PURPOSE}"
        ))
    } else {
        finding.because(
            "This end's application closed with data unread or aborted (SO_LINGER of 0), or the kernel did \
             so for it. The client sees `connection reset by peer`.",
        )
    };
    finding
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
    }

    /// A server that ends with a reset what it has answered.
    #[test]
    fn what_was_answered_is_an_info() {
        check(&DEFINITION, &of(1, 10, 900), Some(Severity::Info));
        check(&DEFINITION, &of(2, 10, 900), Some(Severity::Info));
        check(&DEFINITION, &of(1, 4, 900), None);
        let found = rule(&of(1, 10, 900), &Limits::default()).remove(0);
        assert!(found.title.ends_with("none with a request known to be open"), "{}", found.title);
        assert!(!found.explanation.contains("died"), "{}", found.explanation);
        // Of those in vain there are enough, and hardly any of all.
        let mixed = |answered: u64| {
            kit::series(|second| {
                let one = |n| once(&format!("f{second}-{n}"), 900, 1);
                let in_vain = (second < 5).then(|| once(&format!("v{second}"), 0, 1));
                (0..answered).map(one).chain(in_vain).collect()
            })
        };
        check(&DEFINITION, &mixed(9), Some(Severity::Warning));
        check(&DEFINITION, &mixed(10), Some(Severity::Info));
    }

    /// Each second one more connection has its answer, and is reset in the next, after so many bytes more.
    #[test]
    fn a_request_that_was_open_after_answers_is_a_warning_at_most() {
        let open = |seconds: u64, bytes: u64| {
            let mut watched = Watched::default();
            for second in 0..=seconds {
                let cut = |n: u64| once(&format!("f{n}"), 0, 1).count("bytes_sent", bytes);
                let cut = second.checked_sub(1).map(cut);
                let fresh = once(&format!("f{second}"), 900, 0);
                let flows = cut.into_iter().chain([Flow { closed: false, ..fresh }]);
                watched.take(&kit::snapshot(second, flows.collect()));
            }
            watched
        };
        check(&DEFINITION, &open(10, 200), Some(Severity::Warning));
        check(&DEFINITION, &open(9, 200), Some(Severity::Info));
        check(&DEFINITION, &open(10, 199), Some(Severity::Info));
    }

    #[test]
    fn answers_that_nobody_saw_are_not_0() {
        let watched = kit::series(|second| {
            vec![kit::flow(&format!("f{second}")).count("resets_received", 1)]
        });
        check(&DEFINITION, &watched, Some(Severity::Info));
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.evidence.iter().all(|one| !one.metric.contains("answer")), "{found:#?}");
        assert!(found.not_observable[0].contains("nobody tells"), "{found:#?}");
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
