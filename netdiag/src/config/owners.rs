//! What filters ask of a socket's owner beyond its process id: its name, and where it lives.

use crate::{
    owner::{Place, Pod, lies_in},
    snapshot::Owner,
};

/// What filters name of owners: AND between the fields, OR within one, empty passes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Exact names of processes.
    pub comms: Vec<String>,
    /// Paths of cgroups below the root of their hierarchy, each with all below it.
    pub cgroups: Vec<String>,
    /// Beginnings of container ids.
    pub containers: Vec<String>,
    /// Names of pods.
    pub pods: Vec<String>,
    /// Kubernetes namespaces of pods.
    pub namespaces: Vec<String>,
}

impl Owners {
    /// Whether it matters where a process lives.
    #[must_use]
    pub const fn asks_for_place(&self) -> bool {
        !(self.cgroups.is_empty() && self.containers.is_empty()) || self.asks_for_names()
    }

    /// Whether it matters what the pod of a process is called.
    #[must_use]
    pub const fn asks_for_names(&self) -> bool {
        !(self.pods.is_empty() && self.namespaces.is_empty())
    }

    /// Whether processes that live there are wanted; none where that depends on names of a pod that are not known.
    #[must_use]
    pub fn accepts(&self, place: &Place, pod: Option<&Pod>) -> Option<bool> {
        let container = place.container.as_deref();
        if !self.accepts_cgroup(&place.cgroup) || !self.accepts_container(container) {
            return Some(false);
        }
        if !self.asks_for_names() {
            return Some(true);
        }
        match pod {
            Some(pod) => {
                Some(one_of(&self.pods, &pod.name) && one_of(&self.namespaces, &pod.namespace))
            }
            // A container that no path says to be in a pod is named by its log, which may come.
            None if place.pod_uid.is_some() || place.container.is_some() => None,
            None => Some(false),
        }
    }

    /// Whether an owner is wanted as far as it is known; none where that depends on what is not.
    #[must_use]
    pub fn accepts_owner(&self, owner: &Owner) -> Option<bool> {
        let comm =
            |comm: &str| self.comms.is_empty() || self.comms.iter().any(|one| is_named(one, comm));
        // Where the cgroup is known, so is whether it is a container's or a pod's.
        let is_placed = owner.cgroup.is_some();
        let in_none = (is_placed && owner.container.is_none()).then_some(false);
        let in_no_pod = in_none.filter(|_| owner.pod_uid.is_none());
        let answers = [
            (self.comms.is_empty(), owner.comm.as_deref().map(comm)),
            (self.cgroups.is_empty(), owner.cgroup.as_deref().map(|it| self.accepts_cgroup(it))),
            (
                self.containers.is_empty(),
                owner.container.as_deref().map(|it| self.accepts_container(Some(it))).or(in_none),
            ),
            (
                self.pods.is_empty(),
                owner.pod.as_deref().map(|it| one_of(&self.pods, it)).or(in_no_pod),
            ),
            (
                self.namespaces.is_empty(),
                owner.namespace.as_deref().map(|it| one_of(&self.namespaces, it)).or(in_no_pod),
            ),
        ];
        let asked = || answers.iter().filter(|(is_any, _)| !is_any).map(|(_, answer)| *answer);
        if asked().any(|answer| answer == Some(false)) {
            return Some(false);
        }
        asked().all(|answer| answer.is_some()).then_some(true)
    }

    fn accepts_cgroup(&self, path: &str) -> bool {
        self.cgroups.is_empty() || self.cgroups.iter().any(|top| lies_in(path, top))
    }

    fn accepts_container(&self, id: Option<&str>) -> bool {
        let begins = |id: &str| {
            let begins = |wanted: &String| {
                id.get(..wanted.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(wanted))
            };
            self.containers.iter().any(begins)
        };
        self.containers.is_empty() || id.is_some_and(begins)
    }
}

/// Whether a process of that name is meant; the kernel cuts names off behind 15 bytes.
#[must_use]
pub(in crate::config) fn is_named(wanted: &str, comm: &str) -> bool {
    let end = wanted.len().min(15);
    wanted.as_bytes()[..end] == *comm.as_bytes()
}

fn one_of(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|one| one == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";

    fn texts(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn place(cgroup: &str, container: bool, pod: bool) -> Place {
        Place {
            cgroup: cgroup.to_owned(),
            container: container.then(|| ID.to_owned()),
            pod_uid: pod.then(|| "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42".to_owned()),
        }
    }

    #[test]
    fn places() {
        let pod = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned() };
        let of = |cgroups, containers, pods, namespaces| Owners {
            comms: Vec::new(),
            cgroups: texts(cgroups),
            containers: texts(containers),
            pods: texts(pods),
            namespaces: texts(namespaces),
        };
        let there = place("/kubepods/web/app", true, true);
        let host = place("/system.slice/nginx.service", false, false);
        for (owners, of_there, of_host) in [
            (of("", "", "", ""), Some(true), Some(true)),
            (of("/kubepods", "", "", ""), Some(true), Some(false)),
            (of("/kubepods/", "", "", ""), Some(true), Some(false)),
            (of("/kubepods/web/app /x", "", "", ""), Some(true), Some(false)),
            (of("/kubepods/we", "", "", ""), Some(false), Some(false)),
            (of("/", "", "", ""), Some(true), Some(true)),
            (of("", "3f0f4f", "", ""), Some(true), Some(false)),
            (of("", "f0f4f", "", ""), Some(false), Some(false)),
            (of("", "", "web-0", ""), Some(true), Some(false)),
            (of("", "", "web", ""), Some(false), Some(false)),
            (of("", "", "", "shop pay"), Some(true), Some(false)),
            (of("", "", "web-0", "pay"), Some(false), Some(false)),
            (of("/system.slice", "", "web-0", ""), Some(false), Some(false)),
        ] {
            assert_eq!(owners.accepts(&there, Some(&pod)), of_there, "{owners:?}");
            assert_eq!(owners.accepts(&host, None), of_host, "{owners:?}");
        }
        assert_eq!(of("", "", "web-0", "").accepts(&there, None), None, "its name may come");
        let logged = place("/docker/app", true, false);
        assert_eq!(of("", "", "web-0", "").accepts(&logged, None), None, "its log may come");
        assert_eq!(of("/x", "", "web-0", "").accepts(&there, None), Some(false));
    }

    #[test]
    fn owners_as_far_as_they_are_known() {
        let owners = Owners { comms: texts("nginx"), pods: texts("web-0"), ..Owners::default() };
        let owner = |comm: Option<&str>, pod: Option<&str>| Owner {
            comm: comm.map(str::to_owned),
            pod: pod.map(str::to_owned),
            ..Owner::default()
        };
        for (comm, pod, answer) in [
            (Some("nginx"), Some("web-0"), Some(true)),
            (Some("nginx"), Some("web-1"), Some(false)),
            (Some("nginx"), None, None),
            (None, Some("web-1"), Some(false)),
            (None, None, None),
        ] {
            assert_eq!(owners.accepts_owner(&owner(comm, pod)), answer, "{comm:?} {pod:?}");
        }
        assert_eq!(Owners::default().accepts_owner(&owner(None, None)), Some(true));
    }

    #[test]
    fn an_owner_whose_cgroup_is_no_pods_is_known_to_be_in_none() {
        let owner = |container: bool, pod_uid: bool| Owner {
            cgroup: Some("/somewhere".to_owned()),
            container: container.then(|| ID.to_owned()),
            pod_uid: pod_uid.then(|| "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42".to_owned()),
            ..Owner::default()
        };
        let container = Owners { containers: texts("3f0f"), ..Owners::default() };
        let pod = Owners { pods: texts("web-0"), ..Owners::default() };
        let namespace = Owners { namespaces: texts("shop"), ..Owners::default() };
        for (owner, of_container, of_pod) in [
            (owner(false, false), Some(false), Some(false)),
            (owner(false, true), Some(false), None),
            (owner(true, false), Some(true), None),
            (owner(true, true), Some(true), None),
            (Owner::default(), None, None),
        ] {
            assert_eq!(container.accepts_owner(&owner), of_container, "{owner:?}");
            assert_eq!(pod.accepts_owner(&owner), of_pod, "{owner:?}");
            assert_eq!(namespace.accepts_owner(&owner), of_pod, "{owner:?}");
        }
    }

    #[test]
    fn names_are_cut_off_like_the_kernels() {
        assert!(
            is_named("nginx", "nginx")
                && !is_named("nginx", "nginx2")
                && !is_named("ngin", "nginx")
        );
        assert!(is_named("a-name-that-is-long", "a-name-that-is-"));
        assert!(!is_named("a-name-that-is-long", "a-name-that-is-long"), "no name is that long");
    }
}
