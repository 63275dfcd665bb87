//! Metrics of the node, by its own word: sums over its network namespaces, and the worst of them where a sum says
//! nothing. They are whole whatever the filters.

use super::{
    family::Unit,
    scalar::{
        Scalar, Seen,
        Taking::{Increase, Now},
        Tell,
    },
};
use crate::{
    format::sanitised,
    snapshot::node::{CpuShare, Interface, MemoryUse, NamespaceCounters, Qdisc, Softnet},
};

/// All of them.
pub(super) const SCALARS: &[Scalar] = &[
    Scalar::new("netdiag_node_tcp_total", Increase, "the kernel's TCP counters, by its names", |seen, tell| {
        kernel(&seen.snapshot.node.tcp, tell);
    })
    .by(&["counter"]),
    Scalar::new("netdiag_node_ip_total", Increase, "the kernel's IP counters; IPv6's begin with Ip6", |seen, tell| {
        kernel(&seen.snapshot.node.ip, tell);
    })
    .by(&["counter"]),
    Scalar::new("netdiag_node_udp_total", Increase, "the kernel's UDP counters; IPv6's begin with Udp6", |seen, tell| {
        kernel(&seen.snapshot.node.udp, tell);
    })
    .by(&["counter"]),
    Scalar::new("netdiag_node_icmp_total", Increase, "the kernel's ICMP counters; IPv6's begin with Icmp6", |seen, tell| {
        kernel(&seen.snapshot.node.icmp, tell);
    })
    .by(&["counter"]),
    Scalar::new("netdiag_node_sockets", Now, "TCP sockets by state", sockets).by(&["state"]),
    Scalar::new(
        "netdiag_node_ports_used_ratio",
        Now,
        "local ports taken, of those that connecting sockets may be given, where most are taken",
        |seen, tell| {
            let used = seen.snapshot.node.ports.iter();
            tell_worst(tell, used.map(|ports| ratio(ports.taken, ports.available)));
        },
    )
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_node_listener_drops_total",
        Increase,
        "connection requests that listeners dropped",
        |seen, tell| {
            let drops = seen.snapshot.node.listeners.iter().map(|listener| listener.drops);
            tell(&[], drops.sum::<u64>() as f64);
        },
    ),
    Scalar::new(
        "netdiag_node_accept_queue_used_ratio",
        Now,
        "connections that wait to be accepted, of those that may wait, where most do; 0 where none is half full",
        |seen, tell| {
            let queues = seen.snapshot.node.listen_queues.iter();
            let used = |queue: u32, limit: u32| ratio(queue.into(), Some(limit.into()));
            let most = queues.filter_map(|one| used(one.accept_queue, one.accept_queue_limit));
            tell(&[], most.fold(0.0, f64::max));
        },
    )
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_node_interface_bytes_total",
        Increase,
        "bytes that interfaces carried; what goes through several, as through both ends of a veth, counts for each",
        |seen, tell| interfaces(seen, tell, |one| [one.rx_bytes, one.tx_bytes]),
    )
    .of(Unit::Bytes)
    .by(&["kind", "direction"]),
    Scalar::new("netdiag_node_interface_packets_total", Increase, "packets, likewise", |seen, tell| {
        interfaces(seen, tell, |one| [one.rx_packets, one.tx_packets]);
    })
    .by(&["kind", "direction"]),
    Scalar::new(
        "netdiag_node_interface_errors_total",
        Increase,
        "packets that interfaces received damaged, or could not send",
        |seen, tell| interfaces(seen, tell, |one| [one.rx_errors, one.tx_errors]),
    )
    .by(&["kind", "direction"]),
    Scalar::new("netdiag_node_interface_drops_total", Increase, "packets that interfaces dropped", |seen, tell| {
        interfaces(seen, tell, |one| [one.rx_dropped, one.tx_dropped]);
    })
    .by(&["kind", "direction"]),
    Scalar::new("netdiag_node_qdisc_drops_total", Increase, "packets that queueing disciplines dropped", |seen, tell| {
        qdiscs(seen, tell, |one| one.drops);
    })
    .by(&["kind"]),
    Scalar::new(
        "netdiag_node_qdisc_overlimits_total",
        Increase,
        "times that a limit of a queueing discipline held packets back",
        |seen, tell| qdiscs(seen, tell, |one| one.overlimits),
    )
    .by(&["kind"]),
    Scalar::new("netdiag_node_qdisc_backlog_bytes", Now, "bytes that wait in queueing disciplines", |seen, tell| {
        qdiscs(seen, tell, |one| one.backlog_bytes);
    })
    .of(Unit::Bytes)
    .by(&["kind"]),
    Scalar::new("netdiag_node_softnet_packets_total", Increase, "packets that CPUs took from interfaces", |seen, tell| {
        softnet(seen, tell, |one| one.processed);
    }),
    Scalar::new(
        "netdiag_node_softnet_drops_total",
        Increase,
        "packets dropped since a CPU's backlog was full, or one flow had too much of it",
        |seen, tell| softnet(seen, tell, |one| one.dropped + one.flow_limit.unwrap_or(0)),
    ),
    Scalar::new(
        "netdiag_node_softnet_time_squeezes_total",
        Increase,
        "times that a CPU stopped with packets left, its budget or time being over",
        |seen, tell| softnet(seen, tell, |one| one.time_squeeze),
    ),
    Scalar::new("netdiag_node_cpu_busy_ratio", Now, "how busy the CPUs are, stolen time included", |seen, tell| {
        share(seen, tell, |cpu| cpu.busy_ratio);
    })
    .of(Unit::Ratio),
    Scalar::new("netdiag_node_cpu_softirq_ratio", Now, "their time in software interrupts", |seen, tell| {
        share(seen, tell, |cpu| cpu.softirq_ratio);
    })
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_node_cpu_softirq_most_ratio",
        Now,
        "the same of the CPU that has the most, where packets are received",
        |seen, tell| {
            if let Some(cpu) = &seen.snapshot.node.cpu {
                tell(&[], cpu.most_softirq.softirq_ratio);
            }
        },
    )
    .of(Unit::Ratio),
    Scalar::new("netdiag_node_cpu_steal_ratio", Now, "their time that the hypervisor took", |seen, tell| {
        share(seen, tell, |cpu| cpu.steal_ratio);
    })
    .of(Unit::Ratio),
    Scalar::new(
        "netdiag_node_cpu_waiting_seconds_total",
        Increase,
        "time in which some thread waited for a CPU (pressure stall information)",
        |seen, tell| {
            if let Some(pressure) = seen.snapshot.node.cpu.and_then(|cpu| cpu.pressure) {
                tell(&[], pressure.some_us as f64 / 1e6);
            }
        },
    )
    .of(Unit::Seconds),
    Scalar::new(
        "netdiag_node_throttled_seconds_total",
        Increase,
        "time that CPU limits of control groups held their CPUs back, of the twenty longest",
        |seen, tell| {
            let throttled = seen.snapshot.node.throttled.iter().map(|one| one.throttled_us);
            tell(&[], throttled.sum::<u64>() as f64 / 1e6);
        },
    )
    .of(Unit::Seconds),
    Scalar::new(
        "netdiag_node_socket_memory_used_ratio",
        Now,
        "memory of sockets, of the most that is given (the third value of tcp_mem, udp_mem)",
        |seen, tell| {
            let memory = &seen.snapshot.node.memory;
            for (protocol, MemoryUse { pages, high_pages, .. }) in [("tcp", memory.tcp), ("udp", memory.udp)] {
                if let Some(used) = pages.and_then(|pages| ratio(pages, high_pages)) {
                    tell(&[protocol], used);
                }
            }
        },
    )
    .of(Unit::Ratio)
    .by(&["protocol"]),
    Scalar::new("netdiag_node_tcp_orphans", Now, "TCP sockets that no process holds any more", |seen, tell| {
        if let Some(orphans) = seen.snapshot.node.memory.tcp_orphans {
            tell(&[], orphans as f64);
        }
    }),
    Scalar::new("netdiag_node_filter_rules", Now, "packet filter rules, counted now and then", |seen, tell| {
        for rules in seen.snapshot.node.netfilter.iter().filter_map(|table| table.rules) {
            tell(&[], rules as f64);
        }
    }),
    Scalar::new("netdiag_node_conntrack_entries", Now, "connections in the tables of connection tracking", |seen, tell| {
        for table in &seen.snapshot.node.conntrack {
            tell(&[], table.entries as f64);
        }
    }),
    Scalar::new(
        "netdiag_node_conntrack_used_ratio",
        Now,
        "the same of those that may be there, where most are; none where there is no limit",
        |seen, tell| {
            let tables = seen.snapshot.node.conntrack.iter();
            tell_worst(tell, tables.map(|table| ratio(table.entries, table.max)));
        },
    )
    .of(Unit::Ratio),
    Scalar::new("netdiag_node_conntrack_total", Increase, "what connection tracking counts, by its names", conntrack)
        .by(&["counter"]),
];

/// A part of a whole; none where that is not known, or there is none.
fn ratio(part: u64, whole: Option<u64>) -> Option<f64> {
    whole.filter(|whole| *whole > 0).map(|whole| part as f64 / whole as f64)
}

/// The largest of those that are known; nothing where none is.
fn tell_worst(tell: &mut Tell<'_>, ratios: impl Iterator<Item = Option<f64>>) {
    if let Some(worst) = ratios.flatten().reduce(f64::max) {
        tell(&[], worst);
    }
}

fn kernel(counters: &NamespaceCounters, tell: &mut Tell<'_>) {
    for (name, n) in counters.values().flatten() {
        tell(&[name], *n as f64);
    }
}

fn sockets(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    for sockets in &seen.snapshot.node.sockets {
        let states = &sockets.states;
        for (state, n) in [
            ("established", states.established),
            ("syn_sent", states.syn_sent),
            ("syn_recv", states.syn_recv),
            ("fin_wait1", states.fin_wait1),
            ("fin_wait2", states.fin_wait2),
            ("time_wait", states.time_wait),
            ("close_wait", states.close_wait),
            ("last_ack", states.last_ack),
            ("listen", states.listen),
            ("closing", states.closing),
        ] {
            tell(&[state], n as f64);
        }
    }
}

/// What was received and what was sent.
fn interfaces(seen: &Seen<'_>, tell: &mut Tell<'_>, of: impl Fn(&Interface) -> [Option<u64>; 2]) {
    for one in &seen.snapshot.node.interfaces {
        let kind =
            one.kind.as_deref().unwrap_or(if one.loopback { "loopback" } else { "hardware" });
        for (direction, n) in ["receive", "transmit"].into_iter().zip(of(one)) {
            if let Some(n) = n {
                tell(&[&sanitised(kind), direction], n as f64);
            }
        }
    }
}

fn qdiscs(seen: &Seen<'_>, tell: &mut Tell<'_>, of: impl Fn(&Qdisc) -> u64) {
    for one in &seen.snapshot.node.qdiscs {
        tell(&[&sanitised(&one.kind)], of(one) as f64);
    }
}

fn softnet(seen: &Seen<'_>, tell: &mut Tell<'_>, of: impl Fn(&Softnet) -> u64) {
    tell(&[], seen.snapshot.node.softnet.iter().map(of).sum::<u64>() as f64);
}

fn share(seen: &Seen<'_>, tell: &mut Tell<'_>, of: impl Fn(&CpuShare) -> f64) {
    if let Some(cpu) = &seen.snapshot.node.cpu {
        tell(&[], of(&cpu.mean));
    }
}

fn conntrack(seen: &Seen<'_>, tell: &mut Tell<'_>) {
    for table in &seen.snapshot.node.conntrack {
        for (counter, n) in [
            ("insert_failed", table.insert_failed),
            ("drop", table.drop),
            ("early_drop", table.early_drop),
            ("clash_resolve", table.clash_resolve),
            ("invalid", table.invalid),
            ("chaintoolong", table.chaintoolong),
        ] {
            if let Some(n) = n {
                tell(&[counter], n as f64);
            }
        }
    }
}
