//! A sender's own buffer is too small for the path: it waits for acknowledgements with the path half empty.

use std::{collections::BTreeMap, net::IpAddr};

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{end, host, sent_again, ss_by},
};
use crate::{
    format,
    watched::{Group, Seen, Watched},
};

const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.3,
    unit: Unit::Ratio,
    help: "time in which all of a full send buffer had been sent, of that with data to send",
    source: "the kernel's own sndbuf_limited of busy; a third is what users notice",
};
const NOTICED: Threshold = Threshold {
    name: "noticed",
    value: 0.1,
    unit: Unit::Ratio,
    help: "the same, for an info",
    source: "a tenth is worth a look",
};
const LEAST: Threshold = Threshold {
    name: "least_time",
    value: 1e9,
    unit: Unit::Ns,
    help: "time in which it held data back in a window, less says nothing",
    source: "buffers grow within the first round trips of a transfer",
};
const ENOUGH: Threshold = Threshold {
    name: "enough",
    value: 60e6,
    unit: Unit::BytesPerSecond,
    help: "what the buffer lets through on that path, above which it is no limit that hurts",
    source: "half of a link of 1 Gbit/s",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "send-buffer-limited",
    help: "a send buffer is too small for the path and holds data back",
    thresholds: &[&SHARE, &NOTICED, &LEAST, &ENOUGH],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["tcp-memory-pressure", "bufferbloat", "peer-not-reading"],
    rule,
};

/// Namespace, process, and address and port of the other end, the port none where it is a client's.
type To = (Option<u32>, Option<u32>, IpAddr, Option<u16>);

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let mut limited: BTreeMap<To, Vec<&Seen>> = BTreeMap::new();
    for flow in watched.flows.values().filter(|flow| is_limited(limits, flow)) {
        if let Some(ip) = flow.peer.ip {
            let port = flow.peer.port.filter(|_| flow.is_client());
            limited.entry((flow.netns, flow.owner.pid, ip, port)).or_default().push(flow);
        }
    }
    limited.into_iter().filter_map(|(to, flows)| of_peer(watched, limits, to, flows)).collect()
}

fn share(flow: &Seen) -> f64 {
    let [held, busy] = ["sndbuf_limited_ns", "busy_ns"].map(|name| flow.sums.at_least(name));
    held as f64 / busy.max(held).max(1) as f64
}

/// Bytes a second that the buffer lets through: what it holds in each round trip, half of it being the
/// kernel's own.
fn bound(flow: &Seen) -> Option<f64> {
    let buffer = flow.sums.count("sndbuf_bytes")?;
    let rtt_ns = flow.rtt_min_ns.or(flow.srtt_ns).filter(|rtt| *rtt > 0)?;
    Some(buffer as f64 / 2.0 / (rtt_ns as f64 / 1e9))
}

fn is_limited(limits: &Limits, flow: &Seen) -> bool {
    let held = flow.sums.at_least("sndbuf_limited_ns") as f64;
    let hurts = bound(flow).is_some_and(|bound| bound < limits.of(&ENOUGH));
    held >= limits.of(&LEAST) && share(flow) >= limits.of(&NOTICED) && hurts
}

fn of_peer(
    watched: &Watched,
    limits: &Limits,
    (netns, pid, ip, port): To,
    flows: Vec<&Seen>,
) -> Option<Finding> {
    let worst = *flows.iter().max_by(|one, other| share(one).total_cmp(&share(other)))?;
    let (share, bound, buffer) = (share(worst), bound(worst)?, worst.sums.count("sndbuf_bytes")?);
    let group = Group::of(flows);
    let owner = group.owner();
    let scope = match port {
        Some(port) => Scope::backend(netns, ip, port),
        None => Scope::peer(netns, ip),
    };
    let (severity, threshold) = if share >= limits.of(&SHARE) {
        (Severity::Warning, &SHARE)
    } else {
        (Severity::Info, &NOTICED)
    };
    let name = owner.comm.clone().unwrap_or_else(|| "the sender".to_owned());
    let (at, rtt) = (end(&worst.peer), worst.rtt_min_ns.or(worst.srtt_ns)?);
    let title = format!(
        "the send buffer of {name}, {}, limits what it sends to {at}",
        format::bytes(buffer)
    );
    let sent = worst.sums.at_least("bytes_sent") as f64 / watched.seconds.max(1e-9);
    let finding = Finding::new(watched, severity, scope.by(&owner), title)
        .about(owner.comm.as_deref().unwrap_or_default())
        .because(format!(
            "All that fits into it is on its way, and nothing more can be written until some is acknowledged: \
             not more than about {}/s, however fast the path is.",
            format::bytes(bound as u64)
        ))
        .beyond(watched, "time held back by the send buffer / with data to send", share, threshold, limits)
        .beyond(watched, "what it lets through", bound, &ENOUGH, limits)
        .with(watched, "send buffer", buffer as f64, Unit::Bytes)
        .with(watched, "round trip", rtt as f64, Unit::Ns)
        .with(watched, "sent", sent, Unit::BytesPerSecond)
        .with(watched, "connections", group.flows.len() as f64, Unit::Count);
    Some(ruled(finding, worst)
        .advise(format!("let {name} not set SO_SNDBUF: the kernel then grows the buffer by itself"))
        .advise("else set it to twice the bandwidth times the round trip, or raise the third of net.ipv4.tcp_wmem")
        .advise("raise net.core.wmem_max where the process asks for more and is not given it")
        .confirm_by(ss_by(pid, &format!("dst {}", host(ip))))
        .confirm_by("sysctl net.ipv4.tcp_wmem net.core.wmem_max"))
}

fn ruled(finding: Finding, worst: &Seen) -> Finding {
    let finding = match sent_again(&worst.sums) {
        Some(n) => finding.ruling_out(format!("loss: {n} segments were sent again")),
        None => finding,
    };
    match worst.sums.count("rwnd_limited_ns") {
        Some(held) => finding.ruling_out(format!(
            "the peer's window: it held data back for {}",
            format::duration(held)
        )),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::tests::check, snapshot::Flow, watched::kit};

    fn flow(ms: u64, buffer: u64) -> Flow {
        kit::flow("f1")
            .of(7, "rsync")
            .path(40_000_000)
            .count("busy_ns", 1_000_000_000)
            .count("sndbuf_limited_ns", ms * 1_000_000)
            .count("rwnd_limited_ns", 0)
            .count("sndbuf_bytes", buffer)
            .count("bytes_sent", 300_000)
    }

    fn of(ms: u64, buffer: u64) -> Watched {
        kit::watched(&[flow(ms, buffer)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(300, 32_768), Some(Severity::Warning));
        check(&DEFINITION, &of(299, 32_768), Some(Severity::Info));
        check(&DEFINITION, &of(100, 32_768), Some(Severity::Info));
        check(&DEFINITION, &of(99, 32_768), None);
        check(&DEFINITION, &of(800, 4_790_000), Some(Severity::Warning));
        check(&DEFINITION, &of(800, 4_810_000), None);
        let short = |ms| {
            let mut watched = Watched::default();
            watched.take(&kit::snapshot(0, vec![flow(ms, 32_768)]));
            watched
        };
        check(&DEFINITION, &short(1_000), Some(Severity::Warning));
        check(&DEFINITION, &short(990), None);
    }

    #[test]
    fn a_short_path_is_fast_with_a_small_buffer() {
        check(&DEFINITION, &kit::watched(&[flow(800, 87_040).path(100_000)]), None);
    }

    #[test]
    fn wording() {
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &of(800, 16_384)));
    }
}
