//! Applications, or the kernel's own work for the network, do not get the CPU time that they need.

use std::collections::BTreeSet;

use super::{
    Definition, Finding, Limits, Part, Scope, Severity, Threshold, Unit, advice::quoted,
    node::graded,
};
use crate::{
    format,
    snapshot::{Owner, node::Throttled},
    watched::{Seen, Watched},
};

mod cpus;

pub(super) use cpus::is_late;
pub use cpus::not_observable;

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

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    id: "cpu-starved",
    help: "applications or the kernel's network work do not get the CPU time that they need",
    thresholds: &[
        &THROTTLED,
        &THROTTLED_CRITICAL,
        &LEAST_PERIODS,
        &cpus::SOFTIRQ,
        &cpus::STEAL,
        &cpus::STEAL_CRITICAL,
        &cpus::BUSY,
        &cpus::PRESSURE,
        &cpus::SECONDS,
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
    held.chain(cpus::of_node(watched, limits)).collect()
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
    let scopes = flows.iter().map(|flow| Scope::process(flow.netns, &flow.owner));
    let scope = match scopes.reduce(|one, other| one.in_common(&other)) {
        Some(one) if one.owner.pid.is_some() => one,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        finding::{ScopeKind, tests::check},
        snapshot::Flow,
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

    #[test]
    fn thresholds() {
        check(&DEFINITION, &of(100, 24, None), None);
        check(&DEFINITION, &of(100, 25, None), Some(Severity::Warning));
        check(&DEFINITION, &of(100, 75, None), Some(Severity::Critical));
        check(&DEFINITION, &of(19, 19, None), None);
        check(&DEFINITION, &of(20, 20, None), Some(Severity::Critical));
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

    /// Of processes that have ended their ids are not known.
    #[test]
    fn one_process_is_named_where_it_is_known_to_be_one() {
        let flow = |id: &str, pid, comm: &str| {
            let cgroup = Some("/pods/render".to_owned());
            let owner = Owner { pid, cgroup, comm: Some(comm.to_owned()), ..Owner::default() };
            Flow { owner, ..kit::flow(id) }
        };
        let scope = |flows: [Flow; 2]| {
            let watched = kit::with_node(&flows, |node| node.throttled.push(throttled(10, 9)));
            rule(&watched, &Limits::default()).remove(0).scope
        };
        let [one, other] = ["f1", "f2"].map(|id| flow(id, Some(77), "render"));
        let known = scope([one.clone(), other]);
        assert_eq!((known.name.as_str(), known.netns), ("render/77", Some(kit::NETNS)));
        let away = Flow { netns: Some(kit::NETNS + 1), ..flow("f2", Some(77), "render") };
        let known = scope([one.clone(), away]);
        assert_eq!((known.name.as_str(), known.netns), ("render/77", None));
        assert_eq!(scope([one, flow("f2", Some(78), "render")]).kind, ScopeKind::Node);
        let ended = [flow("f1", None, "render"), flow("f2", None, "sh")];
        assert_eq!(scope(ended).kind, ScopeKind::Node);
    }

    #[test]
    fn wording() {
        let watched = of(100, 60, Some("/pods/render"));
        insta::assert_snapshot!(crate::finding::tests::wording(&DEFINITION, &watched));
    }
}
