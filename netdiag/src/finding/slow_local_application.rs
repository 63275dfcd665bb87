//! A server of this node takes long to answer what it has read.

use std::collections::{BTreeMap, BTreeSet};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Severity, Threshold, Unit, advice,
    held::{self, AWAITED, Answers, EMPTY, GIVEN, Held, Look, OPEN, TIMER},
    node::holder,
};
use crate::{
    format,
    watched::{Group, Seen, Sums, Watched},
};

const PROCESSING: Threshold = Threshold {
    name: "processing",
    value: 500e6,
    unit: Unit::Ns,
    help: "90th percentile of the times from a request that was read to its answer",
    source: "field practice: a first byte after more than 500 ms is the application, if the path is short",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 5e9,
    unit: Unit::Ns,
    help: "the same, from which on clients give up",
    source: "common client timeouts are 5 s to 30 s",
};
const HELD: Threshold = Threshold {
    name: "held",
    value: 8e9,
    unit: Unit::Ns,
    help: "what even the quickest tenth takes of a service that holds its answers back on purpose",
    source: "long polls last 10 s to 60 s; who works that long on everything has no clients left",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "time after requests were read, of that with requests read or unread",
    source: "the larger part decides whom to ask",
};
const ELSEWHERE: Threshold = Threshold {
    name: "elsewhere",
    value: 0.5,
    unit: Unit::Ratio,
    help: "time that its process waits for servers of its own, of that in which it has to answer",
    source: "the larger part decides whom to ask",
};
const LEAST: Threshold = Threshold {
    name: "least_answers",
    value: 5.0,
    unit: Unit::Count,
    help: "answers in a window, fewer say nothing",
    source: "a percentile of fewer is one of them",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "slow-local-application",
    help: "a server of this node answers late, and has the requests",
    thresholds: &[&PROCESSING, &CRITICAL, &HELD, &TIMER, &OPEN, &EMPTY, &SHARE, &ELSEWHERE, &LEAST],
    needs: &[Signal::Turn],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved", "tcp-memory-pressure", "periodic-latency"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let services = watched.by_service();
    services.iter().filter_map(|(at, group)| of_service(watched, limits, *at, group)).collect()
}

fn of_service(
    watched: &Watched,
    limits: &Limits,
    at: (Option<u32>, u16),
    group: &Group<'_>,
) -> Option<Finding> {
    let (answers, least) = (Answers::given(&group.sums), limits.of(&LEAST) as u64);
    let look = Look { watched, limits, answers, least };
    held::of_each(&look, group, &PROCESSING, |some, before| of_some(&look, at, some, before))
}

/// Some of those that a service answers, and the timer of polls beside them where it answers before it ends.
fn of_some(
    look: &Look<'_>,
    (netns, port): (Option<u32>, u16),
    group: &Group<'_>,
    before: Option<u64>,
) -> Option<Finding> {
    let Look { watched, limits, answers, least } = *look;
    let (sums, metric) = (&group.sums, answers.metric);
    // However long a request takes to arrive: who sends it, and the path, answer for that.
    let p90 = sums.quantile(metric, 0.9, least)?;
    let knows_arrival = answers == GIVEN;
    let works = sums.count("service_ns")?;
    let unread = sums.at_least("read_wait_ns");
    let share = works as f64 / (works + unread).max(1) as f64;
    // That begins when a request was read, also where no percentile does.
    let mean = works as f64 / sums.samples(metric).max(1) as f64;
    let is_late = knows_arrival || mean >= limits.of(&PROCESSING);
    if (p90 as f64) < limits.of(&PROCESSING) || share < limits.of(&SHARE) || !is_late {
        return None;
    }
    let owner = group.owner();
    let name = owner.comm.clone().unwrap_or_else(|| "the server".to_owned());
    let waits = Waits::of(watched, limits, group);
    let waits_for = waits.and_then(|waits| Some((waits.most?, waits.ns)));
    let waits_for = waits_for.filter(|(_, ns)| *ns as f64 >= limits.of(&ELSEWHERE) * works as f64);
    let held = Held::of(look, group, &HELD, before)?;
    let (severity, threshold) = match p90 as f64 {
        _ if held.is_likely() || waits_for.is_some() => (Severity::Info, &PROCESSING),
        p90 if p90 >= limits.of(&CRITICAL) && knows_arrival && !held.is_possible() => {
            (Severity::Critical, &CRITICAL)
        }
        _ => (Severity::Warning, &PROCESSING),
    };
    let scope = holder(netns, &owner).at(port);
    let title = match held.poll() {
        Some(poll) => {
            format!("{name} answers at port {port} as by a timer of {}", format::duration(poll.ns))
        }
        None => {
            let what = if knows_arrival { " what it has read" } else { "" };
            let p90 = format::duration(p90);
            format!("{name} takes {p90} to answer{what} at port {port} (p90)")
        }
    };
    let finding = Finding::new(watched, severity, scope, title)
        .beyond(watched, &format!("{metric} p90"), p90 as f64, threshold, limits)
        .beyond(watched, "part of its time after requests were read", share, &SHARE, limits)
        .with(
            watched,
            &format!("{metric} p50"),
            sums.quantile(metric, 0.5, least)? as f64,
            Unit::Ns,
        )
        .with(watched, "answers", sums.samples(metric) as f64, Unit::Count);
    let finding = if knows_arrival {
        finding.ruling_out(format!(
            "the network: the time begins when all of a request was here and was read, however long it took to \
             arrive; requests waited {} to be read, all together",
            format::duration(unread)
        ))
    } else {
        let finding =
            finding.beyond(watched, "mean after requests were read", mean, &PROCESSING, limits);
        finding.no_surer_than(0.6).not_seeing(
            "what requests took to arrive: it is part of these times, which an older netdiag recorded",
        )
    };
    let finding = if held.is_likely() {
        finding.because(held::LONG).confidence(0.5).advise(format!(
            "if {name} is meant to answer at once, look at what its threads wait for"
        ))
    } else {
        told(finding, watched, waits, waits_for, &name)
    };
    let finding = held.told(finding, watched, limits);
    let finding = match owner.pid {
        Some(pid) => finding
            .confirm_by(advice::threads_of(pid))
            .confirm_by(format!("netdiag live --pid {pid} --sort processing.p99")),
        None => {
            finding.confirm_by(format!("netdiag live --local-port {port} --sort processing.p99"))
        }
    };
    Some(finding)
}

fn told(
    finding: Finding,
    watched: &Watched,
    waits: Option<Waits<'_>>,
    waits_for: Option<(&Seen, u64)>,
    name: &str,
) -> Finding {
    if let Some((server, ns)) = waits_for {
        let at = advice::end(&server.peer);
        return finding
            .because(format!(
                "It passes on what its own servers take: meanwhile it waited {} for them, most for {at}.",
                format::duration(ns)
            ))
            .with(watched, "waiting for its own servers", ns as f64, Unit::Ns)
            .advise(format!("look at {at} first: {name} cannot be quicker than what it asks"));
    }
    let finding = match waits {
        Some(Waits { most: Some(_), ns, .. }) => finding.ruling_out(format!(
            "its own servers: it waited {} for them, which does not explain it",
            format::duration(ns)
        )),
        Some(Waits { poll: Some(_), .. }) => finding,
        Some(_) if watched.sees("turn") => {
            finding.ruling_out("its own servers over TCP: its processes ask none of them")
        }
        _ => finding.not_seeing("whether it waits for its own servers"),
    };
    let finding = match waits.and_then(|waits| waits.poll) {
        Some(server) => finding.not_seeing(format!(
            "whether its work waits for {}: that answers as long polls do, and was taken for one",
            advice::end(&server.peer)
        )),
        None => finding,
    };
    finding
        .because(
            "It has the request, and the time until it answers is its own: computing, locks, disk, the garbage \
             collector, or waiting for something that is no TCP.",
        )
        .not_seeing("what it waits for besides the network: disk, locks, UNIX sockets")
        .advise(format!("see what the threads of {name} wait for while requests are under way"))
        .advise("compare with its number of workers: requests queue inside when all of them are busy")
        .advise("see whether it has the CPU that it needs: cpu.stat of its cgroup, cpu-starved here")
}

/// The processes of a service, where all of them are known.
fn pids(group: &Group<'_>) -> Option<BTreeSet<u32>> {
    group.flows.iter().map(|flow| flow.owner.pid).collect()
}

/// What the processes of a service wait for their own servers. What answers that late on purpose (a long poll) is
/// waited for beside the work.
#[derive(Clone, Copy, Debug)]
struct Waits<'a> {
    /// Nanoseconds, for all that are asked for the work.
    ns: u64,
    /// The one of these that is waited for most.
    most: Option<&'a Seen>,
    /// The one of the others that is waited for most.
    poll: Option<&'a Seen>,
}

impl<'a> Waits<'a> {
    /// None where a process of the service is not known.
    fn of(watched: &'a Watched, limits: &Limits, group: &Group<'_>) -> Option<Self> {
        let pids = pids(group)?;
        let is_own = |flow: &Seen| flow.owner.pid.is_some_and(|pid| pids.contains(&pid));
        let waits = |flow: &Seen| flow.sums.at_least("response_ns");
        let is_asked = |flow: &&Seen| is_own(flow) && flow.is_client() && waits(flow) > 0;
        let least = limits.of(&LEAST) as u64;
        let look = Look { watched, limits, answers: AWAITED, least };
        let is_held = |flow: &Seen| match flow.sums.samples("response") {
            0 => false,
            n if waits(flow) as f64 / n as f64 >= limits.of(&HELD) => true,
            _ => held::is_poll(&look, flow),
        };
        let asked = watched.flows.values().filter(is_asked);
        let (held, mut asked): (Vec<&Seen>, Vec<&Seen>) = asked.partition(|flow| is_held(flow));
        let mut servers: BTreeMap<_, Vec<&Seen>> = BTreeMap::new();
        for flow in held {
            servers.entry((flow.netns, &flow.peer)).or_default().push(flow);
        }
        let mut polls = Vec::new();
        for server in servers.into_values().map(Group::of) {
            let is_work = is_for_the_work(&group.sums, &server);
            if is_work { &mut asked } else { &mut polls }.extend(server.flows);
        }
        let most = |flows: &[&'a Seen]| flows.iter().copied().max_by_key(|flow| waits(flow));
        let ns = asked.iter().map(|flow| waits(flow)).sum();
        Some(Self { ns, most: most(&asked), poll: most(&polls) })
    }
}

/// Whether a server that answers as long polls do is asked for the work of a service. One that each request has to wait
/// for until a timeout looks so where there are always requests.
///
/// Such a one is asked about as often as the service answers, and for no longer than half of its answers take; and who
/// waits for it is answering meanwhile. A poll goes on whether there is work or not. What is answered after the window
/// may have waited in it: once for each connection.
fn is_for_the_work(service: &Sums, server: &Group<'_>) -> bool {
    let (times, waited) = (server.sums.samples("response"), server.sums.at_least("response_ns"));
    let each = waited / times.max(1);
    let most = service.at_least("service_ns") + each * server.flows.len() as u64;
    let answers = Answers::given(service).metric;
    times * 2 >= service.samples(answers)
        && service.quantile(answers, 0.5, 1).is_some_and(|usual| each <= usual)
        && waited <= most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    const MS: u64 = 1_000_000;

    /// Ten answers an interval, half of them as slow as that, for which requests waited before they were read for a
    /// part in a hundred.
    fn flow(ms: u64, unread: u64) -> Flow {
        let ns = ms * MS;
        kit::flow("f1")
            .serving(8080)
            .of(77, "search")
            .latencies("processing", 10, ns)
            .count("service_ns", ns * 10 * (100 - unread) / 100)
            .count("read_wait_ns", ns * 10 * unread / 100)
    }

    fn of(ms: u64, unread: u64) -> Watched {
        kit::watched(&[flow(ms, unread)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(500, 5), Some(Severity::Warning));
        check(&DEFINITION, &of(490, 5), None);
        check(&DEFINITION, &of(5_100, 5), Some(Severity::Critical));
        check(&DEFINITION, &of(4_900, 5), Some(Severity::Warning));
        check(&DEFINITION, &of(800, 50), Some(Severity::Warning));
        check(&DEFINITION, &of(800, 51), None);
    }

    #[test]
    fn four_answers_say_nothing() {
        let few = |n| {
            let flow = flow(800, 5).latencies("processing", n, 800 * MS);
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow]));
            watched
        };
        check(&DEFINITION, &few(5), Some(Severity::Warning));
        check(&DEFINITION, &few(4), None);
    }

    /// Ten requests that take four seconds to arrive, are read as they do, and are worked on for so long.
    #[test]
    fn what_a_request_takes_to_arrive_is_not_the_servers() {
        let uploads = |ms: u64| {
            let flow = flow(ms, 0).latency("service", 10, (4_000 + ms) * MS);
            kit::watched(&[flow.count("read_wait_ns", 10 * 70 * MS)])
        };
        check(&DEFINITION, &uploads(200), None);
        check(&DEFINITION, &uploads(490), None);
        check(&DEFINITION, &uploads(500), Some(Severity::Warning));
    }

    /// Its percentiles begin with the first byte of a request, and its sum when that was read.
    #[test]
    fn recordings_of_an_older_netdiag_go_by_what_they_tell() {
        let older = |ms: u64, works: u64| {
            let mut flow = flow(ms, 0).count("service_ns", 10 * works * MS);
            let told = flow.metrics.remove("processing").expect("answers");
            flow.metrics.insert("service".to_owned(), told);
            kit::watched(&[flow])
        };
        check(&DEFINITION, &older(490, 490), None);
        check(&DEFINITION, &older(500, 500), Some(Severity::Warning));
        // Large requests over a slow path, and how much of it is the path is not known.
        check(&DEFINITION, &older(5_500, 499), None);
        check(&DEFINITION, &older(5_500, 500), Some(Severity::Warning));
        check(&DEFINITION, &older(7_000, 7_000), Some(Severity::Warning));
        let found = rule(&older(800, 760), &Limits::default()).remove(0);
        assert_eq!(found.title, "search takes 801ms to answer at port 8080 (p90)");
        assert_eq!((found.evidence[0].metric.as_str(), found.confidence), ("service p90", 0.6));
        assert!(found.not_observable[0].starts_with("what requests took"), "{found:#?}");
        assert!(found.ruled_out.iter().all(|line| !line.contains("network")), "{found:#?}");
    }

    #[test]
    fn a_long_poll_is_no_alarm() {
        let steady = |ms: u64| flow(ms, 0).latency("processing", 10, ms * MS);
        let window = |flow: Flow| kit::watched(&[flow]);
        check(&DEFINITION, &window(steady(8_100)), Some(Severity::Info));
        check(&DEFINITION, &of(7_900, 0), Some(Severity::Critical));
        // By a timer, and what is in the answers.
        check(&DEFINITION, &window(steady(7_900)), Some(Severity::Warning));
        let bytes = |bytes: u64| window(steady(7_900).count("bytes_sent", bytes * 10));
        check(&DEFINITION, &bytes(4_095), Some(Severity::Info));
        check(&DEFINITION, &bytes(4_096), Some(Severity::Warning));
    }

    /// A minute in which twenty poll, each twice, beside one that always has something to tell, or beside nobody.
    #[test]
    fn who_answers_polls_with_news_is_no_alarm() {
        let minute = |polls: u64| {
            let answer = |id: &str, ms: u64| {
                let flow = kit::flow(id).serving(8080).of(77, "push");
                let flow = flow.latency("processing", 1, ms * MS).count("service_ns", ms * MS);
                flow.count("read_wait_ns", 0).count("bytes_sent", 60)
            };
            let mut watched = Watched::default();
            for second in 0..60 {
                let idle = (0..polls).filter(|_| second % 30 == 29);
                let idle = idle.map(|n| answer(&format!("p{n}"), 30_000));
                let news = [(4, 5_000), (12, 8_000)].into_iter().find(|(at, _)| second % 13 == *at);
                let news = news.map(|(_, ms)| answer("news", ms));
                watched.take(&kit::snapshot(second, idle.chain(news).collect()));
            }
            watched
        };
        check(&DEFINITION, &minute(20), Some(Severity::Warning));
        check(&DEFINITION, &minute(0), Some(Severity::Critical));
    }

    #[test]
    fn who_waits_for_others_is_not_to_blame() {
        let asks = |ms: u64| kit::flow("f2").of(77, "search").count("response_ns", ms * 10 * MS);
        let window = |ms| kit::watched(&[flow(800, 0), asks(ms)]);
        check(&DEFINITION, &window(400), Some(Severity::Info));
        check(&DEFINITION, &window(390), Some(Severity::Warning));
        let others = kit::flow("f2").of(78, "other").count("response_ns", 8_000 * MS);
        check(&DEFINITION, &kit::watched(&[flow(800, 0), others]), Some(Severity::Warning));
        // Who also waits for news has not passed that on.
        let polls = |ms: u64| kit::flow("f3").of(77, "search").latency("response", 1, ms * MS);
        let polls = |ms: u64| polls(ms).count("response_ns", ms * MS);
        check(&DEFINITION, &kit::watched(&[flow(800, 0), polls(7_900)]), Some(Severity::Info));
        check(&DEFINITION, &kit::watched(&[flow(800, 0), polls(8_000)]), Some(Severity::Warning));
        for (bytes, expected) in [(60, Severity::Warning), (5_000, Severity::Info)] {
            let idle = kit::flow("f3")
                .of(77, "search")
                .latency("response", 5, 1_000 * MS)
                .count("response_ns", 5_000 * MS)
                .count("bytes_received", 5 * bytes);
            check(&DEFINITION, &kit::watched(&[flow(800, 0), idle]), Some(expected));
        }
    }

    /// A minute in which four connections to a database get an answer each five seconds, ask again at once, and as many
    /// of a service's answers as that take a little longer.
    fn behind_a_timeout(answers: u64) -> Watched {
        let asks = |n: u64| {
            kit::flow(&format!("d{n}"))
                .of(77, "web")
                .to("10.0.0.9", 5432)
                .latency("response", 1, 5_000 * MS)
                .count("response_ns", 5_000 * MS)
                .count("bytes_received", 200)
        };
        let mut serves = kit::flow("f1")
            .serving(8080)
            .of(77, "web")
            .latency("processing", answers, 5_400 * MS)
            .count("service_ns", answers * 5_210 * MS)
            .count("read_wait_ns", 0);
        if let Some(told) = serves.metrics.get_mut("processing") {
            (told.min_ns, told.p50_ns) = (Some(5_020 * MS), Some(5_020 * MS));
        }
        let mut watched = Watched::default();
        for second in 0..60 {
            let flows = match second % 5 {
                4 => (0..4).map(asks).chain([serves.clone()]).collect(),
                _ => vec![],
            };
            watched.take(&kit::snapshot(second, flows));
        }
        watched
    }

    #[test]
    fn a_server_that_each_request_waits_for_is_no_poll() {
        // Not one that is asked less than half as often, nor one that is waited for longer than the answers take.
        for (answers, expected) in [
            (4, Severity::Info),
            (7, Severity::Info),
            (9, Severity::Critical),
            (3, Severity::Critical),
        ] {
            let watched = behind_a_timeout(answers);
            check(&DEFINITION, &watched, Some(expected));
            let found = rule(&watched, &Limits::default()).remove(0);
            let says = |lines: &[String], what: &str| lines.iter().any(|line| line.contains(what));
            let is_for_the_work = says(&found.advice, "look at 10.0.0.9:5432 first");
            let is_set_aside = says(&found.not_observable, "its work waits for 10.0.0.9:5432");
            let is_info = expected == Severity::Info;
            assert_eq!((is_for_the_work, is_set_aside), (is_info, !is_info), "{found:#?}");
            assert!(!says(&found.ruled_out, "its own servers"), "{found:#?}");
        }
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(800, 5)));
    }
}
