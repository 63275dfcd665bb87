//! What owners have in common, and who lives where.

use super::Owner;
use crate::owner::lies_in;

impl Owner {
    /// Whether it is known which process it is, or what its processes are called.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.pid.is_some() || self.comm.is_some()
    }

    /// Whether it lives in a cgroup of that path, or in one below it.
    #[must_use]
    pub fn lives_in(&self, cgroup: &str) -> bool {
        self.cgroup.as_deref().is_some_and(|own| lies_in(own, cgroup))
    }

    /// Whether another one is this process, or is known to live in this cgroup, container or pod.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let same = |of: fn(&Self) -> &Option<String>| of(self).is_some() && of(self) == of(other);
        if self.pid.is_some() && self.pid == other.pid {
            return true;
        }
        match (&self.cgroup, &other.cgroup) {
            (Some(cgroup), Some(_)) => other.lives_in(cgroup),
            // Of several in different cgroups only what is above them is known.
            _ => {
                same(|owner| &owner.container)
                    || self.container.is_none() && same(|owner| &owner.pod_uid)
            }
        }
    }

    /// Whether both may be the same, or one live in the other, as far as it is known who they are.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let agree = |of: fn(&Self) -> &Option<String>| {
            of(self).is_none() || of(other).is_none() || of(self) == of(other)
        };
        if let (Some(one), Some(another)) = (self.pid, other.pid) {
            return one == another;
        }
        let is_near = match (&self.cgroup, &other.cgroup) {
            (Some(one), Some(another)) => self.lives_in(another) || other.lives_in(one),
            _ => true,
        };
        is_near && agree(|owner| &owner.container) && agree(|owner| &owner.pod_uid)
    }

    /// The process that all of them are; of several what they have in common: a name, a pod.
    #[must_use]
    pub fn common<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let all: Vec<&Self> = all.into_iter().collect();
        let Some(&first) = all.first() else { return Self::default() };
        if first.pid.is_some() && all.iter().all(|one| one.pid == first.pid) {
            return first.clone();
        }
        let common = |of: fn(&Self) -> &Option<String>| {
            let first = of(first);
            all.iter().all(|one| of(one) == first).then(|| first.clone()).flatten()
        };
        Self {
            pid: None,
            comm: common(|owner| &owner.comm),
            cgroup: common(|owner| &owner.cgroup),
            container: common(|owner| &owner.container),
            container_name: common(|owner| &owner.container_name),
            pod_uid: common(|owner| &owner.pod_uid),
            pod: common(|owner| &owner.pod),
            namespace: common(|owner| &owner.namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Process `pid` of a container of a pod, 0 for none that is known.
    fn of(pid: u32, pod: &str, container: &str) -> Owner {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Owner {
            pid: (pid > 0).then_some(pid),
            comm: (pid > 0).then(|| "nginx".to_owned()),
            cgroup: text(&format!("/kubepods/{pod}/{container}")),
            container: text(container),
            pod_uid: text(pod),
            ..Owner::default()
        }
    }

    #[test]
    fn who_lives_where() {
        let owner = of(7, "a", "c1");
        for (path, expected) in [("/kubepods/a", true), ("/kubepods/b", false), ("/", true)] {
            assert_eq!(owner.lives_in(path), expected, "{path}");
            assert!(!Owner::default().lives_in(path), "that is not known: {path}");
        }
    }

    #[test]
    fn who_holds_whom() {
        let pod = Owner { cgroup: Some("/kubepods/a".to_owned()), ..of(0, "a", "") };
        let scattered = Owner { cgroup: None, ..of(0, "a", "") };
        let [first, second, other] = [of(7, "a", "c1"), of(8, "a", "c2"), of(9, "b", "c3")];
        for (holder, one, expected) in [
            (&pod, &first, true),
            (&pod, &scattered, true),
            (&pod, &other, false),
            (&pod, &Owner::default(), false),
            (&of(0, "a", "c1"), &first, true),
            (&of(0, "a", "c1"), &second, false),
            (&of(0, "a", "c1"), &scattered, false),
            (&Owner { pid: Some(9), ..Owner::default() }, &other, true),
            (&Owner::default(), &other, false),
            (&Owner::default(), &Owner::default(), false),
        ] {
            assert_eq!(holder.holds(one), expected, "{holder:?} {one:?}");
        }
    }

    #[test]
    fn who_may_be_the_same() {
        let [first, second, other] = [of(7, "a", "c1"), of(8, "a", "c2"), of(9, "b", "c3")];
        for (one, another, expected) in [
            (&first, &first, true),
            (&first, &second, false),
            (&first, &of(0, "a", "c1"), true),
            (&first, &of(0, "a", "c2"), false),
            (&first, &of(0, "b", "c1"), false),
            (&other, &Owner::default(), true),
        ] {
            assert_eq!(one.may_be(another), expected, "{one:?} {another:?}");
            assert_eq!(another.may_be(one), expected, "{another:?} {one:?}");
        }
    }

    #[test]
    fn several_have_in_common_what_all_of_them_say() {
        let [first, second, other] = [of(7, "a", "c1"), of(8, "a", "c2"), of(9, "b", "c3")];
        assert_eq!(Owner::common([&first, &first]), first);
        let pod = Owner { cgroup: None, comm: Some("nginx".to_owned()), ..of(0, "a", "") };
        assert_eq!(Owner::common([&first, &second]), pod);
        let name = Owner { comm: Some("nginx".to_owned()), ..Owner::default() };
        assert_eq!(Owner::common([&first, &other]), name);
        assert_eq!(Owner::common([&Owner::default(), &first]), Owner::default());
        assert_eq!(Owner::common(std::iter::empty()), Owner::default());
    }
}
