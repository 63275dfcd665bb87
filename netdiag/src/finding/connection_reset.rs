//! Connections to a server are reset instead of answered.

use std::net::IpAddr;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Packets, Scope, Severity, Threshold, Unit,
    advice::{by_no_listener_here, events, inside},
};
use crate::{
    snapshot::Role,
    watched::{Seen, Watched},
};

mod cut;
mod fate;

use cut::{Cut, Waited};
use fate::{FAREWELL_BYTES, Fate};

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
    help: "the same of connections that had had answers and asked for more, or may have; a warning at most",
    source: "a rolling deploy resets each connection once, in some seconds",
};
const UNCLEAR_SHARE: Threshold = Threshold {
    name: "unclear_share",
    value: 0.6,
    unit: Unit::Ratio,
    help: "connections reset of which it is not known whether one more request was open, of all; with less it is an \
           info",
    source: "a rolling deploy resets half of them: each has another one in its place",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "connection-reset",
    help: "connections are reset instead of answered, again and again",
    thresholds: &[&LEAST, &SHARE, &CRITICAL_SHARE, &LEAST_SECONDS, &LONG_SECONDS, &UNCLEAR_SHARE],
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
    // Of old connections it is not known who asked.
    let asked = watched.by(|flow| {
        let asks = flow.is_tcp() && flow.role != Some(Role::Server);
        asks.then_some((flow.netns, flow.peer.ip?, flow.peer.port?))
    });
    let asked = asked.iter().filter_map(|(&(netns, ip, port), group)| {
        let resets = |flow: &Seen| flow.sums.at_least("resets_received");
        let cut = Cut::of(group, (watched, limits), resets, Fate::at_client)?;
        Some(by_peer(watched, limits, (netns, ip, port), &cut))
    });
    let services = watched.by_service();
    let serves = services.iter().filter_map(|(&(netns, port), group)| {
        let sent = |flow: &Seen| {
            flow.sums.at_least("resets_sent").saturating_sub(flow.sums.at_least(NO_CONNECTION))
        };
        let cut = Cut::of(group, (watched, limits), sent, Fate::at_server)?;
        Some(by_service(watched, limits, (netns, port), &cut))
    });
    asked.chain(serves).collect()
}

/// Why connections were reset where nobody is known to have waited on them.
fn why(waited: Waited, who: &str, when: &str) -> Option<String> {
    match waited {
        Waited::Nobody => Some(format!("{who} waited for nothing when {when}: {ON_PURPOSE}")),
        Waited::Hardly => Some(format!(
            "Hardly anything was asked for when {when}, less than {FAREWELL_BYTES} bytes since the last answer: a \
             farewell, or a very short request. It may be {ON_PURPOSE}"
        )),
        Waited::Unclear => Some(format!(
            "Both ends had spoken in the last interval before {when}. Either requests were open, and the application \
             aborted or died, or all were answered, and it is {ON_PURPOSE}"
        )),
        Waited::Somebody => None,
    }
}

/// What shows whether a request was open, where intervals do not.
const ASK_CLIENTS: &str = "ask the clients: where they log no errors (connection reset by peer) all was answered, and \
                           nothing has to be done";
/// What is no warning.
const NO_DEPLOY: &str = "an end of old connections at once, as in a deploy: an info at most";

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
    let logs =
        format!("see what the service at {ip}:{port} logs at that time: crashes, limits, timeouts");
    let finding = match cut.severity {
        Severity::Info => finding,
        _ => finding.ruling_out(NO_DEPLOY),
    };
    let waited = cut.waited();
    let finding = match why(waited, "They", "they were ended by the peer's reset") {
        None => finding
            .because(
                "They were established and ended by the peer's reset. Its application closed with the request \
                 unread, aborted or died, or what stands between (a firewall, a load balancer) gave them up.",
            )
            .advise(logs),
        Some(why) if waited == Waited::Unclear => {
            finding.because(why).advise(ASK_CLIENTS).advise(logs)
        }
        Some(why) => finding.because(why).advise(
            "where clients see no errors nothing has to be done; a server that sets no SO_LINGER of 0 (HAProxy: no \
             nolinger) ends connections with FIN",
        ),
    };
    by_no_listener_here(finding, group)
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
    let waited = cut.waited();
    let finding = match why(waited, "Clients", "this end reset their connections") {
        None => finding.because(
            "This end's application closed with data unread or aborted (SO_LINGER of 0), or the kernel did \
             so for it. The client sees `connection reset by peer`.",
        ),
        Some(why) if waited == Waited::Unclear => finding.because(why).advise(ASK_CLIENTS),
        Some(why) => finding.because(why),
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
        assert!(found.explanation.starts_with("Hardly anything"), "{}", found.explanation);
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

    /// Ten seconds with so many connections by TLS each, of which so many are reset after both ends have spoken.
    fn by_tls(each: u64, reset: u64, seconds: u64, change: fn(Flow) -> Flow) -> Watched {
        kit::series(|second| {
            let one = |n| {
                let is_reset = u64::from(n < reset && second < seconds);
                change(once(&format!("f{second}-{n}"), 3_800, is_reset).count("bytes_sent", 897))
            };
            (0..each).map(one).collect()
        })
    }

    #[test]
    fn that_nobody_waited_is_said_where_it_is_known() {
        let whole = |watched: &Watched, severity| {
            check(&DEFINITION, watched, Some(severity));
            rule(watched, &Limits::default()).remove(0)
        };
        for (each, reset, seconds, severity) in [
            (1, 1, 10, Severity::Warning),
            (5, 3, 10, Severity::Warning),
            (2, 1, 10, Severity::Info),
            (1, 1, 9, Severity::Info),
        ] {
            let found = whole(&by_tls(each, reset, seconds, |flow| flow), severity);
            assert!(found.title.ends_with("maybe with requests open"), "{found:#?}");
            assert!(!found.explanation.contains("waited for nothing"), "{found:#?}");
            let is_lasting = found.ruled_out.iter().any(|line| line.contains("deploy"));
            assert_eq!(is_lasting, severity > Severity::Info, "{found:#?}");
            assert!((found.confidence - 0.5).abs() < 1e-9, "{found:#?}");
        }
        // The handshake and one request, both answered.
        let answered = |flow: Flow| {
            let flow = flow.latency("connect", 1, 1_000).count("data_segments_sent", 2);
            flow.latency("response", 2, 1_000_000)
        };
        let found = whole(&by_tls(1, 1, 10, answered), Severity::Info);
        assert!(found.explanation.starts_with("They waited for nothing"), "{found:#?}");
        assert!((found.confidence - 0.9).abs() < 1e-9, "{found:#?}");
    }

    /// Those that are known to be in vain decide before those that may be.
    #[test]
    fn what_is_known_comes_first() {
        let watched = kit::series(|second| {
            let unclear = once(&format!("u{second}"), 3_800, 1).count("bytes_sent", 897);
            vec![unclear, once(&format!("v{second}"), 0, 1)]
        });
        check(&DEFINITION, &watched, Some(Severity::Critical));
        let found = rule(&watched, &Limits::default()).remove(0);
        assert!(found.explanation.starts_with("They were established"), "{found:#?}");
        assert!((found.confidence - 0.9).abs() < 1e-9, "{found:#?}");
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
        for (seconds, expected) in [(2, Severity::Info), (3, Severity::Warning)] {
            check(&DEFINITION, &deploy(seconds), Some(expected));
            let found = rule(&deploy(seconds), &Limits::default()).remove(0);
            let is_ruled_out = found.ruled_out.iter().any(|line| line == NO_DEPLOY);
            assert_eq!(is_ruled_out, expected > Severity::Info, "{found:#?}");
        }
    }

    #[test]
    fn a_listener_here_has_no_part_in_what_is_asked_elsewhere() {
        let clears = |ip: &str| {
            let watched = kit::series(|second| vec![once(&format!("f{second}"), 0, 1).to(ip, 443)]);
            rule(&watched, &Limits::default())[0].cleared.contains(&"listen-overflow")
        };
        assert_eq!(["10.0.0.2", "10.0.0.1", "127.0.0.1"].map(clears), [true, false, false]);
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
