//! Latency that is high again and again at regular times.

use std::collections::BTreeMap;

use netdiag_common::signal::Signal;

use super::{
    DELAYED_ACK_NS, Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{host, ss_by},
    node::holder,
};
use crate::{
    format,
    snapshot::Owner,
    watched::{
        Group, Series, Watched,
        period::{self, Fit, Period, Spiky},
        series::Of,
    },
};

const TIMES: Threshold = Threshold {
    name: "times",
    value: 5.0,
    unit: Unit::Times,
    help: "latency of a spike, compared with the usual one",
    source: "less is the noise of a busy node",
};
const MORE: Threshold = Threshold {
    name: "more",
    value: 20e6,
    unit: Unit::Ns,
    help: "by how much a spike is above the usual",
    source: "less is noticed by nobody",
};
const CHANCE: Threshold = Threshold {
    name: "chance",
    value: 1e-3,
    unit: Unit::Ratio,
    help: "how likely random spikes look so regular, at most, over all that was looked at",
    source: "one false alarm in a thousand runs that have random spikes",
};
const CYCLES: Threshold = Threshold {
    name: "cycles",
    value: 4.0,
    unit: Unit::Count,
    help: "periods watched, fewer say nothing",
    source: "three equal distances of four spikes are hardly chance, two may be",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.1,
    unit: Unit::Ratio,
    help: "part of the answers that a spike holds up; with less it is an info",
    source: "a job that asks for something slow each minute is no spike for the others",
};
const ANSWERS: Threshold = Threshold {
    name: "answers",
    value: 3.0,
    unit: Unit::Count,
    help: "answers that a spike holds up; with fewer it is an info: a slow request now and then",
    source: "a job that asks for something slow each minute is no spike for the others",
};

/// What the rest of netdiag knows of it. It needs no single signal: it looks at the latencies that there are.
pub const DEFINITION: Definition = Definition {
    id: "periodic-latency",
    help: "latency is high again and again at regular times",
    thresholds: &[&TIMES, &MORE, &CHANCE, &CYCLES, &SHARE, &ANSWERS],
    needs: &[],
    parts: &[Signal::Turn, Signal::Socket, Signal::Rtt],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &[
        "packet-loss",
        "qdisc-drop",
        "bufferbloat",
        "interface-saturated",
        "cpu-starved",
        "tcp-memory-pressure",
    ],
    rule,
};

/// Which periods cannot be seen yet, in a run as long as it is.
#[must_use]
pub fn not_observable(series: &Series, limits: &Limits) -> String {
    // Four spikes make a period, and have three between them, whatever is given.
    let cycles = limits.of(&CYCLES).max(3.0);
    let longest = format::duration((series.seconds() / cycles * 1e9) as u64);
    let shortest = format::duration((series.every() * 2e9) as u64);
    format!(
        "periodic-latency: periods over {longest} (less than {cycles} in the time watched) and under {shortest} \
         (two intervals)"
    )
}

/// Whose latency it is, which, and how it comes again.
type Found = (Of, &'static str, Period);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let series = &watched.series;
    let spiky = |metric| {
        let delay = if metric == "rtt" { DELAYED_ACK_NS as f64 } else { 0.0 };
        Spiky { times: limits.of(&TIMES), above_ns: limits.of(&MORE) + delay }
    };
    let all = series.lines().filter_map(|(of, metric, line)| {
        Some((of, metric, period::period(&series.cells(line), spiky(metric))?))
    });
    let all: Vec<Found> = all.collect();
    let tried = distinct(&all) as f64;
    let mut found: Vec<Found> = Vec::new();
    for (of, metric, period) in all {
        let is_regular = period.fit.chance * tried < limits.of(&CHANCE);
        let was_seen = series.seconds() >= limits.of(&CYCLES) * period.fit.seconds * 0.98;
        let goes_on = series.end() - period.fit.last <= 2.2 * period.fit.seconds;
        // The most telling latency of each comes first.
        let is_first = found.last().is_none_or(|(known, ..)| *known != of);
        if is_regular && was_seen && goes_on && is_first && !is_known(&found, of, &period) {
            found.push((of, metric, period));
        }
    }
    let (found, is_common) = common(found);
    found.iter().map(|found| tell(watched, limits, found, is_common)).collect()
}

/// How many of them are of different times. Lines that a spike shows in at once are one try, not several.
fn distinct(all: &[Found]) -> usize {
    let mut known: Vec<&Fit> = Vec::new();
    for (.., period) in all {
        if !known.iter().any(|one| one.is_same(&period.fit)) {
            known.push(&period.fit);
        }
    }
    known.len()
}

fn agree(one: &Period, other: &Period) -> bool {
    (one.fit.seconds - other.fit.seconds).abs() <= 0.05 * one.fit.seconds
}

/// Servers come before the services and the node that see the same from their end.
fn is_known(found: &[Found], of: Of, period: &Period) -> bool {
    found.iter().any(|(known, _, same)| match (known, of) {
        (_, Of::Node) => true,
        (Of::Backend((.., port)), Of::Service(_, at)) => *port == at && agree(same, period),
        _ => false,
    })
}

/// What many servers have in common is the node's or its network's.
fn common(found: Vec<Found>) -> (Vec<Found>, bool) {
    /// Two may be two instances of one service, or ask the same third.
    const MANY: usize = 3;
    let Some(first) = found.first().cloned() else { return (found, false) };
    let is_common = found.len() >= MANY && found.iter().all(|(_, _, one)| agree(&first.2, one));
    if is_common { (vec![(Of::Node, first.1, first.2)], true) } else { (found, false) }
}

fn scope(watched: &Watched, of: Of) -> (Scope, Owner) {
    match of {
        Of::Backend((netns, ip, port)) => {
            let groups = watched.by_backend();
            let owner = groups.get(&(netns, ip, port)).map(Group::owner);
            let owner = owner.unwrap_or_default();
            // Who asks may change from window to window; what is slow does not.
            (Scope::backend(netns, ip, port), owner)
        }
        Of::Service(netns, port) => {
            let groups = watched.by_service();
            let owner = groups.get(&(netns, port)).map(Group::owner);
            let owner = owner.unwrap_or_default();
            (holder(netns, &owner).at(port), owner)
        }
        Of::Node => (Scope::node(""), Owner::default()),
    }
}

fn tell(
    watched: &Watched,
    limits: &Limits,
    (of, metric, period): &Found,
    is_common: bool,
) -> Finding {
    let Period { fit, lasts, height_ns, usual_ns, share, answers } = period;
    let (scope, owner) = scope(watched, *of);
    let seconds = |seconds: f64| format::duration((seconds.max(0.0) * 1e9) as u64);
    let (every, long) = (seconds(fit.seconds), seconds(*lasts));
    let (height, usual) = (format::duration(*height_ns), format::duration(*usual_ns));
    let whose = match of {
        Of::Node if is_common => "many servers".to_owned(),
        Of::Node => "this node".to_owned(),
        _ => scope.name.clone(),
    };
    let title =
        format!("{metric} of {whose} goes from {usual} to {height} every {every} for {long}");
    // All together it may be one kind of request that is always slow.
    let is_mixed = *of == Of::Node && !is_common;
    let holds_up = *share >= limits.of(&SHARE) && *answers >= limits.of(&ANSWERS);
    let severity = if holds_up && !is_mixed { Severity::Warning } else { Severity::Info };
    let time = |at: f64| watched.series.time(at).unwrap_or_else(|| format::MISSING.to_owned());
    let explanation = format!(
        "{} spikes lie on one grid of {every}: the last began at {}, the next is due at {}. Something that is \
         done at these times holds up {} of the answers meanwhile.",
        fit.on.len(),
        time(fit.last),
        time(fit.last + fit.seconds),
        format::percent(*share)
    );
    let times = *height_ns as f64 / (*usual_ns).max(1) as f64;
    let confidence = (0.97 - 3.0 * fit.jitter).clamp(0.6, 0.95);
    let mut finding = Finding::new(watched, severity, scope, title)
        .confidence(if fit.on.len() < 6 { confidence.min(0.8) } else { confidence })
        .because(explanation)
        .beyond(watched, "spike / usual", times, &TIMES, limits)
        .with(watched, "period", fit.seconds, Unit::S)
        .with(watched, "phase (last spike, after the start)", fit.last, Unit::S)
        .with(watched, "duration", *lasts, Unit::S)
        .with(watched, "height", *height_ns as f64, Unit::Ns)
        .with(watched, "answers that each holds up, at least", *answers, Unit::Count)
        .with(watched, "spikes", fit.on.len() as f64, Unit::Count)
        .with(watched, "periods without one", (fit.places - fit.on.len()) as f64, Unit::Count)
        .with(watched, "jitter of their beginnings", fit.jitter, Unit::Ratio);
    for evidence in &mut finding.evidence {
        evidence.window_s = watched.series.seconds();
    }
    finding.looks_back = true;
    let chance = limits.of(&CHANCE);
    let finding = finding
        .ruling_out(format!("chance: random spikes look so regular less than once in {:.0} runs", 1.0 / chance))
        .not_seeing("what does it: match the times with those of jobs")
        .advise(format!("look for what runs every {every}: {}", suspects(fit.seconds)))
        .advise("move it, spread it, or let it do less at once; a random delay before each run helps many nodes")
        .advise("see whether it has the same phase on other nodes: then one common server does it");
    commands(finding, *of, metric, &owner)
}

fn commands(finding: Finding, of: Of, metric: &str, owner: &Owner) -> Finding {
    match of {
        Of::Backend((_, ip, port)) => finding
            .confirm_by(format!("netdiag live --peer {ip} --peer-port {port} --sort {metric}.max"))
            .confirm_by(ss_by(owner.pid, &format!("dst {} dport = :{port}", host(ip)))),
        Of::Service(_, port) => {
            finding.confirm_by(format!("netdiag live --local-port {port} --sort {metric}.max"))
        }
        Of::Node => finding.confirm_by(format!("netdiag live --sort {metric}.max")),
    }
    .confirm_by("systemctl list-timers --all; crontab -l")
}

/// What runs at such times, first what is known to.
fn suspects(period: f64) -> String {
    const CLASSES: [(f64, &str); 6] = [
        (0.1, "the CPU quota of a cgroup (cfs_period, 100 ms)"),
        (1.0, "a loop with a sleep of 1 s"),
        (15.0, "a scrape of metrics (15 s)"),
        (
            30.0,
            "a scrape of metrics or a health check (30 s), a DNS answer that expires (TTL 30 s)",
        ),
        (
            60.0,
            "cron (each minute), a scrape of metrics (60 s), a DNS answer that expires (TTL 60 s)",
        ),
        (300.0, "cron (every 5 minutes), a DNS answer that expires (TTL 300 s)"),
    ];
    let near = |of: f64| (period / of - 1.0).abs() < 0.05;
    let known: BTreeMap<usize, &str> = (0..)
        .zip(CLASSES)
        .filter(|(_, (of, _))| near(*of))
        .map(|(at, (_, what))| (at, what))
        .collect();
    let known = known.into_values().map(|what| format!("{what}, ")).collect::<String>();
    format!(
        "{known}a garbage collector, compaction or checkpoints of a database, flushing of logs, a backup, a timer \
         of the application"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// So many seconds, in each of which a hundred answers come: in the first two of a period slow ones.
    fn run(seconds: u64, period: u64, slow_ms: u64, of: impl Fn(Flow) -> Vec<Flow>) -> Watched {
        let mut watched = Watched::default();
        for second in 0..seconds {
            let is_slow = second % period < 2;
            let (count, ms) = if is_slow { (20, slow_ms) } else { (100, 5) };
            let flow = kit::flow("f1").latency("response", count, ms * 1_000_000);
            watched.take(&kit::snapshot(second, of(flow)));
        }
        watched
    }

    fn of(seconds: u64, period: u64, slow_ms: u64) -> Watched {
        run(seconds, period, slow_ms, |flow| vec![flow])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(240, 30, 500), Some(Severity::Warning));
        check(&DEFINITION, &of(240, 30, 26), Some(Severity::Warning));
        check(&DEFINITION, &of(240, 30, 24), None);
        check(&DEFINITION, &of(120, 30, 500), Some(Severity::Warning));
        check(&DEFINITION, &of(116, 30, 500), None);
        let found = rule(&of(240, 30, 500), &Limits::default());
        let value = |name: &str| found[0].evidence.iter().find(|one| one.metric == name);
        let value = |name| value(name).map_or(f64::NAN, |one| one.value);
        assert!((value("period") - 30.0).abs() < 0.1 && (value("duration") - 2.0).abs() < 0.2);
        assert!((found[0].evidence[0].window_s - 240.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_too_long_for_the_run_goes_by_what_was_given() {
        let series = &of(120, 30, 500).series;
        for (cycles, expected) in [
            (4.0, "over 30.0s (less than 4 in"),
            (8.0, "over 15.0s (less than 8 in"),
            (1.0, "over 40.0s (less than 3 in"),
        ] {
            let said = not_observable(series, &Limits::new(vec![("cycles", cycles)]));
            assert!(said.contains(expected), "{said}");
        }
    }

    /// So many seconds, in each of which so many answers take so many milliseconds.
    fn answers(seconds: u64, of: impl Fn(u64) -> (u64, u64)) -> Watched {
        let mut watched = Watched::default();
        for second in 0..seconds {
            let (count, ms) = of(second);
            let flow = kit::flow("f1").latency("response", count, ms * 1_000_000);
            watched.take(&kit::snapshot(second, vec![flow]));
        }
        watched
    }

    /// Where five times the usual is more than 20 ms above it, and where it is less.
    #[test]
    fn each_of_two_thresholds_decides() {
        let spiky = |usual_ms: u64, slow_ms: u64| {
            answers(240, |second| if second % 30 < 2 { (20, slow_ms) } else { (100, usual_ms) })
        };
        check(&DEFINITION, &spiky(10, 49), None);
        check(&DEFINITION, &spiky(10, 51), Some(Severity::Warning));
        check(&DEFINITION, &spiky(2, 21), None);
        check(&DEFINITION, &spiky(2, 23), Some(Severity::Warning));
    }

    #[test]
    fn what_holds_up_few_answers_is_an_info() {
        // Of a hundred in each slow second.
        let held_up = |slow: u64| {
            run(240, 30, 500, |flow| {
                if flow.metrics["response"].max_ns < Some(400_000_000) {
                    return vec![flow];
                }
                let quick = kit::flow("f1").latency("response", 100 - slow, 5_000_000);
                vec![quick, kit::flow("f2").latency("response", slow, 500_000_000)]
            })
        };
        check(&DEFINITION, &held_up(8), Some(Severity::Info));
        check(&DEFINITION, &held_up(12), Some(Severity::Warning));
        // All that come: one in each of two seconds, or two, of which three quarters count.
        let few =
            |slow: u64| answers(240, |second| if second % 30 < 2 { (slow, 500) } else { (5, 5) });
        check(&DEFINITION, &few(1), Some(Severity::Info));
        check(&DEFINITION, &few(2), Some(Severity::Warning));
    }

    /// Of four spikes one is late: random ones are so regular in 0.08 % of all runs, or in 0.3 %.
    #[test]
    fn what_may_be_chance_is_none() {
        let late = |third: u64| {
            let starts = [0, 30, third, 90];
            let is_slow = |second: u64| starts.iter().any(|&at| (at..at + 2).contains(&second));
            answers(120, |second| if is_slow(second) { (20, 500) } else { (100, 5) })
        };
        check(&DEFINITION, &late(61), Some(Severity::Warning));
        check(&DEFINITION, &late(62), None);
    }

    #[test]
    fn a_slow_request_at_regular_times_is_an_info() {
        let slow = |flow: Flow| {
            let ns = flow.metrics["response"].max_ns;
            let count = if ns > Some(400_000_000) { 1 } else { 0 };
            let quick = kit::flow("f1").latency("response", 100 - count, 5_000_000);
            let slow = kit::flow("f2").latency("response", count, 500_000_000);
            if count > 0 { vec![quick, slow] } else { vec![quick] }
        };
        check(&DEFINITION, &run(240, 30, 500, slow), Some(Severity::Info));
    }

    #[test]
    fn a_server_that_is_always_slow_is_no_alarm_of_the_node() {
        let other = |flow: Flow| {
            let ns = flow.metrics["response"].max_ns;
            let quick = kit::flow("f1").latency("response", 20, 5_000_000);
            let slow = kit::flow("f2").to("10.0.0.3", 80).latency("response", 8, 500_000_000);
            if ns > Some(400_000_000) { vec![quick, slow] } else { vec![quick] }
        };
        check(&DEFINITION, &run(240, 30, 500, other), Some(Severity::Info));
    }

    #[test]
    fn delayed_acks_are_none() {
        let rtt = |flow: Flow| {
            let ns = flow.metrics["response"].max_ns.map_or(0, |ns| ns / 5);
            vec![kit::flow("f1").latency("rtt", 100, ns)]
        };
        check(&DEFINITION, &run(240, 30, 900, rtt), None);
        check(&DEFINITION, &run(240, 30, 1_200, rtt), Some(Severity::Warning));
    }

    #[test]
    fn one_burst_is_none() {
        check(&DEFINITION, &of(240, 1_000, 500), None);
    }

    #[test]
    fn what_is_over_is_not_told_again() {
        let mut watched = of(240, 30, 500);
        for second in 240..340 {
            let flow = kit::flow("f1").latency("response", 100, 5_000_000);
            watched.take(&kit::snapshot(second, vec![flow]));
        }
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn what_many_servers_have_is_the_nodes() {
        let many = |flow: Flow| {
            let to = |n: u8| Flow {
                id: format!("f{n}"),
                ..flow.clone().to(&format!("10.0.1.{n}"), 443)
            };
            (1..=4).map(to).collect()
        };
        let watched = run(240, 30, 500, many);
        check(&DEFINITION, &watched, Some(Severity::Warning));
        let found = rule(&watched, &Limits::default());
        assert_eq!(found[0].scope, Scope::node(""));
    }

    #[test]
    fn a_service_of_this_node_is_its_process() {
        // An older netdiag told of `service` alone.
        for metric in ["processing", "service"] {
            let serve = |flow: Flow| {
                let told = flow.metrics["response"].clone();
                let metrics = BTreeMap::from([(metric.to_owned(), told)]);
                vec![Flow { metrics, ..flow.serving(8080).of(9, "api") }]
            };
            let found = rule(&run(240, 30, 500, serve), &Limits::default());
            let [found] = &found[..] else { panic!("{found:#?}") };
            assert_eq!(found.scope.name, "api/9");
            assert!(found.title.starts_with(&format!("{metric} of api/9")), "{}", found.title);
        }
    }

    /// What requests take to arrive is not the server's.
    #[test]
    fn requests_that_are_late_now_and_then_are_none_of_a_service() {
        let serve = |flow: Flow| {
            let arrived = flow.metrics["response"].clone();
            let served = Flow { metrics: BTreeMap::new(), ..flow.serving(8080).of(9, "api") };
            let mut served = served.latency("processing", arrived.count, 5_000_000);
            served.metrics.insert("service".to_owned(), arrived);
            vec![served]
        };
        check(&DEFINITION, &run(240, 30, 500, serve), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(240, 30, 500)));
    }
}
