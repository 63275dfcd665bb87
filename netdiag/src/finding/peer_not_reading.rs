//! A peer's application does not read what it is sent: its receive window is closed.

use std::{collections::BTreeMap, net::IpAddr};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{end, host, sent_again, ss_by},
};
use crate::{
    format,
    snapshot::Owner,
    watched::{Group, Seen, Watched},
};

const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.3,
    unit: Unit::Ratio,
    help: "time in which the peer's window held data back, of that with data to send",
    source: "the kernel's own rwnd_limited of busy; a third is what users notice",
};
const CRITICAL: Threshold = Threshold {
    name: "critical",
    value: 0.9,
    unit: Unit::Ratio,
    help: "the same, from which on hardly anything is read",
    source: "nine tenths of the time nothing moves",
};
const LEAST: Threshold = Threshold {
    name: "least_time",
    value: 1e9,
    unit: Unit::Ns,
    help: "time in which its window held data back in a window, less says nothing",
    source: "a pause of a garbage collector or a scheduler is shorter",
};
const USED: Threshold = Threshold {
    name: "used",
    value: 0.25,
    unit: Unit::Ratio,
    help: "what passes in a round trip, of the window that it offers at most; more is a window too small",
    source: "a window that is read at once passes whole in each round trip",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "peer-not-reading",
    help: "the application at the other end does not read what it is sent",
    thresholds: &[&SHARE, &CRITICAL, &LEAST, &USED],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved", "tcp-memory-pressure", "local-not-reading"],
    rule,
};

/// Namespace, address and port of the other end, which is none where it is a client's.
type To = (Option<u32>, IpAddr, Option<u16>);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut stuck: BTreeMap<To, Vec<&Seen>> = BTreeMap::new();
    for flow in watched.flows.values().filter(|flow| is_stuck(limits, flow)) {
        if let Some(ip) = flow.peer.ip {
            let port = flow.peer.port.filter(|_| flow.is_client());
            stuck.entry((flow.netns, ip, port)).or_default().push(flow);
        }
    }
    stuck.into_iter().filter_map(|(to, flows)| of_peer(watched, limits, to, flows)).collect()
}

/// Part of the time with data to send in which the peer's window held it back.
fn share(flow: &Seen) -> f64 {
    let [held, busy] = ["rwnd_limited_ns", "busy_ns"].map(|name| flow.sums.at_least(name));
    held as f64 / busy.max(held).max(1) as f64
}

/// Held back, and not because what fits into the window is still on its way.
fn is_stuck(limits: &Limits, flow: &Seen) -> bool {
    let held = flow.sums.at_least("rwnd_limited_ns") as f64;
    let Some(window) = flow.extent("snd_wnd_bytes") else { return false };
    let unsent = flow.extent("unsent_bytes").map_or(0, |unsent| unsent.most);
    if held < limits.of(&LEAST) || share(flow) < limits.of(&SHARE) || unsent == 0 {
        return false;
    }
    const SEGMENT: u64 = 1_448;
    let Some(rtt_ns) = flow.rtt_min_ns.or(flow.srtt_ns) else { return window.mean() < SEGMENT };
    let passed = flow.sums.count("bytes_acked").or_else(|| flow.sums.count("bytes_sent"));
    // While there was something to send, however short that is of the window.
    let busy_ns = flow.sums.at_least("busy_ns").max(flow.sums.at_least("rwnd_limited_ns")).max(1);
    let each_trip = passed.unwrap_or(0) as f64 / busy_ns as f64 * rtt_ns as f64;
    each_trip < limits.of(&USED) * window.most.max(SEGMENT) as f64
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, ip, port): To,
    flows: Vec<&Seen>,
) -> Option<Finding> {
    let worst = *flows.iter().max_by(|one, other| share(one).total_cmp(&share(other)))?;
    let (share, count) = (share(worst), flows.len());
    let group = Group::of(flows);
    let owner = group.owner();
    let scope = match port {
        Some(port) => Scope::backend(netns, ip, port).by(&owner),
        None => Scope::peer(netns, ip).by(&owner),
    };
    let here = worst.pair.as_ref().and_then(|pair| watched.flows.get(pair));
    let here = here.and_then(|reader| reader.owner.comm.as_ref().zip(reader.owner.pid));
    let (severity, threshold) = match share {
        // What the reader of this node does is told of that one.
        _ if here.is_some() => (Severity::Info, &SHARE),
        share if share >= limits.of(&CRITICAL) => (Severity::Critical, &CRITICAL),
        _ => (Severity::Warning, &SHARE),
    };
    let at = end(&worst.peer);
    let title = match worst.sums.count("snd_wnd_bytes") {
        Some(0) => format!("the application at {at} does not read: its receive window is closed"),
        _ => format!("the application at {at} reads slower than it is sent to"),
    };
    let extent = |state| worst.extent(state).unwrap_or_default();
    let finding = Finding::new(watched, severity, scope, title)
        .done_by(group.peer_owner())
        .because(
            "Data waits here because the peer's kernel has no room for it: its application leaves there what \
             has arrived. Whoever writes to it here will block or buffer.",
        )
        .beyond(watched, "time held back by its window / with data to send", share, threshold, limits)
        .with(watched, "its window, mean", extent("snd_wnd_bytes").mean() as f64, Unit::Bytes)
        .with(watched, "waiting to be sent", extent("unsent_bytes").most as f64, Unit::Bytes)
        .with(watched, "connections", count as f64, Unit::Count)
        .with(watched, "acknowledged", worst.sums.at_least("bytes_acked") as f64, Unit::Bytes);
    let finding = ruled(finding, worst);
    Some(
        told(finding, &at, here, &owner)
            .confirm_by(ss_by(owner.pid, &format!("dst {}", host(ip))))
            .confirm_by(format!("netdiag live --peer {ip}")),
    )
}

fn ruled(finding: Finding, worst: &Seen) -> Finding {
    let finding = match sent_again(&worst.sums) {
        Some(n) => finding.ruling_out(format!(
            "loss: {n} segments were sent again, and the kernel counts that time apart"
        )),
        None => finding,
    };
    match worst.rtt_min_ns {
        Some(path) => finding.ruling_out(format!(
            "a window that is small for the path: a round trip takes {}, and far less than the window passes \
             in it",
            format::duration(path)
        )),
        None => finding.confidence(0.8).not_seeing("how long the path takes (rtt_min)"),
    }
}

fn told(finding: Finding, at: &str, here: Option<(&String, u32)>, owner: &Owner) -> Finding {
    if let Some((comm, pid)) = here {
        return finding
            .advise(format!("{at} is {comm}/{pid} of this node: look at what is said of that"));
    }
    let writer = owner.comm.as_deref().unwrap_or("the sender");
    finding
        .advise(format!(
            "ask the owner of {at} why it does not read: stuck, out of workers, or overloaded"
        ))
        .advise("on that node: netdiag diagnose tells local-not-reading with the process")
        .advise(format!(
            "see what {writer} does meanwhile: it needs a limit of what it buffers, or a timeout"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    /// Held back for so many milliseconds of each second, with so many bytes acknowledged.
    fn flow(ms: u64, window: u64, acked: u64) -> Flow {
        kit::flow("f1")
            .path(2_000_000)
            .count("busy_ns", 1_000_000_000)
            .count("rwnd_limited_ns", ms * 1_000_000)
            .count("snd_wnd_bytes", window)
            .count("unsent_bytes", 500_000)
            .count("bytes_acked", acked)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", 0)
    }

    fn of(ms: u64, window: u64, acked: u64) -> Watched {
        kit::watched(&[flow(ms, window, acked)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(300, 0, 16_000), Some(Severity::Warning));
        check(&DEFINITION, &of(299, 0, 16_000), None);
        check(&DEFINITION, &of(899, 0, 0), Some(Severity::Warning));
        check(&DEFINITION, &of(900, 0, 0), Some(Severity::Critical));
        let short = |ms| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow(ms, 0, 0)]));
            watched
        };
        check(&DEFINITION, &short(999), None);
        check(&DEFINITION, &short(1_000), Some(Severity::Critical));
    }

    #[test]
    fn a_small_window_that_is_read_at_once_is_none() {
        // 12 KiB in a round trip of 2 ms: 6 MB/s. A quarter of that.
        check(&DEFINITION, &of(800, 12_000, 1_510_000), None);
        check(&DEFINITION, &of(800, 12_000, 1_490_000), Some(Severity::Warning));
    }

    #[test]
    fn one_stuck_of_many_is_not_thinned_out_and_nothing_to_send_is_none() {
        let mut flows: Vec<_> =
            (0..200).map(|n| Flow { id: format!("g{n}"), ..flow(0, 60_000, 100_000) }).collect();
        check(&DEFINITION, &kit::watched(&flows), None);
        flows.push(flow(950, 0, 0));
        check(&DEFINITION, &kit::watched(&flows), Some(Severity::Critical));
        check(&DEFINITION, &kit::watched(&[flow(950, 0, 0).count("unsent_bytes", 0)]), None);
    }

    #[test]
    fn a_reader_of_this_node_is_told_of_by_itself() {
        let writes = Flow { pair: Some("f2".to_owned()), ..flow(950, 0, 0) };
        let reads = kit::flow("f2").serving(443).of(9, "consumer");
        check(&DEFINITION, &kit::watched(&[writes, reads]), Some(Severity::Info));
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(950, 0, 0)));
    }
}
