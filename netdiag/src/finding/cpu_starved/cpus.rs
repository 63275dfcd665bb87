//! The CPUs of the node as a whole: the hypervisor, packets, or all that runs take more of them than there is.

use std::collections::BTreeSet;

use crate::{
    finding::{
        Finding, Limits, Scope, Severity, Threshold, Unit,
        node::{LINK_GOES, graded},
    },
    format,
    snapshot::node::{Cpu, CpuShare},
    watched::Watched,
};

pub(super) const SOFTIRQ: Threshold = Threshold {
    name: "softirq",
    value: 0.8,
    unit: Unit::Ratio,
    help: "part of a CPU's time in software interrupts, where packets are received",
    source: "beyond it packets wait for ksoftirqd, and processes for the CPU",
};
pub(super) const STEAL: Threshold = Threshold {
    name: "steal",
    value: 0.1,
    unit: Unit::Ratio,
    help: "part of all CPU time that the hypervisor took",
    source: "field practice: above 10 % neighbours are noticed",
};
pub(super) const STEAL_CRITICAL: Threshold = Threshold {
    name: "steal_critical",
    value: 0.3,
    unit: Unit::Ratio,
    help: "the same, from which on nothing is on time",
    source: "a third of the time is missing",
};
pub(super) const BUSY: Threshold = Threshold {
    name: "busy",
    value: 0.95,
    unit: Unit::Ratio,
    help: "part of all CPU time that is used, for an info",
    source: "busy CPUs are what batches are for; it matters where something is slow besides",
};
pub(super) const PRESSURE: Threshold = Threshold {
    name: "pressure",
    value: 0.5,
    unit: Unit::Ratio,
    help: "part of the time in which some thread waited for a CPU, with the above",
    source: "the larger part",
};
pub(super) const SECONDS: Threshold = Threshold {
    name: "seconds",
    value: 5.0,
    unit: Unit::S,
    help: "how much time must have been seen for shares of the whole node",
    source: "shorter is a burst",
};

/// What share it had of the window, by the intervals' lengths; and of which CPU, where it was the same one all along.
fn share(
    watched: &Watched,
    of: impl Fn(&Cpu) -> CpuShare,
    what: impl Fn(&CpuShare) -> f64,
) -> Option<(f64, Option<u32>)> {
    let (mut seconds, mut sum, mut cpus) = (0.0, 0.0, BTreeSet::new());
    for interval in &watched.intervals {
        let Some(cpu) = &interval.node.cpu else { continue };
        let share = of(cpu);
        seconds += interval.seconds;
        sum += what(&share) * interval.seconds;
        cpus.insert(share.cpu);
    }
    // Interrupts may have been moved on meanwhile: then none of these had it in the whole window.
    let which = if cpus.len() == 1 { cpus.pop_first().flatten() } else { None };
    (seconds > 0.0).then(|| (sum / seconds, which))
}

/// What a run of so many seconds is too short for.
#[must_use]
pub fn not_observable(seconds: f64, limits: &Limits) -> Option<String> {
    let least = limits.of(&SECONDS);
    (seconds > 0.0 && seconds + 0.1 < least).then(|| {
        let least = format::duration((least * 1e9) as u64);
        format!("cpu-starved: whether the whole node is, which takes {least} of watching (`-d`)")
    })
}

/// Whether this node's own CPUs keep packets and threads waiting: whatever takes long in it may take long for that.
pub(in crate::finding) fn is_late(watched: &Watched, limits: &Limits) -> bool {
    of_node(watched, limits).is_some()
}

/// The worst that is so.
pub(super) fn of_node(watched: &Watched, limits: &Limits) -> Option<Finding> {
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
        finding::{cpu_starved::DEFINITION, tests::check},
        snapshot::node::Pressure,
        watched::kit,
    };

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
    fn a_moment_is_none() {
        let seconds = |n: u8| {
            let mut watched = cpu(0.5, 0.9, 1.0, 1_000_000);
            watched.intervals.truncate(n.into());
            watched.seconds = n.into();
            watched
        };
        check(&DEFINITION, &seconds(4), None);
        check(&DEFINITION, &seconds(5), Some(Severity::Critical));
    }

    #[test]
    fn a_cpu_is_named_that_has_it_all_along() {
        let mut watched = cpu(0.0, 0.93, 0.5, 0);
        let title = |watched: &Watched| of_node(watched, &Limits::default()).map(|it| it.title);
        assert!(title(&watched).is_some_and(|title| title.starts_with("CPU 3 spends")));
        let last = watched.intervals.last_mut().and_then(|last| last.node.cpu.as_mut());
        last.expect("an interval").most_softirq.cpu = Some(1);
        assert!(title(&watched).is_some_and(|title| title.starts_with("a CPU spends")));
    }

    #[test]
    fn wording() {
        let watched = cpu(0.0, 0.93, 0.5, 300_000);
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }

    #[test]
    fn a_run_that_is_too_short_says_so() {
        for (seconds, is_said) in [(0.0, false), (3.0, true), (4.95, false), (60.0, false)] {
            let said = not_observable(seconds, &Limits::default());
            assert_eq!(said.is_some(), is_said, "{seconds}");
        }
        // By the threshold that the rule goes by.
        let given = |least: f64| not_observable(3.0, &Limits::new(vec![("seconds", least)]));
        assert_eq!(given(2.0), None);
        assert!(given(20.0).is_some_and(|line| line.contains("takes 20.0s of watching")));
    }
}
