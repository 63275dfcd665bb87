//! Applications, or the kernel's own work for the network, do not get the CPU time that they need.

use std::collections::BTreeSet;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit,
    advice::quoted,
    node::{LINK_GOES, graded},
};
use crate::{
    format,
    snapshot::{
        Owner,
        node::{Cpu, CpuShare, Throttled},
    },
    watched::{Seen, Watched},
};

const THROTTLED: Threshold = Threshold {
    name: "throttled",
    value: 0.25,
    unit: Unit::Ratio,
    help: "part of the periods in which a control group was held back by its CPU limit",
    source: "the alert CPUThrottlingHigh of kubernetes-mixin: 25 %",
};
const THROTTLED_CRITICAL: Threshold = Threshold {
    name: "throttled_critical",
    value: 0.75,
    unit: Unit::Ratio,
    help: "the same, from which on it hardly works",
    source: "three of four periods end in waiting",
};
const LEAST_PERIODS: Threshold = Threshold {
    name: "least_periods",
    value: 20.0,
    unit: Unit::Count,
    help: "periods in a window in which it had something to run, fewer say nothing",
    source: "a period is 0.1 s: 2 s of work",
};
const SOFTIRQ: Threshold = Threshold {
    name: "softirq",
    value: 0.8,
    unit: Unit::Ratio,
    help: "part of a CPU's time in software interrupts, where packets are received",
    source: "beyond it packets wait for ksoftirqd, and processes for the CPU",
};
const STEAL: Threshold = Threshold {
    name: "steal",
    value: 0.1,
    unit: Unit::Ratio,
    help: "part of all CPU time that the hypervisor took",
    source: "field practice: above 10 % neighbours are noticed",
};
const STEAL_CRITICAL: Threshold = Threshold {
    name: "steal_critical",
    value: 0.3,
    unit: Unit::Ratio,
    help: "the same, from which on nothing is on time",
    source: "a third of the time is missing",
};
const BUSY: Threshold = Threshold {
    name: "busy",
    value: 0.95,
    unit: Unit::Ratio,
    help: "part of all CPU time that is used, for an info",
    source: "busy CPUs are what batches are for; it matters where something is slow besides",
};
const PRESSURE: Threshold = Threshold {
    name: "pressure",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the time in which some thread waited for a CPU, with the above",
    source: "the larger part",
};
const SECONDS: Threshold = Threshold {
    name: "seconds",
    value: 5.0,
    unit: Unit::S,
    help: "how much time must have been seen for shares of the whole node",
    source: "shorter is a burst",
};

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "cpu-starved",
    help: "applications or the kernel's network work do not get the CPU time that they need",
    thresholds: &[
        &THROTTLED,
        &THROTTLED_CRITICAL,
        &LEAST_PERIODS,
        &SOFTIRQ,
        &STEAL,
        &STEAL_CRITICAL,
        &BUSY,
        &PRESSURE,
        &SECONDS,
    ],
    needs: &[],
    parts: &[],
    node: &[Part::Cpu, Part::Cgroups],
    exact: &[],
    packets: &[],
    causes: &[],
    rule,
};

fn rule(watched: &Watched, limits: &Limits) -> Vec<Finding> {
    let groups = watched.throttled();
    let held = groups.iter().filter_map(|group| held_back(watched, limits, group));
    // Of the node there is one, the worst: they would all have the same scope.
    held.chain(of_node(watched, limits)).collect()
}

/// Flows of processes in a control group, or in one below it.
fn inside<'a>(watched: &'a Watched, group: &Throttled) -> Vec<&'a Seen> {
    let pids = group.pids.as_deref().unwrap_or_default();
    let is_in = |flow: &&Seen| {
        flow.owner.pid.is_some_and(|pid| pids.binary_search(&pid).is_ok())
            || flow.owner.lives_in(&group.cgroup)
    };
    watched.flows.values().filter(is_in).collect()
}

/// Who is held back: what lives in a control group, and processes with these flows of which their own path does not
/// say that they do. Neither the node nor anybody else is.
fn held(group: &Throttled, flows: &[&Seen]) -> Vec<Owner> {
    let place = Owner { cgroup: Some(group.cgroup.clone()), ..group.owner.clone() };
    let others = flows.iter().filter(|flow| !flow.owner.lives_in(&group.cgroup));
    let pids: BTreeSet<Option<u32>> = others.map(|flow| flow.owner.pid).collect();
    let process = |pid| Owner { pid, ..Owner::default() };
    std::iter::once(place).chain(pids.into_iter().map(process)).collect()
}

/// Whether a flow's cgroup and this one are of one hierarchy, or named alike in all: in version 1 CPU limits have a
/// hierarchy of their own, in which a process may be elsewhere than in the one that owners are told by.
fn is_comparable(flow: &Seen, group: &Throttled) -> bool {
    let first = |path: &str| path.trim_matches('/').split('/').next().map(str::to_owned);
    let cgroup = flow.owner.cgroup.as_deref();
    cgroup.is_some_and(|cgroup| is_placed(group) || first(cgroup) == first(&group.cgroup))
}

/// Whether processes say by their own cgroup that they are in this one.
const fn is_placed(group: &Throttled) -> bool {
    group.unified || group.owner.container.is_some() || group.owner.pod_uid.is_some()
}

fn held_back(watched: &Watched, limits: &Limits, group: &Throttled) -> Option<Finding> {
    let ratio = group.throttled_periods as f64 / group.periods.max(1) as f64;
    let steps = [(Severity::Critical, &THROTTLED_CRITICAL), (Severity::Warning, &THROTTLED)];
    let (severity, threshold) = graded(ratio, limits, &steps)?;
    if (group.periods as f64) < limits.of(&LEAST_PERIODS) {
        return None;
    }
    let flows = inside(watched, group);
    // By processes some are found, and never all: others have ended, or are in groups below.
    let knows = !flows.is_empty() || watched.flows.values().any(|flow| is_comparable(flow, group));
    // Of whom filters ask for nothing it is not known what he has to do with the network.
    if flows.is_empty() && watched.filtered && (knows || is_placed(group)) {
        return None;
    }
    // Whom nobody asks and who asks nobody is no matter of the network.
    let severity = if knows && flows.is_empty() { Severity::Info } else { severity };
    let scope = match flows.first() {
        Some(first) if flows.iter().all(|flow| flow.owner.pid == first.owner.pid) => {
            Scope::process(first.netns, &first.owner)
        }
        _ => Scope::node("").by(&group.owner),
    };
    let cgroup = &group.cgroup;
    let title = format!(
        "the CPU limit of {cgroup} holds it back in {} of its periods",
        format::percent(ratio)
    );
    let per_period = group.throttled_us as f64 * 1e3 / group.throttled_periods.max(1) as f64;
    let finding = Finding::new(watched, severity, scope, title)
        .about(cgroup.as_str())
        .felt_within(held(group, &flows))
        .because(
            "When it has used its CPU time of a period, all its threads stop until the next one begins: requests \
             that it has are answered late, connections are accepted late, and the network is not to blame.",
        )
        .beyond(watched, "periods in which it was held back", ratio, threshold, limits)
        .with(watched, "periods with work", group.periods as f64, Unit::Count)
        .with(watched, "held back in one, all its CPUs", per_period, Unit::Ns)
        .with(watched, "held back, all together", group.throttled_us as f64 * 1e3, Unit::Ns);
    let finding = match (group.quota_us, group.period_us) {
        (Some(quota), Some(period)) if period > 0 => {
            finding.with(watched, "limit, of one CPU", quota as f64 / period as f64, Unit::Ratio)
        }
        _ => finding,
    };
    let finding = if knows {
        finding
    } else {
        finding.confidence(0.7).not_seeing(match group.pids {
            Some(_) => "which connections it has: processes that had them may have ended, or be in groups below",
            None => "which processes and connections the control group has",
        })
    };
    Some(
        finding
            .advise("raise or remove the CPU limit (Kubernetes: resources.limits.cpu); requests alone share fairly")
            .advise(
                "fewer threads: a runtime that counts the node's CPUs uses up the limit at once (GOMAXPROCS, \
                 -XX:ActiveProcessorCount)",
            )
            .advise("cpu.max.burst lets it save up for bursts")
            // Version 2 has it at the root, version 1 below the controller's name, and a limit in two files.
            .confirm_by(format!(
                "head /sys/fs/cgroup/{{,cpu/}}{}/cpu.{{stat,max,cfs_*_us}} 2>/dev/null",
                quoted(cgroup.trim_matches('/'))
            ))
            .confirm_by("systemd-cgtop -c"),
    )
}

/// What share it had of the window, by the intervals' lengths; and of which CPU last.
fn share(
    watched: &Watched,
    of: impl Fn(&Cpu) -> CpuShare,
    what: impl Fn(&CpuShare) -> f64,
) -> Option<(f64, Option<u32>)> {
    let (mut seconds, mut sum, mut which) = (0.0, 0.0, None);
    for interval in &watched.intervals {
        let Some(cpu) = &interval.node.cpu else { continue };
        let share = of(cpu);
        seconds += interval.seconds;
        sum += what(&share) * interval.seconds;
        which = share.cpu;
    }
    (seconds > 0.0).then(|| (sum / seconds, which))
}

/// What a run of so many seconds is too short for.
#[must_use]
pub fn not_observable(seconds: f64) -> Option<String> {
    (seconds > 0.0 && seconds + 0.1 < SECONDS.value).then(|| {
        let least = format::duration((SECONDS.value * 1e9) as u64);
        format!("cpu-starved: whether the whole node is, which takes {least} of watching (`-d`)")
    })
}

/// Whether this node's own CPUs keep packets and threads waiting: whatever takes long in it may take long for that.
pub(super) fn is_late(watched: &Watched, limits: &Limits) -> bool {
    of_node(watched, limits).is_some()
}

fn of_node(watched: &Watched, limits: &Limits) -> Option<Finding> {
    if watched.seconds + 0.1 < limits.of(&SECONDS) {
        return None;
    }
    let (steal, _) = share(watched, |cpu| cpu.mean, |share| share.steal_ratio)?;
    let (softirq, cpu) = share(watched, |cpu| cpu.most_softirq, |share| share.softirq_ratio)?;
    let (busy, _) = share(watched, |cpu| cpu.mean, |share| share.busy_ratio)?;
    let waited = watched.intervals.iter().map(|one| {
        let pressure = one.node.cpu.and_then(|cpu| cpu.pressure);
        pressure.map(|pressure| pressure.some_us)
    });
    let waited: Option<u64> = waited.sum();
    let pressure = waited.map(|us| us as f64 / 1e6 / watched.seconds);
    let start = |severity, title: String| Finding::new(watched, severity, Scope::node(""), title);
    let steps = [(Severity::Critical, &STEAL_CRITICAL), (Severity::Warning, &STEAL)];
    let finding = if let Some((severity, threshold)) = graded(steal, limits, &steps) {
        start(severity, format!("the hypervisor takes {} of the CPU time", format::percent(steal)))
            .because(
                "Other machines on the same host have it. Whatever runs here stops now and then for \
                 milliseconds, packets and timers too.",
            )
            .beyond(watched, "CPU time taken", steal, threshold, limits)
            .with(watched, "software interrupts of the CPU that has most", softirq, Unit::Ratio)
            .advise("ask the operator of the host: CPUs promised twice, or credits of this instance used up")
            .advise("a type of machine with CPUs of its own")
            .confirm_by("mpstat -P ALL 1 5")
    } else if let Some((severity, threshold)) =
        graded(softirq, limits, &[(Severity::Warning, &SOFTIRQ)])
    {
        let which = cpu.map_or_else(|| "a CPU".to_owned(), |cpu| format!("CPU {cpu}"));
        start(
            severity,
            format!("{which} spends {} of its time receiving packets", format::percent(softirq)),
        )
        .because(
            "Packets beyond that wait in the card's ring or the backlog, or are dropped, and processes on \
             that CPU do not run.",
        )
        .beyond(watched, "software interrupts of one CPU", softirq, threshold, limits)
        .with(watched, "all CPUs busy", busy, Unit::Ratio)
        .advise(format!(
            "spread packets over CPUs: interrupts (irqbalance), steering (rps_cpus), or RSS queues (ethtool -L; \
             {LINK_GOES})"
        ))
        .advise("look what each packet costs: long packet filters, tunnels, captures (perf top)")
        .confirm_by("mpstat -P ALL 1 5")
        .confirm_by("grep . /proc/softirqs")
    } else {
        let pressure = pressure.filter(|part| *part >= limits.of(&PRESSURE))?;
        if busy < limits.of(&BUSY) {
            return None;
        }
        start(Severity::Info, "all CPUs are busy, and threads wait for them".to_owned())
            .because("Whoever wants to run waits his turn: answers and accepts are late by that.")
            .beyond(watched, "CPU time used", busy, &BUSY, limits)
            .beyond(watched, "time in which a thread waited", pressure, &PRESSURE, limits)
            .advise("find who uses them, and whether that is meant to be now")
            .advise("give what must be quick a larger weight (cpu.weight, nice)")
            .confirm_by("top -b -n 1 -w 80")
    };
    Some(match pressure {
        Some(part) => {
            finding.with(watched, "threads waited for a CPU, part of the time", part, Unit::Ratio)
        }
        None => {
            finding.not_seeing("how long threads waited: this kernel has no /proc/pressure/cpu")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{ScopeKind, tests::check},
        snapshot::node::Pressure,
        watched::kit,
    };

    fn throttled(periods: u64, held: u64) -> Throttled {
        Throttled {
            cgroup: "/pods/render".to_owned(),
            unified: false,
            owner: Owner { cgroup: Some("/pods/render".to_owned()), ..Owner::default() },
            pids: None,
            periods,
            throttled_periods: held,
            throttled_us: held * 60_000,
            quota_us: Some(5_000),
            period_us: Some(100_000),
        }
    }

    /// Held back in the first second only.
    fn of(periods: u64, held: u64, cgroup: Option<&str>) -> Watched {
        let mut flow = kit::flow("f1").of(77, "render");
        flow.owner.cgroup = cgroup.map(str::to_owned);
        kit::with_nodes(&[flow], |second, node| {
            if second == 0 {
                node.throttled.push(throttled(periods, held));
            }
        })
    }

    fn cpu(steal: f64, softirq: f64, busy: f64, some_us: u64) -> Watched {
        let mean = CpuShare { busy_ratio: busy, steal_ratio: steal, ..CpuShare::default() };
        let most_softirq = CpuShare { cpu: Some(3), softirq_ratio: softirq, ..CpuShare::default() };
        kit::with_node(&[], |node| {
            node.cpu = Some(Cpu {
                cpus: 4,
                mean,
                busiest: mean,
                most_softirq,
                runnable: None,
                pressure: Some(Pressure { some_us }),
            });
        })
    }

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(100, 24, None), None);
        check(&DEFINITION, &of(100, 25, None), Some(Severity::Warning));
        check(&DEFINITION, &of(100, 75, None), Some(Severity::Critical));
        check(&DEFINITION, &of(19, 19, None), None);
        check(&DEFINITION, &of(20, 20, None), Some(Severity::Critical));
        check(&DEFINITION, &cpu(0.09, 0.0, 0.5, 0), None);
        check(&DEFINITION, &cpu(0.11, 0.0, 0.5, 0), Some(Severity::Warning));
        check(&DEFINITION, &cpu(0.31, 0.0, 0.5, 0), Some(Severity::Critical));
        check(&DEFINITION, &cpu(0.0, 0.79, 0.5, 0), None);
        check(&DEFINITION, &cpu(0.0, 0.81, 0.5, 0), Some(Severity::Warning));
        check(&DEFINITION, &cpu(0.0, 0.1, 0.96, 490_000), None);
        check(&DEFINITION, &cpu(0.0, 0.1, 0.96, 510_000), Some(Severity::Info));
        check(&DEFINITION, &cpu(0.0, 0.1, 0.94, 900_000), None);
    }

    #[test]
    fn who_has_no_connections_is_no_matter_of_the_network() {
        check(&DEFINITION, &of(100, 90, Some("/pods/renderer")), Some(Severity::Info));
        // Of another hierarchy, so that it is not known who is in it.
        check(&DEFINITION, &of(100, 90, Some("/session/1")), Some(Severity::Critical));
        let watched = of(100, 90, Some("/pods/render/main"));
        check(&DEFINITION, &watched, Some(Severity::Critical));
        let scope = rule(&watched, &Limits::default()).remove(0).scope;
        assert_eq!(scope.name, "render/77");
    }

    #[test]
    fn of_whom_filters_leave_out_nothing_is_told() {
        for (cgroup, expected) in [
            ("/pods/renderer", None),
            ("/pods/render/main", Some(Severity::Critical)),
            ("/session/1", Some(Severity::Critical)),
        ] {
            let mut watched = of(100, 90, Some(cgroup));
            watched.filtered = true;
            check(&DEFINITION, &watched, expected);
        }
    }

    /// Where limits and owners have one hierarchy, nobody with connections is in it.
    #[test]
    fn of_one_hierarchy_it_is_known_who_is_in_it() {
        let mut flow = kit::flow("f1").of(77, "render");
        flow.owner.cgroup = Some("/session/1".to_owned());
        let watched = kit::with_nodes(&[flow], |second, node| {
            if second == 0 {
                node.throttled.push(Throttled { unified: true, ..throttled(100, 90) });
            }
        });
        check(&DEFINITION, &watched, Some(Severity::Info));
    }

    /// Where CPU limits have a hierarchy of their own, processes tell whose they are.
    #[test]
    fn processes_tell_whose_flows_are_held_back() {
        let with = |pids: Option<&[u32]>| {
            let mut flow = kit::flow("f1").of(77, "render");
            flow.owner.cgroup = Some("/session/1".to_owned());
            let pids = pids.map(<[_]>::to_vec);
            kit::with_nodes(&[flow], |second, node| {
                if second == 0 {
                    node.throttled.push(Throttled { pids: pids.clone(), ..throttled(100, 90) });
                }
            })
        };
        let scope = |pids| rule(&with(pids), &Limits::default()).remove(0).scope;
        check(&DEFINITION, &with(Some(&[5, 77])), Some(Severity::Critical));
        assert_eq!(scope(Some(&[5, 77])).name, "render/77");
        // Those that had the flows may have ended.
        for pids in [Some(&[5][..]), Some(&[]), None] {
            check(&DEFINITION, &with(pids), Some(Severity::Critical));
            assert_eq!(scope(pids).kind, ScopeKind::Node);
        }
    }

    #[test]
    fn nobody_else_is_held_back() {
        let flow = |id: &str, pid, cgroup: &str| {
            let mut flow = kit::flow(id).of(pid, "render");
            flow.owner.cgroup = Some(cgroup.to_owned());
            flow
        };
        let flows = [flow("f1", 77, "/pods/render/a"), flow("f2", 78, "/session/1")];
        let watched = kit::with_nodes(&flows, |second, node| {
            if second == 0 {
                node.throttled.push(Throttled { pids: Some(vec![78]), ..throttled(100, 90) });
            }
        });
        let held = rule(&watched, &Limits::default()).remove(0);
        assert_eq!(held.scope.kind, ScopeKind::Node);
        let is_of = |scope| Finding::new(&watched, Severity::Info, scope, "").is_of(&held.within);
        for (pid, cgroup, expected) in [
            (79, "/pods/render/b", true),
            (78, "/session/1", true),
            (80, "/session/1", false),
            (81, "/pods/renderer", false),
        ] {
            let owner = flow("f", pid, cgroup).owner;
            assert_eq!(is_of(Scope::process(None, &owner)), expected, "{pid} {cgroup}");
            let asked = Scope::backend(None, "10.0.0.2".parse().expect("an address"), 443);
            assert!(!is_of(asked.by(&owner)), "who asks is not who answers");
        }
        assert!(!is_of(Scope::node("")) && !is_of(Scope::namespace(kit::NETNS)));
    }

    #[test]
    fn a_moment_is_none() {
        let mut watched = cpu(0.5, 0.9, 1.0, 1_000_000);
        watched.intervals.truncate(4);
        watched.seconds = 4.0;
        check(&DEFINITION, &watched, None);
    }

    #[test]
    fn wording() {
        let watched = of(100, 60, Some("/pods/render"));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
        let watched = cpu(0.0, 0.93, 0.5, 300_000);
        insta::assert_snapshot!("softirq", crate::finding::tests::wording(&DEFINITION, &watched));
    }

    #[test]
    fn a_run_that_is_too_short_says_so() {
        for (seconds, is_said) in [(0.0, false), (3.0, true), (4.95, false), (60.0, false)] {
            assert_eq!(not_observable(seconds).is_some(), is_said, "{seconds}");
        }
    }
}
