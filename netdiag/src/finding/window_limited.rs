//! A peer's receive window is too small for the distance.

use netdiag_common::signal::Signal;

use super::{
    Definition, Finding, Limits, Scope, Severity, Threshold, Unit,
    advice::{LOSS_UNTOLD, inside, many, sent_again, ss_of},
};
use crate::{
    format,
    watched::{Group, Peer, Seen, Watched},
};

const SHARE: Threshold = Threshold {
    name: "share",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the time with data to send in which the peer's window held it back",
    source: "the larger part decides what the limit is",
};
const LEAST_BUSY: Threshold = Threshold {
    name: "least_busy",
    value: 2e9,
    unit: Unit::Ns,
    help: "time with data to send in a window, less says nothing",
    source: "some twenty round trips of the farthest peers",
};
const BANDWIDTH: Threshold = Threshold {
    name: "bandwidth",
    value: 12.5e6,
    unit: Unit::BytesPerSecond,
    help: "what a window must let through at its distance",
    source: "100 Mbit/s; a window below bandwidth x RTT caps throughput without any loss (RFC 7323)",
};
const FILLED: Threshold = Threshold {
    name: "filled",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of a window per round trip that is really used; less is a peer that reads slowly",
    source: "a window that is the limit is full all the time",
};
/// Part of the looks at a window that may find it closed. One that is too small is closed for moments, until its reader
/// has read; a reader that is slow keeps it closed for longer, and from 30 % of the time on that is `peer-not-reading`.
const CLOSED: f64 = 0.25;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "window-limited",
    help: "a peer's receive window is too small for the distance",
    thresholds: &[&SHARE, &LEAST_BUSY, &BANDWIDTH, &FILLED],
    needs: &[Signal::Socket],
    parts: &[],
    node: &[],
    exact: &[],
    packets: &[],
    causes: &["tcp-memory-pressure", "peer-not-reading", "high-rtt", "packet-loss", "bufferbloat"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let peers = watched.by_peer();
    let limited = peers.iter().filter_map(|(&(netns, ip), group)| {
        let limited = group.only(|flow| Limited::of(flow, limits).is_some())?;
        let worst = limited.flows.iter().filter_map(|flow| Limited::of(flow, limits));
        let worst = worst.min_by(|one, other| one.bound().total_cmp(&other.bound()))?;
        Some(told(watched, limits, &limited, &worst, (netns, ip)))
    });
    limited.collect()
}

/// A flow that its peer's window limits.
struct Limited {
    share: f64,
    window: u64,
    rtt_ns: u64,
    rate: f64,
    filled: f64,
}

impl Limited {
    fn of(flow: &Seen, limits: &Limits) -> Option<Self> {
        let busy_ns = flow.sums.count("busy_ns")?;
        let share = flow.sums.ratio("rwnd_limited_ns", "busy_ns")?;
        let windows = flow.course.windows;
        let (window, rtt_ns) = (windows.mean_bytes()?, flow.srtt_ns.or(flow.rtt_min_ns)?);
        let rate = flow.sums.count("bytes_acked")? as f64 / (busy_ns as f64 / 1e9).max(1e-9);
        let limited = Self { share, window, rtt_ns, rate, filled: 0.0 };
        let limited = Self { filled: rate / limited.bound(), ..limited };
        let closed = f64::from(windows.closed) / f64::from(windows.closed + windows.open);
        (busy_ns as f64 >= limits.of(&LEAST_BUSY)
            && share >= limits.of(&SHARE)
            && closed < CLOSED
            && limited.bound() < limits.of(&BANDWIDTH)
            && limited.filled >= limits.of(&FILLED))
        .then_some(limited)
    }

    /// What the window lets through: one of it each round trip.
    fn bound(&self) -> f64 {
        self.window as f64 / (self.rtt_ns.max(1) as f64 / 1e9)
    }
}

fn told(
    watched: &Watched,
    limits: &Limits,
    group: &Group<'_>,
    limited: &Limited,
    (netns, ip): Peer,
) -> Finding {
    let Limited { share, window, rtt_ns, rate, filled } = *limited;
    let rtt = format::duration(rtt_ns);
    let title = format!(
        "{ip}'s receive window of {} lets through {}/s at a distance of {rtt}",
        format::bytes(window),
        format::bytes(limited.bound() as u64),
    );
    let needed = limits.of(&BANDWIDTH) * rtt_ns as f64 / 1e9;
    let windows = group.flows.iter().map(|flow| flow.course.windows);
    let (closed, open) =
        windows.fold((0, 0), |(closed, open), one| (closed + one.closed, open + one.open));
    let scope = Scope::peer(netns, ip).by(&group.owner());
    let finding = Finding::new(watched, Severity::Warning, scope, title)
        .because(
            "No more than one window can be on its way in a round trip. The sender had more to send and \
             waited for the peer's window, which is full all the time and does not close: it is too small \
             for the distance.",
        )
        .beyond(watched, "time limited by the window / busy", share, &SHARE, limits)
        .beyond(watched, "window / round trip", limited.bound(), &BANDWIDTH, limits)
        .beyond(watched, "part of that in use", filled, &FILLED, limits)
        .with(watched, "acknowledged", rate, Unit::BytesPerSecond)
        .with(watched, "connections limited so", group.flows.len() as f64, Unit::Count)
        .ruling_out(format!(
            "the peer not reading: its window was closed in {closed} of {}",
            many((closed + open) as usize, "look"),
        ))
        .not_seeing("whether the peer's application set the size (SO_RCVBUF) or its system did");
    let finding = match sent_again(&group.sums) {
        Some(n) => finding.ruling_out(format!("loss: {n} segments sent again after loss")),
        None => finding.not_seeing(LOSS_UNTOLD),
    };
    // The memory of this node makes no window of another one small.
    let finding = match group.is_remote() {
        true => finding.clearing(&["tcp-memory-pressure"]),
        false => finding,
    };
    finding
        .advise(format!(
            "on {ip}: drop SO_RCVBUF from the application, which turns the kernel's own tuning off"
        ))
        .advise(format!(
            "on {ip}: raise the third value of net.ipv4.tcp_rmem to {} at least, and see that \
             net.ipv4.tcp_window_scaling is 1 on both ends",
            format::bytes(2 * needed as u64)
        ))
        .advise("several connections at once, or a server that is nearer, help without that")
        .confirm_by(inside(group, &ss_of(ip)))
        .confirm_by(format!(
            "netdiag live --peer {ip} -o json | jq '.flows[].counts.rwnd_limited_ns'"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::{check, of_loss},
        watched::kit,
    };

    /// Of each second so many percent are limited, on a path of 80 ms, with this window and rate.
    fn of(percent: u64, window: u64, rate: u64) -> Watched {
        kit::watched(&[kit::flow("f1")
            .path(80_000_000)
            .count("busy_ns", 1_000_000_000)
            .count("rwnd_limited_ns", percent * 10_000_000)
            .count("snd_wnd_bytes", window)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", 0)
            .count("bytes_acked", rate)])
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(50, 48_000, 590_000), Some(Severity::Warning));
        check(&DEFINITION, &of(49, 48_000, 590_000), None);
        // 12.5 MB/s
        check(&DEFINITION, &of(90, 999_000, 12_000_000), Some(Severity::Warning));
        check(&DEFINITION, &of(90, 1_001_000, 12_000_000), None);
        // Half of 600 kB/s
        check(&DEFINITION, &of(90, 48_000, 301_000), Some(Severity::Warning));
        check(&DEFINITION, &of(90, 48_000, 299_000), None);
    }

    /// So long in each second, with nobody who tells what is sent again.
    fn short(busy: u64) -> Watched {
        let flow = kit::flow("f1").path(80_000_000).count("snd_wnd_bytes", 48_000);
        let acked = busy / 10_000 * 6;
        kit::watched(&[flow
            .count("busy_ns", busy)
            .count("rwnd_limited_ns", busy)
            .count("bytes_acked", acked)])
    }

    #[test]
    fn a_short_transfer_says_nothing() {
        check(&DEFINITION, &short(200_000_000), Some(Severity::Warning));
        check(&DEFINITION, &short(199_000_000), None);
    }

    #[test]
    fn a_window_that_closes_is_a_peer_that_does_not_read() {
        let closing = |every: u64| {
            kit::series(|second| {
                let window = if second % every == 0 { 0 } else { 48_000 };
                vec![
                    kit::flow("f1")
                        .path(80_000_000)
                        .count("busy_ns", 1_000_000_000)
                        .count("rwnd_limited_ns", 1_000_000_000)
                        .count("snd_wnd_bytes", window)
                        .count("bytes_acked", 590_000),
                ]
            })
        };
        // In three of ten looks, and in two.
        check(&DEFINITION, &closing(4), None);
        check(&DEFINITION, &closing(5), Some(Severity::Warning));
    }

    #[test]
    fn windows_of_all_its_connections_were_looked_at() {
        let flows = ["f1", "f2"].map(|id| {
            kit::flow(id)
                .path(80_000_000)
                .count("busy_ns", 1_000_000_000)
                .count("rwnd_limited_ns", 900_000_000)
                .count("snd_wnd_bytes", 48_000)
                .count("bytes_acked", 590_000)
        });
        let found = rule(&kit::watched(&flows), &Limits::default()).remove(0);
        let said = "its window was closed in 0 of 20 looks";
        assert!(found.ruled_out.iter().any(|line| line.ends_with(said)), "{found:#?}");
    }

    #[test]
    fn loss_that_nobody_tells_of_is_not_ruled_out() {
        assert_eq!(of_loss(&DEFINITION, &of(93, 48_000, 570_000)), (true, false));
        assert_eq!(of_loss(&DEFINITION, &short(1_000_000_000)), (false, true));
    }

    /// Both ends share its memory only where both are here.
    #[test]
    fn memory_explains_windows_of_this_node_alone() {
        let of = |ip: &str| {
            let flow = kit::flow("f1").path(80_000_000).count("snd_wnd_bytes", 48_000);
            let limited = flow.count("busy_ns", 1_000_000_000).count("bytes_acked", 590_000);
            let watched = kit::watched(&[limited.count("rwnd_limited_ns", 900_000_000).to(ip, 80)]);
            rule(&watched, &Limits::default())[0].cleared.contains(&"tcp-memory-pressure")
        };
        assert_eq!(["10.0.0.2", "127.0.0.1"].map(of), [true, false]);
    }

    #[test]
    fn wording() {
        let watched = of(93, 48_000, 570_000);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
