//! TCP has less memory than its queues want.

use super::{Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, node::graded};
use crate::{
    snapshot::{Node, node::MemoryUse},
    watched::Watched,
};

const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 0.8,
    unit: Unit::Ratio,
    help: "TCP's memory as a part of the second value of net.ipv4.tcp_mem, for an info",
    source: "field practice for limits: 80 % is worth a look",
};
const USED: Threshold = Threshold {
    name: "used",
    value: 1.0,
    unit: Unit::Ratio,
    help: "the same",
    source: "from it on the kernel keeps every socket small (tcp_enter_memory_pressure, net/ipv4/tcp.c)",
};
const ENTERED: Threshold = Threshold {
    name: "entered",
    value: 1.0,
    unit: Unit::Count,
    help: "times in a window that TCP came under memory pressure",
    source: "each time all sockets of the node are kept small",
};
const LIMIT: Threshold = Threshold {
    name: "limit",
    value: 1.0,
    unit: Unit::Ratio,
    help: "TCP's memory as a part of the third value of net.ipv4.tcp_mem",
    source: "beyond it nothing is given, and connections are given up",
};
const ORPHANS: Threshold = Threshold {
    name: "orphans",
    value: 0.9,
    unit: Unit::Ratio,
    help: "sockets that no process holds as a part of net.ipv4.tcp_max_orphans",
    source: "beyond it they are reset instead of closed",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "tcp-memory-pressure",
    help: "the memory of TCP's queues is used up, sockets are kept small",
    thresholds: &[&NOTICED, &USED, &ENTERED, &LIMIT, &ORPHANS],
    needs: &[],
    parts: &[],
    node: &[Part::Memory, Part::Tcp],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    Vec::from_iter(of_node(watched, limits))
}

/// The largest part of a limit in use, none where it is not known.
fn part(watched: &Watched, of: impl Fn(&Node) -> (Option<u64>, Option<u64>)) -> Option<f64> {
    let parts = watched.intervals.iter().filter_map(|interval| {
        let (used, limit) = of(&interval.node);
        Some(used? as f64 / limit.filter(|limit| *limit > 0)? as f64)
    });
    parts.reduce(f64::max)
}

fn of_node(watched: &Watched, limits: &Limits) -> Option<Finding> {
    let sum = |counter| -> u64 {
        watched.namespaces().iter().filter_map(|netns| watched.tcp(*netns, counter)).sum()
    };
    let entered = sum("TCPMemoryPressures");
    let aborted = sum("TCPAbortOnMemory");
    let used = part(watched, |node| (node.memory.tcp.pages, node.memory.tcp.pressure_pages));
    let limit = part(watched, |node| (node.memory.tcp.pages, node.memory.tcp.high_pages));
    let orphans = part(watched, |node| (node.memory.tcp_orphans, node.memory.tcp_max_orphans));
    let or_none = |value: Option<f64>| value.unwrap_or(0.0);
    let candidates = [
        ("TCP memory / its limit, at most", or_none(limit), Severity::Critical, &LIMIT),
        ("orphans / their limit, at most", or_none(orphans), Severity::Warning, &ORPHANS),
        ("TCP memory / where pressure begins, at most", or_none(used), Severity::Warning, &USED),
        ("times under pressure", entered as f64, Severity::Warning, &ENTERED),
        ("TCP memory / where pressure begins, at most", or_none(used), Severity::Info, &NOTICED),
    ];
    let beyond = candidates.into_iter().find(|(_, value, _, threshold)| {
        graded(*value, limits, &[(Severity::Info, *threshold)]).is_some()
    });
    let (metric, value, severity, threshold) = beyond?;
    let title = match threshold.name {
        "orphans" => "TCP has nearly as many sockets without a process as it may have",
        "limit" => "TCP's memory is used up",
        "noticed" => "TCP's memory is nearly used up",
        _ => "TCP is short of memory, every socket of the node is kept small",
    };
    let finding = Finding::new(watched, severity, Scope::node(""), title)
        .confidence(0.95)
        .because(
            "All TCP queues of the node share net.ipv4.tcp_mem. Under pressure windows shrink, what arrives is \
             dropped, and senders wait; at the limit connections are reset. What fills it are queues that nobody \
             reads, or that a peer does not take.",
        )
        .beyond(watched, metric, value, threshold, limits);
    let finding = if threshold == &ENTERED {
        finding
    } else {
        finding.with(watched, "times under pressure", entered as f64, Unit::Count)
    };
    let MemoryUse { pages, pressure_pages, high_pages, .. } =
        watched.node().map(|node| node.memory.tcp).unwrap_or_default();
    let counts = [
        ("pages in use at the end", pages),
        ("pages where pressure begins", pressure_pages),
        ("pages at most", high_pages),
        ("connections given up for want of memory", Some(aborted)),
        ("segments dropped for want of receive memory", Some(sum("TCPRcvQDrop"))),
        ("times a receive queue was made smaller", Some(sum("PruneCalled"))),
    ];
    let finding = counts.into_iter().fold(finding, |finding, (metric, n)| match n {
        Some(n) => finding.with(watched, metric, n as f64, Unit::Count),
        None => finding,
    });
    Some(advised(largest(finding, watched), threshold == &ORPHANS))
}

/// Which flow has the most in its queues, of those that told.
fn largest(finding: Finding, watched: &Watched) -> Finding {
    let queued = watched.flows.values().filter(|flow| !flow.closed).filter_map(|flow| {
        let (unread, unsent) =
            (flow.sums.at_least("unread_bytes"), flow.sums.at_least("unsent_bytes"));
        Some((unread.max(unsent), unread > unsent, flow.owner.comm.as_deref()?, flow.peer.ip?))
    });
    match queued.filter(|(bytes, ..)| *bytes > 0).max() {
        Some((bytes, is_unread, comm, ip)) => {
            let what = if is_unread { "not read by" } else { "not sent yet of" };
            finding.with(
                watched,
                &format!("{what} {comm} with {ip}, the longest queue"),
                bytes as f64,
                Unit::Bytes,
            )
        }
        None => finding,
    }
}

fn advised(finding: Finding, is_orphans: bool) -> Finding {
    let finding = if is_orphans {
        finding.advise(
            "find who closes connections before their peers took all: ss -tn state fin-wait-1",
        )
    } else {
        finding
            .advise("find whose queues are long: processes that do not read (Recv-Q), peers that do not (Send-Q)")
            .advise("fewer or smaller buffers: pools without bound, SO_SNDBUF and SO_RCVBUF, net.ipv4.tcp_rmem, tcp_wmem")
    };
    finding
        .advise("only then raise net.ipv4.tcp_mem (three values, in pages), if the node has memory to spare")
        .confirm_by("cat /proc/net/sockstat /proc/sys/net/ipv4/tcp_mem")
        .confirm_by("ss -tmn")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::node::SocketMemory, watched::kit};

    /// Memory in thousandths of where pressure begins; the limit is twice that.
    fn of(pages: u64, entered: u64, tcp_orphans: u64) -> Watched {
        let flow = kit::flow("f1").count("unread_bytes", 4_000_000);
        kit::with_nodes(&[flow], |second, node| {
            let once = if second == 0 { entered } else { 0 };
            kit::tcp(node, "TCPMemoryPressures", once);
            kit::tcp(node, "PruneCalled", 3);
            node.memory = SocketMemory {
                tcp: MemoryUse {
                    pages: Some(pages),
                    low_pages: Some(500),
                    pressure_pages: Some(1_000),
                    high_pages: Some(2_000),
                },
                tcp_orphans: Some(tcp_orphans),
                tcp_max_orphans: Some(1_000),
                ..SocketMemory::default()
            };
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(799, 0, 0), None);
        check(&DEFINITION, &of(800, 0, 0), Some(Severity::Info));
        check(&DEFINITION, &of(999, 0, 0), Some(Severity::Info));
        check(&DEFINITION, &of(1_000, 0, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(1_999, 0, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(2_000, 0, 0), Some(Severity::Critical));
        check(&DEFINITION, &of(600, 1, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(600, 0, 899), None);
        check(&DEFINITION, &of(600, 0, 900), Some(Severity::Warning));
    }

    /// A single socket that is full is made smaller, and the others have all that they want.
    #[test]
    fn one_full_socket_is_no_pressure() {
        let watched = kit::with_node(&[], |node| {
            kit::tcp(node, "PruneCalled", 900);
            kit::tcp(node, "TCPRcvQDrop", 90);
            kit::tcp(node, "TCPAbortOnMemory", 1);
        });
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(1_300, 2, 10)));
    }
}
