//! Findings of several windows: what is about the same is one, and no more are kept than are told.

use std::collections::BTreeMap;

use crate::{finding::Finding, snapshot::Owner};

/// Owners that a finding of several windows is felt by, unless the last of these has more: of processes that come and
/// go there is no end.
const MOST_OWNERS: usize = 256;

/// Which window findings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// The one behind those that were concluded from.
    Next,
    /// The last of these, which went on a little.
    Same,
}

/// Adds the findings of a later window: of one about the same, the worse is kept, or the later where that has seen what
/// the earlier one saw and is no less bad; of whoever did it what all its windows have in common, and who felt it in any
/// of them. What one window tells several times are several.
pub(super) fn merge(findings: &mut Vec<Finding>, later: Vec<Finding>, which: Later) {
    let mut earlier: Vec<usize> = (0..findings.len()).collect();
    let is_same = |new: &Finding, old: &Finding| new.is_again(old) && new.scope == old.scope;
    // Those of the same process go together first, then those that are about the same.
    let is_known = |new: &Finding| findings.iter().any(|old| is_same(new, old));
    let (known, others): (Vec<_>, Vec<_>) = later.into_iter().partition(is_known);
    for new in known.into_iter().chain(others) {
        let same = earlier.iter().position(|&at| is_same(&new, &findings[at]));
        let again = || earlier.iter().position(|&at| new.is_again(&findings[at]));
        let Some(at) = same.or_else(again) else {
            findings.push(new);
            continue;
        };
        let old = &mut findings[earlier.remove(at)];
        let (start, end) = (old.start.clone(), new.end.clone());
        let scope = new.scope.in_common(&old.scope);
        let windows = match which {
            Later::Next => old.windows + new.windows,
            Later::Same => old.windows,
        };
        let beside_flows = old.beside_flows && new.beside_flows;
        let within = felt_by(&new.within, &old.within);
        let knows_all = new.looks_back && new.severity >= old.severity;
        if knows_all || new.rank(old).is_lt() {
            *old = new;
        }
        (old.start, old.end, old.windows, old.scope) = (start, end, windows, scope);
        (old.beside_flows, old.within) = (beside_flows, within);
    }
}

/// Who felt it in one window or the other, those of the later one first. Where one names nobody it may be all.
fn felt_by(later: &[Owner], earlier: &[Owner]) -> Vec<Owner> {
    if later.is_empty() || earlier.is_empty() {
        return Vec::new();
    }
    let more = earlier.iter().filter(|owner| !later.contains(owner));
    let room = MOST_OWNERS.saturating_sub(later.len());
    later.iter().chain(more.take(room)).cloned().collect()
}

/// Keeps not more of one id than so many, in the order in which they stand: the worst of those that count, then of
/// the others, of which nobody is told that they are left out.
pub(super) fn keep(
    findings: &mut Vec<Finding>,
    most: usize,
    counts: impl Fn(&Finding) -> bool,
    left_out: &mut BTreeMap<String, u64>,
) {
    let mut of_one: BTreeMap<&str, Vec<(bool, usize)>> = BTreeMap::new();
    for (at, finding) in findings.iter().enumerate() {
        of_one.entry(&finding.id).or_default().push((!counts(finding), at));
    }
    let mut is_kept = vec![true; findings.len()];
    for (id, mut all) in of_one.into_iter().filter(|(_, all)| all.len() > most) {
        all.sort_by(|(one_is_not, one), (other_is_not, other)| {
            one_is_not.cmp(other_is_not).then_with(|| findings[*one].rank(&findings[*other]))
        });
        all[most..].iter().for_each(|&(_, at)| is_kept[at] = false);
        let missed = all[most..].iter().filter(|(does_not, _)| !does_not).count();
        if missed > 0 {
            *left_out.entry(id.to_owned()).or_default() += missed as u64;
        }
    }
    let mut is_kept = is_kept.into_iter();
    findings.retain(|_| is_kept.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use std::{iter, ops::Range, slice};

    use super::*;
    use crate::{
        finding::{Scope, ScopeKind, Severity},
        watched::kit::{self, NETNS},
    };

    fn of(scope: Scope) -> Finding {
        Finding::new(&kit::watched(&[]), Severity::Warning, scope, "")
    }

    fn process(pid: Option<u32>, container: &str) -> Finding {
        let owner = Owner { pid, container: Some(container.to_owned()), ..kit::owner("web") };
        of(Scope::process(Some(NETNS), &owner).at(80))
    }

    fn asked_by(pid: u32, comm: &str) -> Finding {
        let owner = Owner { pid: Some(pid), ..kit::owner(comm) };
        let ip = "10.0.0.2".parse().expect("an address");
        of(Scope::backend(Some(NETNS), ip, 443).by(&owner)).about(comm)
    }

    /// What is told of these windows, with the process and the number of windows.
    fn merged(windows: Vec<Vec<Finding>>) -> Vec<(ScopeKind, String, Option<u32>, u32)> {
        let mut all = Vec::new();
        for found in windows {
            merge(&mut all, found, Later::Next);
        }
        let told = |one: Finding| {
            let Scope { kind, name, owner, .. } = one.scope;
            (kind, name, owner.pid, one.windows)
        };
        let mut told: Vec<_> = all.into_iter().map(told).collect();
        told.sort_by_key(|(_, name, pid, _)| (name.clone(), *pid));
        told
    }

    #[test]
    fn what_looks_back_is_told_as_it_is_seen_last() {
        let told = |looks_back, later| {
            let before =
                Finding::new(&kit::watched(&[]), Severity::Warning, Scope::node(""), "6 spikes");
            let after =
                Finding { looks_back, severity: later, title: "8 spikes".into(), ..before.clone() };
            let mut all = vec![before];
            merge(&mut all, vec![after], Later::Same);
            all.remove(0).title
        };
        assert_eq!(told(true, Severity::Warning), "8 spikes");
        assert_eq!(told(true, Severity::Info), "6 spikes", "it was worse");
        assert_eq!(told(false, Severity::Warning), "6 spikes", "no worse");
        assert_eq!(told(false, Severity::Critical), "8 spikes");
    }

    #[test]
    fn a_process_is_itself_and_one_of_several() {
        let told = |name: &str, pid, windows| (ScopeKind::Process, name.to_owned(), pid, windows);
        let [one, another] = [Some(77), Some(78)].map(|pid| process(pid, "a"));
        let (several, elsewhere) = (process(None, "a"), process(None, "b"));
        let [of_one, of_another] = [("web/77", Some(77)), ("web/78", Some(78))];
        for (windows, expected) in [
            (
                vec![vec![one.clone()], vec![another.clone()]],
                vec![told(of_one.0, of_one.1, 1), told(of_another.0, of_another.1, 1)],
            ),
            (
                vec![vec![one.clone(), another.clone()], vec![another.clone(), one.clone()]],
                vec![told(of_one.0, of_one.1, 2), told(of_another.0, of_another.1, 2)],
            ),
            (vec![vec![one.clone()], vec![several], vec![another]], vec![told("web", None, 3)]),
            (
                vec![vec![one], vec![elsewhere]],
                vec![told("web", None, 1), told(of_one.0, of_one.1, 1)],
            ),
        ] {
            assert_eq!(merged(windows), expected);
        }
    }

    #[test]
    fn what_is_asked_is_the_same_whoever_asks() {
        let told = |pid, windows| (ScopeKind::Backend, "10.0.0.2:443".to_owned(), pid, windows);
        let windows = |all: &[&[Finding]]| all.iter().copied().map(<[_]>::to_vec).collect();
        let [first, second, third] = [1, 2, 3].map(|pid| asked_by(pid, "cron"));
        let one_each =
            windows(&[slice::from_ref(&first), slice::from_ref(&second), slice::from_ref(&third)]);
        assert_eq!(merged(one_each), [told(None, 3)]);
        let two = windows(&[&[first.clone(), second.clone()], &[third, second]]);
        assert_eq!(merged(two), [told(None, 2), told(Some(2), 2)]);
        let programs = windows(&[&[first, asked_by(4, "mail")], &[asked_by(5, "mail")]]);
        assert_eq!(merged(programs), [told(None, 2), told(Some(1), 1)]);
    }

    /// In a minute one of its processes has connections, in another one several have.
    #[test]
    fn a_cgroup_is_the_same_whoever_lives_in_it() {
        let pod = Owner { cgroup: Some("/pods/a".to_owned()), ..Owner::default() };
        let held = |finding: Finding| finding.about("/pods/a").felt_within(vec![pod.clone()]);
        let node = || held(of(Scope::node("node-1").by(&pod)));
        let told = |kind, name: &str, windows| [(kind, name.to_owned(), None, windows)];
        let one = |pid| held(process(Some(pid), "a"));
        let expected = told(ScopeKind::Node, "node-1", 2);
        assert_eq!(merged(vec![vec![one(77)], vec![node()]]), expected);
        assert_eq!(merged(vec![vec![node()], vec![one(77)]]), expected);
        let expected = told(ScopeKind::Process, "web", 2);
        assert_eq!(merged(vec![vec![one(77)], vec![one(78)]]), expected);
        let owner = Owner { pid: Some(78), ..kit::owner("db") };
        let other = held(of(Scope::process(Some(NETNS), &owner)));
        let expected = told(ScopeKind::Process, "several", 2);
        assert_eq!(merged(vec![vec![one(77)], vec![other]]), expected);
    }

    /// A cgroup is held back in two minutes, in which these processes of other cgroups belong to it, too.
    fn felt(windows: [(Severity, Range<u32>); 2]) -> Vec<Option<u32>> {
        let mut all = Vec::new();
        for (severity, pids) in windows {
            let pod = Owner { cgroup: Some("/pods/a".to_owned()), ..Owner::default() };
            let owners = pids.map(|pid| Owner { pid: Some(pid), ..Owner::default() });
            let owners = iter::once(pod).chain(owners).collect();
            let found = of(Scope::node("node-1")).about("/pods/a").felt_within(owners);
            merge(&mut all, vec![Finding { severity, ..found }], Later::Next);
        }
        assert_eq!((all.len(), all[0].windows), (1, 2));
        all.remove(0).within.into_iter().map(|owner| owner.pid).collect()
    }

    #[test]
    fn who_felt_it_in_any_window_did() {
        let (bad, worse) = (Severity::Warning, Severity::Critical);
        for severities in [[bad, worse], [worse, bad], [bad, bad]] {
            let felt = felt([(severities[0], 1..3), (severities[1], 2..4)]);
            assert_eq!(felt, [None, Some(2), Some(3), Some(1)]);
        }
        let most = MOST_OWNERS as u32;
        let last = felt([(bad, 0..most), (bad, most..most + 9)]);
        let expected = (most..most + 9).chain(0..most - 10).map(Some);
        assert_eq!(last, iter::once(None).chain(expected).collect::<Vec<_>>());
        let last = felt([(bad, 0..9), (bad, 9..most + 20)]);
        assert_eq!(last, iter::once(None).chain((9..most + 20).map(Some)).collect::<Vec<_>>());
    }
}
