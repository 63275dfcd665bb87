//! What the node says of itself: CPUs, memory of sockets, listeners, sockets by state, interfaces, TCP's counters.

use std::{cmp::Reverse, collections::BTreeMap};

use ratatui::text::Line;

use super::{
    Body, Pane,
    state::State,
    style::{line, styled},
};
use crate::{
    format::{self, MISSING, or_missing, percent, sanitised, wrapped},
    snapshot::{
        Node,
        node::{Interface, ListenQueue, OLD_NS, Sockets, States},
    },
    view::{
        owner::process,
        table::{conntrack::seconds, endpoint, listeners},
    },
};

pub(super) const PANE: Pane = Pane {
    name: "node",
    help: "CPUs, socket memory, listeners, sockets by state, interfaces, TCP counters",
    body: Body::Text(lines),
};

/// Interfaces that are shown, those with most traffic.
const INTERFACES: usize = 12;
/// Counters, qdiscs, queues or control groups that are shown.
const SHOWN: usize = 8;

fn lines(state: &State, columns: usize) -> Vec<Line<'static>> {
    let Some(shot) = state.shown() else { return vec![line("watching…")] };
    let node = &shot.snapshot.node;
    let seconds = seconds(&shot.snapshot);
    let mut lines = Vec::new();
    let mut part = |title: &str, each: Vec<Vec<String>>| {
        if each.iter().all(Vec::is_empty) {
            return;
        }
        lines.push(styled(title, state.palette.title()));
        for words in each {
            let words: Vec<_> = words.iter().map(|word| sanitised(word)).collect();
            let texts = wrapped(&words, columns.saturating_sub(2), "  ");
            lines.extend(texts.iter().map(|text| line(&format!("  {text}"))));
        }
    };
    part("CPUs", vec![cpus(node), softnet(node)]);
    part("held back by their CPU limit", throttled(node));
    part("memory of sockets", vec![memory(node)]);
    part("TCP sockets", vec![sockets(node)]);
    part("TCP in the interval", vec![tcp(node)]);
    part("listeners that dropped requests", vec![listeners::lines(&node.listeners, columns)]);
    part(
        "queues of listeners, over half full",
        node.listen_queues.iter().take(SHOWN).map(queue).collect(),
    );
    part("interfaces", interfaces(node, seconds));
    part("queueing disciplines that drop or hold packets", qdiscs(node));
    lines
}

fn cpus(node: &Node) -> Vec<String> {
    let Some(cpu) = &node.cpu else { return vec![format!("busy {MISSING}")] };
    let (busiest, softirq) = (&cpu.busiest, &cpu.most_softirq);
    let which = |cpu: Option<u32>| or_missing(cpu, |cpu| format!("CPU {cpu}"));
    let mut words = vec![
        format!("{} CPUs busy {}", cpu.cpus, percent(rounded(cpu.mean.busy_ratio))),
        format!("softirq {}", percent(rounded(cpu.mean.softirq_ratio))),
        format!("{} busy {}", which(busiest.cpu), percent(rounded(busiest.busy_ratio))),
        format!("{} softirq {}", which(softirq.cpu), percent(rounded(softirq.softirq_ratio))),
    ];
    if cpu.mean.steal_ratio >= 0.01 {
        words.push(format!("stolen {}", percent(rounded(cpu.mean.steal_ratio))));
    }
    words.push(format!("runnable {}", or_missing(cpu.runnable, |n| n.to_string())));
    words
}

/// To a thousandth: more is noise.
fn rounded(ratio: f64) -> f64 {
    (ratio * 1_000.0).round() / 1_000.0
}

fn softnet(node: &Node) -> Vec<String> {
    let sum = |of: fn(&crate::snapshot::node::Softnet) -> u64| node.softnet.iter().map(of).sum();
    let words: [(&str, u64); 3] = [
        ("packets from cards and links", sum(|one| one.processed)),
        ("dropped for a full backlog", sum(|one| one.dropped)),
        ("stopped with packets left", sum(|one| one.time_squeeze)),
    ];
    words.iter().map(|(what, n)| format!("{what} {}", format::count(*n))).collect()
}

fn throttled(node: &Node) -> Vec<Vec<String>> {
    let one = |one: &crate::snapshot::node::Throttled| {
        vec![
            one.cgroup.clone(),
            format!("{} of {} periods", one.throttled_periods, one.periods),
            format!("for {}", format::duration(one.throttled_us.saturating_mul(1_000))),
        ]
    };
    let each = node.throttled.iter().filter(|one| one.throttled_periods > 0);
    each.take(SHOWN).map(one).collect()
}

fn memory(node: &Node) -> Vec<String> {
    let memory = &node.memory;
    let of = |name: &str, used: &crate::snapshot::node::MemoryUse| {
        let pages = |pages: Option<u64>| or_missing(pages, format::count);
        format!("{name} {} of {} pages", pages(used.pages), pages(used.high_pages))
    };
    let orphans = |n: Option<u64>| or_missing(n, format::count);
    vec![
        of("TCP", &memory.tcp),
        of("UDP", &memory.udp),
        format!("orphans {} of {}", orphans(memory.tcp_orphans), orphans(memory.tcp_max_orphans)),
    ]
}

fn sockets(node: &Node) -> Vec<String> {
    let sum = |of: fn(&States) -> u64| node.sockets.iter().map(|one| of(&one.states)).sum::<u64>();
    let known_ns = node.sockets.iter().map(Sockets::known_ns).max().unwrap_or(0);
    let old = (known_ns > OLD_NS).then(|| format!("as of {} ago", format::duration(known_ns)));
    let states = [
        ("established", sum(|it| it.established)),
        ("syn_sent", sum(|it| it.syn_sent)),
        ("syn_recv", sum(|it| it.syn_recv)),
        ("fin_wait", sum(|it| it.fin_wait1 + it.fin_wait2)),
        ("time_wait", sum(|it| it.time_wait)),
        ("close_wait", sum(|it| it.close_wait)),
        ("last_ack", sum(|it| it.last_ack)),
        ("listen", sum(|it| it.listen)),
    ];
    let told = states.iter().map(|(name, n)| format!("{name} {}", format::count(*n)));
    told.chain(old).collect()
}

/// The counters that rose, of all namespaces together, the most first.
fn tcp(node: &Node) -> Vec<String> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for counters in node.tcp.values() {
        for (name, n) in counters {
            *sums.entry(name).or_default() += n;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, n)| *n > 0).collect();
    sums.sort_by_key(|&(name, n)| (Reverse(n), name));
    let shown = sums.iter().take(3 * SHOWN);
    shown.map(|(name, n)| format!("{name} {}", format::count(*n))).collect()
}

fn queue(queue: &ListenQueue) -> Vec<String> {
    vec![
        format!("{} {}", endpoint(&queue.local), process(&queue.owner)),
        format!("accept queue {} of {}", queue.accept_queue, queue.accept_queue_limit),
        format!("requests {}", queue.syn_recv),
    ]
}

fn interfaces(node: &Node, seconds: Option<f64>) -> Vec<Vec<String>> {
    let traffic = |one: &Interface| one.rx_bytes.unwrap_or(0) + one.tx_bytes.unwrap_or(0);
    let failed = |one: &Interface| -> u64 { failures(one).iter().map(|(_, n)| n).sum() };
    let mut all: Vec<_> =
        node.interfaces.iter().filter(|one| traffic(one) > 0 || failed(one) > 0).collect();
    all.sort_by_key(|one| (Reverse(failed(one)), Reverse(traffic(one))));
    let rate = |n: Option<u64>| match (n, seconds) {
        (Some(n), Some(seconds)) => format!("{}/s", format::bytes((n as f64 / seconds) as u64)),
        _ => MISSING.to_owned(),
    };
    let one = |one: &&Interface| {
        let mut words = vec![
            format!("{} in netns {}", one.name, one.netns),
            format!("in {} out {}", rate(one.rx_bytes), rate(one.tx_bytes)),
        ];
        if !one.up || one.carrier == Some(false) {
            words.push("down".to_owned());
        }
        let failed = failures(one).into_iter().filter(|(_, n)| *n > 0);
        words.extend(failed.map(|(name, n)| format!("{name} {}", format::count(n))));
        words
    };
    all.iter().take(INTERFACES).map(one).collect()
}

fn failures(one: &Interface) -> [(&'static str, u64); 4] {
    [
        ("rx errors", one.rx_errors),
        ("rx dropped", one.rx_dropped),
        ("tx errors", one.tx_errors),
        ("tx dropped", one.tx_dropped),
    ]
    .map(|(name, n)| (name, n.unwrap_or(0)))
}

fn qdiscs(node: &Node) -> Vec<Vec<String>> {
    let mut all: Vec<_> =
        node.qdiscs.iter().filter(|one| one.drops > 0 || one.backlog_packets > 0).collect();
    all.sort_by_key(|one| Reverse((one.drops, one.backlog_bytes)));
    let one = |one: &&crate::snapshot::node::Qdisc| {
        vec![
            format!("{} {}", one.interface.as_deref().unwrap_or(MISSING), one.kind),
            format!("drops {}", format::count(one.drops)),
            format!(
                "backlog {} in {} packets",
                format::bytes(one.backlog_bytes),
                one.backlog_packets
            ),
        ]
    };
    all.iter().take(SHOWN).map(one).collect()
}
