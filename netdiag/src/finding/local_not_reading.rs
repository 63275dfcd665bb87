//! A process of this node does not read what has arrived for it.

use std::collections::BTreeMap;

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{end, host, ss_by, threads_of},
    node::holder,
};
use crate::{
    format,
    snapshot::Role,
    watched::{Group, Seen, Watched},
};

const UNREAD: Threshold = Threshold {
    name: "unread",
    value: 8_192.0,
    unit: Unit::Bytes,
    help: "bytes that wait to be read, in the mean, with the window closed towards the peer",
    source: "a receive buffer holds 64 KiB and more; with less the window stays open",
};
const WAIT: Threshold = Threshold {
    name: "wait",
    value: 500e6,
    unit: Unit::Ns,
    help: "90th percentile of the times from data queued to data read",
    source: "field practice: a first byte after more than 500 ms is noticed",
};
const LEAST: Threshold = Threshold {
    name: "least_reads",
    value: 5.0,
    unit: Unit::Count,
    help: "reads in a window, fewer say nothing",
    source: "a percentile of fewer is one of them",
};
const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of a server's time that requests wait to be read",
    source: "the larger part decides where to look",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "local-not-reading",
    help: "a process of this node leaves unread what has arrived for it",
    thresholds: &[&UNREAD, &WAIT, &LEAST, &SHARE],
    needs: &[Signal::Socket],
    // Of what is read late.
    parts: &[Signal::Turn],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved", "tcp-memory-pressure"],
    rule,
};

/// Namespace and process; of a server its port.
type Reader = (Option<u32>, Option<u32>, Option<u16>);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut readers: BTreeMap<Reader, Vec<&Seen>> = BTreeMap::new();
    for flow in watched.flows.values().filter(|flow| flow.is_tcp()) {
        let port = flow.local.port.filter(|_| flow.role == Some(Role::Server));
        readers.entry((flow.netns, flow.owner.pid, port)).or_default().push(flow);
    }
    let all = readers.into_iter();
    all.filter_map(|(reader, flows)| of_reader(watched, limits, reader, flows)).collect()
}

fn of_reader(
    watched: &Watched,
    limits: &Limits,
    reader: Reader,
    flows: Vec<&Seen>,
) -> Option<Finding> {
    let full: Vec<_> = flows.iter().copied().filter(|flow| is_full(limits, flow)).collect();
    if full.is_empty() {
        return late(watched, limits, reader, flows);
    }
    let worst = *full.iter().max_by_key(|flow| mean(flow, "unread_bytes"))?;
    let unread = mean(worst, "unread_bytes");
    let group = Group::of(full);
    let name = name(&group);
    let peer = end(&worst.peer);
    let title =
        format!("{name} leaves {} from {peer} unread, its window is closed", format::bytes(unread));
    let finding = Finding::new(watched, Severity::Warning, scope(reader, &group), title)
        .because(
            "What has arrived fills the receive buffer, and the peer was told to send no more. It waits until \
             this process reads.",
        )
        .beyond(watched, "unread, mean", unread as f64, &UNREAD, limits)
        .with(watched, "window offered to the peer, mean", mean(worst, "rcv_wnd_bytes") as f64, Unit::Bytes)
        .with(watched, "receive buffer", worst.sums.at_least("rcvbuf_bytes") as f64, Unit::Bytes)
        .with(watched, "received", worst.sums.at_least("bytes_received") as f64, Unit::Bytes)
        .with(watched, "such connections", group.flows.len() as f64, Unit::Count)
        .ruling_out("the network: the data is here");
    let finding = match watched.tcp(reader.0.unwrap_or(0), "TCPToZeroWindowAdv") {
        Some(closed) => {
            finding.with(watched, "windows closed in the namespace", closed as f64, Unit::Count)
        }
        None => finding,
    };
    Some(told(finding, &group, &name, &format!("dst {}", ip(worst))))
}

/// All along much was unread, and hardly any room was offered: in the mean less than two segments, or than a quarter
/// of what is unread. The kernel offers none at all below one segment or a sixteenth of the buffer
/// (`__tcp_select_window`, net/ipv4/tcp_output.c): of one that falls behind it is nothing, and more for moments.
fn is_full(limits: &Limits, flow: &Seen) -> bool {
    let extents = flow.extent("unread_bytes").zip(flow.extent("rcv_wnd_bytes"));
    extents.is_some_and(|(unread, window)| {
        const TWO_SEGMENTS: u64 = 2 * 1_448;
        let is_closed = window.mean() < TWO_SEGMENTS.max(unread.mean() / 4);
        unread.times >= 2
            && unread.least > 0
            && unread.mean() as f64 >= limits.of(&UNREAD)
            && is_closed
    })
}

/// It reads, but late.
fn late(watched: &Watched, limits: &Limits, reader: Reader, flows: Vec<&Seen>) -> Option<Finding> {
    let group = Group::of(flows);
    let sums = &group.sums;
    let p90 = sums.quantile("read_wait", 0.9, limits.of(&LEAST) as u64)?;
    let wait = sums.count("read_wait_ns")?;
    let serves = reader.2.is_some();
    let share = wait as f64 / (wait + sums.at_least("service_ns")).max(1) as f64;
    if (p90 as f64) < limits.of(&WAIT) || serves && share < limits.of(&SHARE) {
        return None;
    }
    let name = name(&group);
    let whose =
        reader.2.map_or_else(|| "answers".to_owned(), |port| format!("requests at port {port}"));
    let title = format!("{name} reads its {whose} {} after they came (p90)", format::duration(p90));
    // Who asks may well have something else to do before it reads.
    let severity = if serves { Severity::Warning } else { Severity::Info };
    let finding = Finding::new(watched, severity, scope(reader, &group), title)
        .because(
            "The data is on its socket, and the process does not fetch it: all its threads are busy, or its event \
             loop is blocked.",
        )
        .beyond(watched, "read_wait p90", p90 as f64, &WAIT, limits)
        .with(watched, "reads", sums.samples("read_wait") as f64, Unit::Count)
        .with(watched, "waiting to be read, all together", wait as f64, Unit::Ns)
        .ruling_out("the network: the time begins when the data is here")
        .ruling_out(format!(
            "work on the requests: that took {} after they were read",
            format::duration(sums.at_least("service_ns"))
        ));
    let filter = reader.2.map_or_else(String::new, |port| format!("sport = :{port}"));
    Some(told(finding, &group, &name, &filter))
}

fn told(finding: Finding, group: &Group<'_>, name: &str, filter: &str) -> Finding {
    let pid = group.owner().pid;
    let finding = finding
        .advise(format!(
            "see what the threads of {name} do: stuck, all busy, or one loop that is blocked"
        ))
        .advise(
            "see whether it has the CPU that it needs: cpu.stat of its cgroup, cpu-starved here",
        )
        .advise("let it read by more threads; a larger buffer only hides it for longer");
    match pid {
        Some(pid) => finding.confirm_by(threads_of(pid)),
        None => finding,
    }
    .confirm_by(ss_by(pid, filter).trim_end().to_owned())
}

fn scope((netns, _, port): Reader, group: &Group<'_>) -> Scope {
    let scope = holder(netns, &group.owner());
    match port {
        Some(port) => scope.at(port),
        None => scope,
    }
}

fn name(group: &Group<'_>) -> String {
    group.comm().map_or_else(|| "a process".to_owned(), str::to_owned)
}

fn ip(flow: &Seen) -> String {
    flow.peer.ip.map_or_else(String::new, host)
}

fn mean(flow: &Seen, state: &str) -> u64 {
    flow.extent(state).map_or(0, |extent| extent.mean())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    fn full(unread: u64, window: u64) -> Flow {
        kit::flow("f1")
            .serving(5672)
            .of(9, "consumer")
            .count("unread_bytes", unread)
            .count("rcv_wnd_bytes", window)
            .count("rcvbuf_bytes", 131_072)
    }

    fn late(wait_ms: u64, service_ms: u64, reads: u64) -> Flow {
        let ns = |ms| ms * 1_000_000 * reads;
        kit::flow("f1")
            .serving(8080)
            .of(9, "api")
            .latency("read_wait", reads, ns(wait_ms) / reads)
            .count("read_wait_ns", ns(wait_ms))
            .count("service_ns", ns(service_ms))
    }

    fn once(flow: Flow) -> Watched {
        let mut watched = Watched::default();
        watched.take(&kit::snapshot(0, vec![flow]));
        watched
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &kit::watched(&[full(8_192, 0)]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[full(8_191, 0)]), None);
        check(&DEFINITION, &kit::watched(&[full(60_000, 14_900)]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[full(60_000, 15_000)]), None);
        check(&DEFINITION, &kit::watched(&[late(510, 10, 1)]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[late(490, 10, 1)]), None);
        check(&DEFINITION, &kit::watched(&[late(600, 600, 1)]), Some(Severity::Warning));
        check(&DEFINITION, &kit::watched(&[late(600, 610, 1)]), None);
        check(&DEFINITION, &once(late(600, 0, 5)), Some(Severity::Warning));
        check(&DEFINITION, &once(late(600, 0, 4)), None);
    }

    #[test]
    fn what_is_read_now_and_then_or_was_seen_once_is_not_full() {
        let mut watched = kit::watched(&[full(60_000, 0)]);
        watched.take(&kit::snapshot(10, vec![full(0, 60_000)]));
        check(&DEFINITION, &watched, None);
        check(&DEFINITION, &once(full(60_000, 0)), None);
    }

    #[test]
    fn a_client_that_reads_late_is_no_alarm() {
        let flow = Flow { role: Some(Role::Client), ..late(600, 0, 1) };
        check(&DEFINITION, &kit::watched(&[flow]), Some(Severity::Info));
    }

    #[test]
    fn wording() {
        let wording = |flow| crate::finding::tests::wording(&DEFINITION, &kit::watched(&[flow]));
        insta::assert_snapshot!("full", wording(full(60_000, 0)));
        insta::assert_snapshot!("late", wording(late(800, 20, 1)));
    }
}
