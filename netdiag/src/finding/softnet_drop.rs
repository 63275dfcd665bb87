//! A CPU's backlog of received packets has no room.

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    node::{LINK_GOES, graded, part},
};
use crate::{format, watched::Watched};

const LEAST: Threshold = Threshold {
    name: "drops",
    value: 10.0,
    unit: Unit::Count,
    help: "packets in a window that CPUs had no room for, fewer say nothing",
    source: "a burst has a few",
};
const RATIO: Threshold = Threshold {
    name: "ratio",
    value: 0.0001,
    unit: Unit::Ratio,
    help: "part of all packets that they took",
    source: "healthy nodes have none; it hits all that they carry alike",
};
const CRITICAL: Threshold = Threshold {
    name: "critical_ratio",
    value: 0.01,
    unit: Unit::Ratio,
    help: "the same, from which on connections crawl",
    source: "field practice: loss above 1 % is bad",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "softnet-drop",
    help: "CPUs drop received packets since their backlog is full",
    thresholds: &[&LEAST, &RATIO, &CRITICAL],
    needs: &[],
    parts: &[],
    node: &[Part::Softnet],
    exact: &[],
    packets: &[],
    causes: &["cpu-starved"],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    Vec::from_iter(of_node(watched, limits))
}

fn of_node(watched: &Watched, limits: &Limits) -> Option<Finding> {
    let cpus = watched.softnet();
    let dropped: u64 = cpus.iter().map(|cpu| cpu.dropped).sum();
    let processed: u64 = cpus.iter().map(|cpu| cpu.processed).sum();
    let squeezed: u64 = cpus.iter().map(|cpu| cpu.time_squeeze).sum();
    let limited: Option<u64> = cpus.iter().map(|cpu| cpu.flow_limit).sum();
    let ratio = part(dropped, processed);
    if (dropped as f64) < limits.of(&LEAST) {
        return None;
    }
    let steps = [(Severity::Critical, &CRITICAL), (Severity::Warning, &RATIO)];
    let (severity, threshold) = graded(ratio, limits, &steps).unwrap_or((Severity::Info, &LEAST));
    let worst = cpus.iter().max_by_key(|cpu| cpu.dropped)?;
    let title = format!(
        "CPUs dropped {dropped} received packets ({}), their backlog being full",
        format::percent(ratio)
    );
    let finding = Finding::new(watched, severity, Scope::node(""), title)
        .confidence(0.95)
        .because(
            "Packets of virtual links, and those steered to another CPU, wait in a backlog for that CPU. Bursts \
             longer than it, or a CPU that has no time for it, lose packets before TCP sees them.",
        );
    let finding = match threshold.unit {
        Unit::Count => finding.beyond(watched, "dropped", dropped as f64, &LEAST, limits),
        _ => finding.beyond(watched, "packets dropped / all", ratio, threshold, limits).with(
            watched,
            "dropped",
            dropped as f64,
            Unit::Count,
        ),
    };
    let finding = finding
        .with(watched, &format!("of these by CPU {}", worst.cpu), worst.dropped as f64, Unit::Count)
        .with(watched, "packets taken", processed as f64, Unit::Count)
        .with(watched, "times a CPU stopped with packets left", squeezed as f64, Unit::Count);
    let finding = match limited {
        Some(n) => {
            finding.with(watched, "of one flow that had too large a share", n as f64, Unit::Count)
        }
        None => finding,
    };
    let settings = watched.node().map(|node| node.settings.iter());
    let backlog = settings.and_then(|mut all| all.find_map(|one| one.netdev_max_backlog));
    let raise = match backlog {
        Some(n) => {
            format!("raise net.core.netdev_max_backlog, here {n}, to {}", (n * 4).max(10_000))
        }
        None => "raise net.core.netdev_max_backlog".to_owned(),
    };
    let finding = match backlog {
        Some(n) => finding.with(watched, "room (netdev_max_backlog)", n as f64, Unit::Count),
        None => finding,
    };
    // Where one CPU has most of it the others could help, more room would not.
    let is_one = cpus.len() > 1 && worst.dropped * 10 > dropped * 9;
    let spread = format!(
        "spread packets over CPUs: receive packet steering (rps_cpus), or RSS queues (ethtool -L; {LINK_GOES})"
    );
    let finding = if is_one {
        finding.advise(spread).advise(raise)
    } else {
        finding.advise(raise).advise(spread)
    };
    Some(
        finding
            .ruling_out("the network: these packets had arrived on this node")
            .not_seeing("which flows and namespaces the packets belonged to: the backlogs are the node's")
            .advise("look what keeps the CPU: software interrupts, a process, the hypervisor (mpstat -P ALL 1)")
            .confirm_by("cat /proc/net/softnet_stat")
            .confirm_by("netdiag events --kind drop"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::tests::check,
        snapshot::node::{Settings, Softnet},
        watched::kit,
    };

    /// Packets that two CPUs drop and take, in the first second.
    fn of(dropped: [u64; 2], processed: u64, time_squeeze: u64) -> Watched {
        kit::with_nodes(&[], |second, node| {
            for (cpu, dropped) in (0..).zip(dropped) {
                let once = |n| if second == 0 { n } else { 0 };
                node.softnet.push(Softnet {
                    cpu,
                    dropped: once(dropped),
                    processed: once(processed / 2),
                    time_squeeze: once(time_squeeze),
                    flow_limit: Some(0),
                    backlog: None,
                });
            }
            let netdev_max_backlog = Some(1_000);
            node.settings.push(Settings { netdev_max_backlog, ..Settings::default() });
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of([9, 0], 100, 0), None);
        check(&DEFINITION, &of([10, 0], 99_990, 0), Some(Severity::Warning));
        check(&DEFINITION, &of([10, 0], 100_100, 0), Some(Severity::Info));
        check(&DEFINITION, &of([60, 40], 9_900, 0), Some(Severity::Critical));
        check(&DEFINITION, &of([60, 40], 9_910, 0), Some(Severity::Warning));
    }

    /// A CPU whose budget is over comes back for the rest.
    #[test]
    fn stopping_alone_loses_nothing() {
        check(&DEFINITION, &of([0, 0], 100_000, 500), None);
    }

    #[test]
    fn wording() {
        let watched = of([400, 10], 100_000, 20);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
