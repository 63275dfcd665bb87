//! A server that this node asks takes long to answer, and the path does not explain it.

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{end, host, ss_by},
    held::{self, AWAITED, EMPTY, Held, Look, OPEN, TIMER},
};
use crate::{
    format,
    snapshot::Owner,
    watched::{Backend, Group, Sums, Watched},
};

const RESPONSE: Threshold = Threshold {
    name: "response",
    value: 500e6,
    unit: Unit::Ns,
    help: "90th percentile of a server's responses",
    source: "field practice: a first byte after more than 500 ms is the application, if the path is short",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 5e9,
    unit: Unit::Ns,
    help: "the same, from which on clients give up",
    source: "common client timeouts are 5 s to 30 s",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the responses' time that neither the path, queues, stalls nor sending explain",
    source: "the larger part decides whom to ask",
};
const HELD: Threshold = Threshold {
    name: "held",
    value: 8e9,
    unit: Unit::Ns,
    help: "what even the quickest tenth takes of a server that holds its answers back on purpose",
    source: "long polls last 10 s to 60 s; who works that long on everything has no clients left",
};
const LEAST: Threshold = Threshold {
    name: "least_responses",
    value: 5.0,
    unit: Unit::Count,
    help: "responses in a window, fewer say nothing",
    source: "a percentile of fewer is one of them",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "slow-peer-application",
    help: "a server that this node asks answers late, and not for the network's sake",
    thresholds: &[&RESPONSE, &CRITICAL, &HELD, &TIMER, &OPEN, &EMPTY, &SHARE, &LEAST],
    // The peer's time is what the path and what was sent again leave of a response.
    needs: &[Signal::Turn, Signal::Rtt, Signal::Retransmit],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[
        "packet-loss",
        "pmtu-black-hole",
        "bufferbloat",
        "cpu-starved",
        "slow-local-application",
        "local-not-reading",
        "peer-not-reading",
        "periodic-latency",
        "backend-outlier",
    ],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let backends = watched.by_backend();
    backends.iter().filter_map(|(at, group)| of_backend(watched, limits, *at, group)).collect()
}

/// Nanoseconds of responses, by what took them.
struct Spent {
    path: u64,
    queueing: u64,
    stalls: u64,
    /// Until all that was sent was acknowledged, beyond these.
    sending: u64,
    /// What is left: the peer's application.
    peer: u64,
    /// By the kernel's stopwatch, with data to send; none where nobody tells it of one that waited.
    busy: Option<u64>,
}

impl Spent {
    /// None where it is not known. By connection: what one of them sends is no part of what another one waits for.
    fn of(group: &Group<'_>) -> Option<Self> {
        let each = group.flows.iter().filter_map(|flow| Self::of_flow(&flow.sums));
        each.reduce(|one, other| Self {
            path: one.path + other.path,
            queueing: one.queueing + other.queueing,
            stalls: one.stalls + other.stalls,
            sending: one.sending + other.sending,
            peer: one.peer + other.peer,
            busy: one.busy.zip(other.busy).map(|(one, other)| one + other),
        })
    }

    /// A response begins when the kernel has the request, which may still have to leave the send buffer. The kernel's
    /// own stopwatch runs until the peer has acknowledged all of it. That holds the path and what was sent again, too:
    /// they are taken off once.
    fn of_flow(sums: &Sums) -> Option<Self> {
        let part = |name: &str| sums.count(&format!("spent_ns.{name}"));
        let [path, queueing, stalls] =
            ["network_path", "network_queueing", "network_stalls"].map(|it| part(it).unwrap_or(0));
        let (network, rest) = (path + queueing + stalls, part("peer_application")?);
        // Who waited for nothing has sent for something else.
        let busy = if network + rest > 0 { sums.count("busy_ns") } else { Some(0) };
        let sending = busy.unwrap_or(0).saturating_sub(network).min(rest);
        Some(Self { path, queueing, stalls, sending, peer: rest - sending, busy })
    }

    /// Part of the network in all but sending.
    fn network(&self) -> f64 {
        let network = (self.path + self.queueing + self.stalls) as f64;
        network / (network + self.peer as f64).max(1.0)
    }

    /// Part of the peer's application.
    fn share(&self) -> f64 {
        let Self { path, queueing, stalls, sending, peer, .. } = *self;
        peer as f64 / (path + queueing + stalls + sending + peer).max(1) as f64
    }
}

fn of_backend(
    watched: &Watched,
    limits: &Limits,
    at: Backend,
    group: &Group<'_>,
) -> Option<Finding> {
    let look = Look { watched, limits, answers: AWAITED, least: limits.of(&LEAST) as u64 };
    held::of_each(&look, group, &RESPONSE, |some, before| of_some(&look, at, some, before))
}

/// Some of those that ask a server, and the timer of polls beside them where they are answered before it ends.
fn of_some(
    look: &Look<'_>,
    (netns, ip, port): Backend,
    group: &Group<'_>,
    before: Option<u64>,
) -> Option<Finding> {
    let Look { watched, limits, least, .. } = *look;
    let sums = &group.sums;
    let p90 = sums.quantile("response", 0.9, least)?;
    let spent = Spent::of(group)?;
    let share = spent.share();
    if (p90 as f64) < limits.of(&RESPONSE) || share < limits.of(&SHARE) {
        return None;
    }
    let held = Held::of(look, group, &HELD, before)?;
    let here = server(watched, group);
    let (severity, threshold) = match p90 as f64 {
        // What the server of this node takes is told of that one.
        _ if held.is_likely() || here.is_some() => (Severity::Info, &RESPONSE),
        p90 if p90 >= limits.of(&CRITICAL) && !held.is_possible() => {
            (Severity::Critical, &CRITICAL)
        }
        _ => (Severity::Warning, &RESPONSE),
    };
    let scope = Scope::backend(netns, ip, port).by(&group.owner());
    let title = match held.poll() {
        Some(poll) => {
            format!("{} answers as by a timer of {}", scope.name, format::duration(poll.ns))
        }
        None => format!(
            "{} takes {} to answer (p90), {} of that in its application",
            scope.name,
            format::duration(p90),
            format::percent(share)
        ),
    };
    let finding = Finding::new(watched, severity, scope, title)
        .beyond(watched, "response p90", p90 as f64, threshold, limits)
        .beyond(watched, "the peer application's part of it", share, &SHARE, limits)
        .with(watched, "responses", sums.samples("response") as f64, Unit::Count)
        .ruling_out(format!(
            "the network: path {}, queueing {}, stalls after loss {} of all responses",
            format::duration(spent.path),
            format::duration(spent.queueing),
            format::duration(spent.stalls)
        ));
    let finding = match spent.busy {
        Some(busy) => finding.ruling_out(format!(
            "requests that had not left yet: all that was sent was acknowledged in {}, all together",
            format::duration(busy)
        )),
        None => finding.no_surer_than(0.6).not_seeing(
            "requests that had not left yet: nobody tells how long data waited (the signal `socket`)",
        ),
    };
    let finding = finding.not_seeing(
        "queues in which only small requests wait, and loss of answers on their way back",
    );
    let finding = if held.is_likely() {
        let at = end(&group.first().peer);
        finding
            .because(held::LONG)
            .confidence(0.5)
            .advise(format!("if {at} is meant to answer at once, ask its owner what it waits for"))
    } else {
        ask(finding, group, here, spent.busy.is_some())
    };
    let finding = held
        .told(finding, watched, limits)
        .confirm_by(ss_by(group.owner().pid, &format!("dst {} dport = :{port}", host(ip))))
        .confirm_by(format!("netdiag live --peer {ip} --peer-port {port} --sort response.p99"));
    let finding = cleared(finding, watched, group, spent.network()).done_by(group.peer_owner());
    Some(match group.rtt_min_ns() {
        Some(path) => finding.with(watched, "path (rtt_min)", path as f64, Unit::Ns),
        None => finding.no_surer_than(0.6).not_seeing("how long the path takes (rtt_min)"),
    })
}

/// What does not explain it: what is wrong with a network that has no part in it, and with a node that the
/// server is not on.
///
/// Programs that tell of segments sent again may be skipped, and what they tell may be lost. The kernel's own count
/// misses none; but when they were sent again, which makes a stall of it, only programs tell.
fn cleared(finding: Finding, watched: &Watched, group: &Group<'_>, network: f64) -> Finding {
    /// Above it, an answer may be lost where the split does not see that.
    const NO_PART: f64 = 0.1;
    let again: Option<u64> =
        group.flows.iter().map(|flow| flow.sums.count("bytes_retransmitted")).sum();
    let lost = watched.lost.get(Signal::Retransmit.name()).copied().unwrap_or(0);
    let finding = match again {
        Some(0) if network < NO_PART => {
            finding.clearing(&["packet-loss", "pmtu-black-hole", "bufferbloat"])
        }
        Some(0) => finding,
        _ if lost > 0 => finding.no_surer_than(0.6).not_seeing(format!(
            "all stalls after loss: {lost} samples of `retransmit` were lost or missed"
        )),
        _ => finding,
    };
    if group.flows.iter().any(|flow| flow.is_local()) {
        return finding;
    }
    finding.clearing(&["cpu-starved", "slow-local-application"])
}

/// The server's process where it is on this node and the only one.
fn server<'a>(watched: &'a Watched, group: &Group<'_>) -> Option<&'a Owner> {
    let ends = group.flows.iter().map(|flow| watched.flows.get(flow.pair.as_ref()?));
    let ends: Vec<_> = ends.collect::<Option<_>>()?;
    let owner = &ends.first()?.owner;
    owner.pid?;
    let is_alone =
        ends.iter().all(|end| end.owner.pid == owner.pid && end.sums.samples("service") > 0);
    is_alone.then_some(owner)
}

/// Whom to ask, and what; whether it is known how long requests took to leave.
fn ask(finding: Finding, group: &Group<'_>, here: Option<&Owner>, knows_sending: bool) -> Finding {
    let at = end(&group.first().peer);
    let finding = finding.because(if knows_sending {
        "Of the time from the last byte of a request to the first byte of its answer, only the smaller part \
         is the path, what was queued on it, segments that were lost, or a request that had not left yet. The \
         rest is the server."
    } else {
        "Of the time from when a request was handed over to the first byte of its answer, only the smaller part \
         is the path, what was queued on it, or segments that were lost. The rest is the server, unless the \
         request had to wait before it left."
    });
    if let Some((comm, pid)) = here.and_then(|owner| owner.comm.as_ref().zip(owner.pid)) {
        return finding
            .advise(format!("{at} is {comm}/{pid} of this node: look at what is said of that"));
    }
    let blame = group.comm().map_or_else(String::new, |comm| format!("; {comm} is not to blame"));
    finding
        .advise(format!(
            "ask the owner of {at}: what it waits for itself (locks, disk, its own servers){blame}"
        ))
        .advise("run netdiag diagnose on that node: it tells slow-local-application from cpu-starved there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// Ten responses an interval, of which the peer's application takes a part in a hundred.
    fn of(ms: u64, part: u64) -> Watched {
        let ns = ms * 1_000_000;
        kit::watched(&[kit::flow("f1")
            .latency("response", 10, ns)
            .path(200_000)
            .count("spent_ns.peer_application", ns / 100 * part)
            .count("spent_ns.network_path", 200_000)
            .count("spent_ns.network_queueing", ns - ns / 100 * part - 200_000)
            .count("spent_ns.network_stalls", 0)
            .count("busy_ns", 200_000)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(500, 90), Some(Severity::Warning));
        check(&DEFINITION, &of(490, 90), None);
        check(&DEFINITION, &of(5_100, 90), Some(Severity::Critical));
        check(&DEFINITION, &of(4_900, 90), Some(Severity::Warning));
        check(&DEFINITION, &of(800, 50), Some(Severity::Warning));
        check(&DEFINITION, &of(800, 49), None);
        let few = |n| kit::once((0..n).map(|n| answer(&format!("f{n}"), 800, None)));
        check(&DEFINITION, &few(5), Some(Severity::Warning));
        check(&DEFINITION, &few(4), None);
    }

    /// An upload of 900 ms in the eyes of who handed it over, on a path of 20 ms, which is acknowledged so late.
    #[test]
    fn what_waits_in_the_send_buffer_is_not_the_peers() {
        let flow = || {
            kit::flow("f1")
                .latency("response", 1, 900_000_000)
                .path(20_000_000)
                .count("spent_ns.peer_application", 880_000_000)
                .count("spent_ns.network_path", 20_000_000)
                .count("spent_ns.network_queueing", 0)
                .count("spent_ns.network_stalls", 0)
        };
        for (busy_ms, expected) in [
            (820, None),
            (451, None),
            (450, Some(Severity::Warning)),
            (20, Some(Severity::Warning)),
            (5_000, None),
        ] {
            let flow = flow().count("busy_ns", busy_ms * 1_000_000);
            check(&DEFINITION, &kit::watched(&[flow]), expected);
        }
        // Where nobody tells of it, it may be the server.
        check(&DEFINITION, &kit::watched(&[flow()]), Some(Severity::Warning));
        let found = rule(&kit::watched(&[flow()]), &Limits::default()).remove(0);
        assert!((found.confidence - 0.6).abs() < 1e-9, "{found:#?}");
        assert!(found.not_observable[0].contains("nobody tells"), "{found:#?}");
        assert!(found.ruled_out.iter().all(|line| !line.contains("not left")), "{found:#?}");
    }

    /// One connection is asked, and another one to the same server sends all the time and waits for nothing.
    #[test]
    fn an_upload_beside_it_hides_nothing() {
        let asks = kit::flow("f1")
            .latency("response", 1, 800_000_000)
            .path(200_000)
            .count("spent_ns.peer_application", 799_800_000)
            .count("spent_ns.network_path", 200_000)
            .count("busy_ns", 200_000);
        let sends = kit::flow("f2")
            .path(200_000)
            .count("spent_ns.peer_application", 0)
            .count("spent_ns.network_path", 0);
        for sends in [sends.clone().count("busy_ns", 1_000_000_000), sends] {
            let watched = kit::watched(&[asks.clone(), sends]);
            check(&DEFINITION, &watched, Some(Severity::Warning));
            let found = rule(&watched, &Limits::default()).remove(0);
            assert!(found.ruled_out[1].ends_with("in 2.00ms, all together"), "{found:#?}");
        }
    }

    #[test]
    fn a_network_that_has_no_part_explains_nothing() {
        let flow = || {
            kit::flow("f1")
                .latency("response", 10, 800_000_000)
                .path(200_000)
                .count("spent_ns.peer_application", 800_000_000)
                .count("spent_ns.network_path", 200_000)
                .count("spent_ns.network_queueing", 0)
                .count("spent_ns.network_stalls", 0)
                .count("busy_ns", 200_000)
        };
        // Bytes by the kernel's own count, and samples of the programs' that were lost.
        for (again, lost, is_cleared, confidence) in [
            (Some(0), 0, true, 0.9),
            (Some(0), 3, true, 0.9),
            (Some(1), 0, false, 0.9),
            (Some(1), 3, false, 0.6),
            (None, 0, false, 0.9),
            (None, 3, false, 0.6),
        ] {
            let flow = match again {
                Some(bytes) => flow().count("bytes_retransmitted", bytes),
                None => flow(),
            };
            let mut watched = kit::watched(&[flow]);
            watched.lost.insert("retransmit".to_owned(), lost);
            let found = rule(&watched, &Limits::default());
            let at = format!("{again:?} {lost}: {:?}", found[0]);
            assert_eq!(found[0].cleared.contains(&"packet-loss"), is_cleared, "{at}");
            assert!(found[0].cleared.contains(&"cpu-starved"), "{at}");
            assert!((found[0].confidence - confidence).abs() < 1e-9, "{at}");
        }
    }

    /// A response that takes so long and holds so many bytes.
    fn answer(id: &str, ms: u64, bytes: Option<u64>) -> Flow {
        let ns = ms * 1_000_000;
        let flow = kit::flow(id)
            .latency("response", 1, ns)
            .path(200_000)
            .count("response_ns", ns)
            .count("spent_ns.peer_application", ns - 200_000)
            .count("spent_ns.network_path", 200_000)
            .count("busy_ns", 200_000);
        match bytes {
            Some(bytes) => flow.count("bytes_received", bytes),
            None => flow,
        }
    }

    #[test]
    fn a_long_poll_is_no_alarm() {
        check(&DEFINITION, &of(8_100, 99), Some(Severity::Info));
        check(&DEFINITION, &of(7_900, 99), Some(Severity::Critical));
        // By a timer: one without news each time, then those of which no more is known, or that rest between.
        for (every, ms, bytes, expected) in [
            (1, 1_000, Some(60), Severity::Info),
            (1, 1_000, Some(5_000), Severity::Warning),
            (5, 5_000, Some(60), Severity::Info),
            (5, 5_000, None, Severity::Warning),
            (9, 5_000, Some(60), Severity::Critical),
        ] {
            let watched = kit::series(|second| {
                let is_one = second.is_multiple_of(every);
                let ids = if is_one { &["f1", "f2", "f3"][..] } else { &[] };
                ids.iter().map(|id| answer(id, ms, bytes)).collect()
            });
            check(&DEFINITION, &watched, Some(expected));
        }
    }

    #[test]
    fn who_polls_beside_others_hides_none_of_them() {
        let beside = |ms| {
            kit::series(|_| vec![answer("f1", 1_000, Some(60)), answer("f2", ms, Some(9_000))])
        };
        check(&DEFINITION, &beside(5), Some(Severity::Info));
        check(&DEFINITION, &beside(490), Some(Severity::Info));
        check(&DEFINITION, &beside(500), Some(Severity::Warning));
        // However many they are, and however little the others get.
        let many = kit::series(|second| {
            let polls = (0..12).map(|n| answer(&format!("p{n}"), 1_000, Some(60)));
            polls.chain([answer("f2", 2_000 + second % 2 * 500, Some(60))]).collect()
        });
        check(&DEFINITION, &many, Some(Severity::Warning));
    }

    #[test]
    fn a_server_of_this_node_is_told_of_by_itself() {
        let spent = |flow: Flow| {
            flow.latency("response", 10, 800_000_000)
                .count("spent_ns.peer_application", 790_000_000)
                .count("spent_ns.network_path", 200_000)
                .count("busy_ns", 200_000)
        };
        let asks = Flow { pair: Some("f2".to_owned()), ..spent(kit::flow("f1")) };
        let serves = kit::flow("f2").serving(443).of(9, "api");
        let answers = serves.clone().latency("service", 10, 790_000_000);
        check(&DEFINITION, &kit::watched(&[asks.clone(), answers]), Some(Severity::Info));
        check(&DEFINITION, &kit::watched(&[asks, serves]), Some(Severity::Warning));
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(800, 95)));
        let polls = kit::series(|_| vec![answer("f1", 1_000, Some(60))]);
        insta::assert_snapshot!("poll", crate::finding::tests::wording(&DEFINITION, &polls));
    }
}
