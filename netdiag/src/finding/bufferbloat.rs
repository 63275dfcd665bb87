//! A queue on the path to a peer is long, and full.

use netdiag_common::signal::Signal;

use super::{
    DELAYED_ACK_NS, Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::{LOSS_UNTOLD, inside, sent_again, ss_of},
    cpu_starved,
};
use crate::{
    format,
    watched::{Group, Peer, Seen, Watched},
};

const EXCESS: Threshold = Threshold {
    name: "excess",
    value: 50e6,
    unit: Unit::Ns,
    help: "median round trip less the smallest one",
    source: "field practice: a queue of more than 50 ms is felt by everything else on the link",
};
const TIMES: Threshold = Threshold {
    name: "times",
    value: 3.0,
    unit: Unit::Times,
    help: "median round trip by the smallest one",
    source: "jitter of a long path is a part of it, a queue is many times a short one",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 1e9,
    unit: Unit::Ns,
    help: "median round trip less the smallest one, from which on timeouts come before answers",
    source: "the first retransmission timeout of a connection (RFC 6298)",
};
const LEAST_RATE: Threshold = Threshold {
    name: "least_rate",
    value: 20e3,
    unit: Unit::BytesPerSecond,
    help: "payload to and from the peer; with less nobody here fills a queue",
    source: "a tenth of the slowest links in use",
};
const LEAST_SAMPLES: Threshold = Threshold {
    name: "least_samples",
    value: 20.0,
    unit: Unit::Count,
    help: "round trips in a window, fewer say nothing",
    source: "a median of fewer is an accident",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "bufferbloat",
    help: "a queue on the path to a peer is long, and full",
    thresholds: &[&EXCESS, &TIMES, &CRITICAL, &LEAST_RATE, &LEAST_SAMPLES],
    needs: &[Signal::Rtt],
    parts: &[],
    node: &[Part::Cpu],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved", "interface-saturated", "qdisc-drop"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    peers.iter().filter_map(|(peer, group)| of_peer(watched, limits, *peer, group)).collect()
}

/// Median round trip, of how many, and whether the peer's delays can be in it.
struct Median {
    ns: u64,
    samples: u64,
    is_prompt: bool,
}

/// By flows of which most samples have no delay of the peer's in them; by all where there are none.
fn median(group: &Group<'_>, least: u64) -> Option<Median> {
    let is_prompt = |flow: &Seen| {
        flow.sums.count("rtt_delayed").is_some_and(|delayed| delayed * 2 < flow.sums.samples("rtt"))
    };
    let prompt = group.only(is_prompt);
    let told = |group: &Group<'_>, is_prompt| {
        let ns = group.sums.quantile("rtt", 0.5, least.max(1))?;
        Some(Median { ns, samples: group.sums.samples("rtt"), is_prompt })
    };
    prompt.and_then(|prompt| told(&prompt, true)).or_else(|| told(group, false))
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip): Peer,
    group: &Group<'_>,
) -> Option<Finding> {
    let rtt_min = group.rtt_min_ns()?;
    let median = median(group, limits.of(&LEAST_SAMPLES) as u64)?;
    let allowed = if median.is_prompt { 0 } else { DELAYED_ACK_NS };
    let excess = median.ns.saturating_sub(rtt_min).saturating_sub(allowed);
    let times = median.ns as f64 / rtt_min.max(1) as f64;
    if (excess as f64) < limits.of(&EXCESS) || times < limits.of(&TIMES) {
        return None;
    }
    let sums = &group.sums;
    let bytes = sums.count("bytes_sent").zip(sums.count("bytes_received"));
    let rate = bytes
        .map(|(sent, received)| sent.saturating_add(received) as f64 / watched.seconds.max(1e-9));
    let is_loaded = rate.is_some_and(|rate| rate >= limits.of(&LEAST_RATE));
    let is_one_way = group.flows.iter().any(|flow| waits(flow, limits.of(&EXCESS) / 2.0));
    // Its network work waits for a CPU like any thread's where there is too much of it (ksoftirqd), but not for long.
    let is_late = cpu_starved::is_late(watched, &limits.of_cause(cpu_starved::DEFINITION.id));
    let (severity, threshold) = match excess as f64 {
        _ if !is_loaded || !is_one_way => (Severity::Info, &EXCESS),
        excess if excess >= limits.of(&CRITICAL) => {
            (if is_late { Severity::Warning } else { Severity::Critical }, &CRITICAL)
        }
        _ if is_late => (Severity::Info, &EXCESS),
        _ => (Severity::Warning, &EXCESS),
    };
    let title = format!(
        "round trips to {ip} take {} (median), {:.0} times the path's {}",
        format::duration(median.ns),
        times,
        format::duration(rtt_min)
    );
    let finding = Finding::new(watched, severity, Scope::peer(netns, ip), title)
        .confidence(if median.is_prompt && is_loaded && is_one_way && !is_late { 0.9 } else { 0.6 })
        .because(if is_late {
            "The path can do better, and the peer's delays are not in this: packets stand in a queue, of the path or \
             of this node, whose own CPUs do not keep up. All that crosses it waits as long, small requests too."
        } else {
            "The path can do better, and the peer's delays are not in this: packets stand in a queue that \
             is kept full by what is sent. All that crosses that link waits as long, small requests too."
        })
        .beyond(watched, "median rtt less rtt_min", excess as f64, threshold, limits)
        .beyond(watched, "median rtt / rtt_min", times, &TIMES, limits);
    let finding = match rate {
        Some(rate) => {
            finding.beyond(watched, "payload to and from the peer", rate, &LEAST_RATE, limits)
        }
        None => finding,
    };
    let finding = finding.with(watched, "round trips", median.samples as f64, Unit::Count);
    let finding = match sent_again(sums) {
        Some(n) => finding.with(watched, "segments sent again after loss", n as f64, Unit::Count),
        None => finding.not_seeing(LOSS_UNTOLD),
    };
    let finding = finding
        .ruling_out(if median.is_prompt {
            "delayed ACKs: only connections most of whose samples have none are taken"
        } else {
            "delayed ACKs: the 200ms that an ACK may be delayed are taken off"
        })
        .ruling_out(format!("a long path: rtt_min is {}", format::duration(rtt_min)))
        .not_seeing("at which hop the queue is, and who else fills it");
    let finding = if is_late {
        finding
            .not_seeing("whether the queue is this node's own: packets wait for its CPUs like threads do")
            .advise("first see what keeps this node's CPUs busy (cpu-starved), and whether it is gone without that")
    } else {
        finding
            // A CPU limit of somebody keeps no acknowledgement back.
            .clearing(&["cpu-starved"])
    };
    let finding = finding
        .advise(format!(
            "pace or limit the bulk senders ({}) below the link's rate",
            busiest(group).unwrap_or("see netdiag live --sort bytes_sent")
        ))
        .advise("put fq_codel or cake with the link's rate on the interface before the slow link")
        .advise("a sender that fills no queues helps too: tcp_congestion_control=bbr")
        .confirm_by(inside(group, &ss_of(ip)))
        .confirm_by(inside(group, "tc -s qdisc"));
    let finding = match rate {
        _ if is_loaded => finding,
        Some(_) => finding.not_seeing("what fills the queue: this node sends and gets little"),
        None => finding.not_seeing(
            "what fills the queue: nobody tells what this node sends and gets (the signal `socket`)",
        ),
    };
    Some(if is_one_way {
        finding
    } else {
        finding.not_seeing(
            "whether all these connections go one way: none has been quicker itself, and behind one address there \
             may be several servers, near ones and far ones",
        )
    })
}

/// Whether a connection itself was quicker by so much than it is. Where none was, the smallest round trip is that
/// of another one, which may have gone elsewhere.
fn waits(flow: &Seen, excess_ns: f64) -> bool {
    let median = flow.sums.quantile("rtt", 0.5, 1).zip(flow.rtt_min_ns);
    median.is_some_and(|(median, least)| median.saturating_sub(least) as f64 >= excess_ns)
}

/// Process of the flow that moves the most.
fn busiest<'a>(group: &Group<'a>) -> Option<&'a str> {
    let moved =
        |flow: &Seen| flow.sums.at_least("bytes_sent") + flow.sums.at_least("bytes_received");
    group.flows.iter().max_by_key(|flow| moved(flow))?.owner.comm.as_deref()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        diagnosis::{Diagnosis, Thresholds},
        finding::tests::{check, of_loss},
        snapshot::{
            Flow,
            node::{Cpu, CpuShare, Pressure},
        },
        watched::kit,
    };

    const MS: u64 = 1_000_000;

    fn bulk(base: u64, median: u64, rate: u64) -> Flow {
        kit::flow("f1")
            .path(base * MS)
            .latency("rtt", 100, median * MS)
            .count("rtt_delayed", 1)
            .count("bytes_sent", rate)
            .count("bytes_received", 0)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", 0)
    }

    #[track_caller]
    fn check_of(flow: Flow, expected: Option<Severity>) {
        check(&DEFINITION, &kit::watched(&[flow]), expected);
    }

    #[test]
    fn thresholds() {
        // Of 2 significant digits.
        check_of(bulk(10, 61, 250_000), Some(Severity::Warning));
        check_of(bulk(10, 58, 250_000), None);
        check_of(bulk(100, 305, 250_000), Some(Severity::Warning));
        check_of(bulk(100, 290, 250_000), None);
        check_of(bulk(10, 1_030, 250_000), Some(Severity::Critical));
        check_of(bulk(10, 980, 250_000), Some(Severity::Warning));
        check_of(bulk(10, 100, 20_000), Some(Severity::Warning));
        check_of(bulk(10, 100, 19_000), Some(Severity::Info));
    }

    /// The kernel answers for a process that is held back.
    #[test]
    fn who_is_held_back_is_no_cause() {
        let starved = CpuShare { softirq_ratio: 0.81, ..CpuShare::default() };
        for (share, is_cause) in [(CpuShare::default(), false), (starved, true)] {
            let watched = kit::with_node(&[bulk(10, 100, 250_000)], |node| {
                node.cpu = Some(cpu(share, 0));
            });
            let finding = rule(&watched, &Limits::default()).remove(0);
            assert_eq!(finding.cleared.contains(&"cpu-starved"), !is_cause);
        }
    }

    #[test]
    fn what_nobody_tells_is_not_0() {
        assert_eq!(of_loss(&DEFINITION, &kit::watched(&[bulk(10, 100, 250_000)])), (false, false));
        let mut flow = bulk(10, 100, 250_000);
        flow.counts.retain(|name, _| name == "rtt_delayed");
        let watched = kit::watched(&[flow]);
        check(&DEFINITION, &watched, Some(Severity::Info));
        assert_eq!(of_loss(&DEFINITION, &watched), (false, true));
        let found = rule(&watched, &Limits::default()).remove(0);
        let names: Vec<_> = found.evidence.iter().map(|one| one.metric.as_str()).collect();
        assert_eq!(names, ["median rtt less rtt_min", "median rtt / rtt_min", "round trips"]);
        assert!(found.not_observable.iter().any(|line| line.contains("`socket`")));
    }

    #[test]
    fn few_samples_say_nothing() {
        let of = |samples| {
            bulk(10, 100, 250_000).latency("rtt", samples, 100 * MS).count("rtt_delayed", 0)
        };
        check_of(of(2), Some(Severity::Warning));
        check_of(of(1), None);
    }

    #[test]
    fn delayed_acks_are_no_queue() {
        let delayed = |median| bulk(10, median, 250_000).count("rtt_delayed", 100);
        check_of(delayed(210), None);
        check_of(delayed(270), Some(Severity::Warning));
    }

    #[test]
    fn a_connection_that_began_in_the_queue_has_the_peers_path() {
        let young = Flow { id: "f2".to_owned(), ..bulk(100, 120, 250_000) };
        let old = bulk(10, 120, 250_000);
        check(&DEFINITION, &kit::watched(&[young.clone(), old]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[young]), None);
    }

    /// Behind one address there may be a server near by and another one far away.
    #[test]
    fn several_servers_of_one_address_are_no_queue() {
        let to = |id: &str, base, median| Flow { id: id.to_owned(), ..bulk(base, median, 250_000) };
        let mut flows = vec![to("f1", 10, 11), to("f2", 110, 115), to("f3", 110, 115)];
        check(&DEFINITION, &kit::watched(&flows), Some(Severity::Info));
        flows.push(to("f4", 110, 150));
        check(&DEFINITION, &kit::watched(&flows), Some(Severity::Warning));
    }

    fn cpu(share: CpuShare, some_us: u64) -> Cpu {
        Cpu {
            cpus: 2,
            mean: share,
            busiest: share,
            most_softirq: share,
            runnable: None,
            pressure: Some(Pressure { some_us }),
        }
    }

    /// A node that does not keep up is slow itself, but not by seconds.
    #[test]
    fn round_trips_of_a_node_without_cpus_are_no_queue_of_the_path() {
        let of = |median, share: CpuShare, some_us| {
            kit::with_node(&[bulk(10, median, 250_000)], |node| {
                node.cpu = Some(cpu(share, some_us));
            })
        };
        let busy = |busy_ratio| CpuShare { busy_ratio, ..CpuShare::default() };
        let stolen = CpuShare { steal_ratio: 0.11, ..CpuShare::default() };
        let receiving = CpuShare { softirq_ratio: 0.81, ..CpuShare::default() };
        check(&DEFINITION, &of(100, busy(0.96), 510_000), Some(Severity::Info));
        check(&DEFINITION, &of(100, busy(0.96), 490_000), Some(Severity::Warning));
        check(&DEFINITION, &of(100, busy(0.94), 510_000), Some(Severity::Warning));
        check(&DEFINITION, &of(100, stolen, 0), Some(Severity::Info));
        check(&DEFINITION, &of(100, receiving, 0), Some(Severity::Info));
        check(&DEFINITION, &of(1_100, receiving, 0), Some(Severity::Warning));
    }

    /// By the thresholds of cpu-starved, whatever they are.
    #[test]
    fn what_is_busy_is_as_it_was_given() {
        let told = |busy: f64| {
            let given = Limits::new(vec![("busy", busy)]);
            let mut diagnosis = Diagnosis::new(Thresholds::from([("cpu-starved", given)]));
            for second in 0..10 {
                let mut snapshot = kit::snapshot(second, vec![bulk(9, 100, 250_000)]);
                let share = CpuShare { busy_ratio: 0.96, ..CpuShare::default() };
                snapshot.node.cpu = Some(cpu(share, 510_000));
                diagnosis.take(&snapshot);
            }
            let found = diagnosis.report().expect("a report").findings.into_iter();
            found.map(|one| (one.id, one.severity)).collect::<BTreeMap<_, _>>()
        };
        let [starved, bloat] = ["cpu-starved", "bufferbloat"].map(str::to_owned);
        let both = [(starved, Severity::Info), (bloat.clone(), Severity::Info)];
        assert_eq!(told(0.95), BTreeMap::from(both));
        assert_eq!(told(0.97), BTreeMap::from([(bloat, Severity::Warning)]));
    }

    #[test]
    fn wording() {
        let watched = kit::watched(&[bulk(10, 640, 400_000)]);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
