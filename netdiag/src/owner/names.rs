//! What pods and containers are called, by the names that kubelet gives their log files.
//!
//! `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/N.log` (`BuildPodLogsDirectory`) and
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, a link to the former (`logSymlink`; both in
//! pkg/kubelet/kuberuntime). No name of these has an underscore.

use std::{collections::HashMap, mem};

use super::{
    Place,
    path::{is_container_id, is_uid},
};

/// Pods and containers of one generation.
const MOST: usize = 1 << 16;

/// A pod by its names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
}

/// Names by uid and id. They are kept when the files are gone: neither is ever another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pods: Generations<Pod>,
    containers: Generations<Container>,
}

/// The names of log files that kubelet made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFiles {
    /// In `/var/log/pods`.
    pub pods: Vec<String>,
    /// In `/var/log/containers`.
    pub containers: Vec<String>,
}

/// What is remembered, in two parts. A full one takes the place of the one before it, and whatever still has a file
/// is in the next one as soon as files are looked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Generations<T> {
    now: HashMap<String, T>,
    before: HashMap<String, T>,
}

impl<T> Default for Generations<T> {
    fn default() -> Self {
        Self { now: HashMap::new(), before: HashMap::new() }
    }
}

impl<T> Generations<T> {
    fn insert(&mut self, key: &str, value: T) {
        if self.now.len() >= MOST && !self.now.contains_key(key) {
            self.before = mem::take(&mut self.now);
        }
        self.now.insert(key.to_owned(), value);
    }

    fn get(&self, key: &str) -> Option<&T> {
        self.now.get(key).or_else(|| self.before.get(key))
    }
}

/// A container by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Container {
    pod: Pod,
    name: String,
}

impl Names {
    /// Takes in the names of log files.
    pub fn learn(&mut self, files: &LogFiles) {
        for name in &files.pods {
            self.pod_directory(name);
        }
        for name in &files.containers {
            self.container_log(name);
        }
    }

    /// Takes in the name of a directory below `/var/log/pods`; says whether it is a pod's.
    pub fn pod_directory(&mut self, name: &str) -> bool {
        let mut parts = name.split('_');
        let (Some(namespace), Some(pod), Some(uid), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let is_one = is_name(namespace) && is_name(pod) && is_uid(uid);
        if is_one {
            let pod = Pod { namespace: namespace.to_owned(), name: pod.to_owned() };
            self.pods.insert(uid, pod);
        }
        is_one
    }

    /// Takes in the name of a file in `/var/log/containers`; says whether it is a container's.
    pub fn container_log(&mut self, name: &str) -> bool {
        let parsed = || {
            let (rest, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
            let mut parts = rest.split('_');
            let (pod, namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
            let is_one = parts.next().is_none()
                && is_container_id(id)
                && [pod, namespace, container].into_iter().all(is_name);
            is_one.then_some((pod, namespace, container, id))
        };
        let Some((pod, namespace, container, id)) = parsed() else { return false };
        let pod = Pod { namespace: namespace.to_owned(), name: pod.to_owned() };
        self.containers.insert(id, Container { pod, name: container.to_owned() });
        true
    }

    /// The pod of a place, by the uid where there is one.
    #[must_use]
    pub fn pod(&self, place: &Place) -> Option<&Pod> {
        match &place.pod_uid {
            Some(uid) => self.pods.get(uid),
            None => None,
        }
        .or_else(|| self.container_of(place).map(|container| &container.pod))
    }

    /// The container's name in its pod.
    #[must_use]
    pub fn container(&self, place: &Place) -> Option<&str> {
        self.container_of(place).map(|container| container.name.as_str())
    }

    /// Whether a place may have names that are not known yet: it is a pod's. A pod has one container that has no
    /// name, which holds its namespaces.
    #[must_use]
    pub fn lacks(&self, place: &Place) -> bool {
        let lacks_container =
            place.container.as_ref().is_some_and(|id| self.containers.get(id).is_none());
        place.pod_uid.is_some() && (self.pod(place).is_none() || lacks_container)
    }

    /// All pods that have a name, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        let Generations { now, before } = &self.pods;
        let older = before.iter().filter(|(uid, _)| !now.contains_key(*uid));
        now.values().chain(older.map(|(_, pod)| pod))
    }

    fn container_of(&self, place: &Place) -> Option<&Container> {
        self.containers.get(place.container.as_ref()?)
    }
}

/// What Kubernetes takes for a name (RFC 1123).
fn is_name(text: &str) -> bool {
    let is_of_it = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(is_of_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";
    const U: &str = "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";
    const S: &str = "6bf2e5a1c3d4b8f7a9e0d1c2b3a4f5e6";

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn names_of_files() {
        let mut names = Names::default();
        assert!(names.pod_directory(&format!("shop_web-6d5f-x2x_{U}")));
        assert!(names.pod_directory(&format!("kube-system_etcd-node.example_{S}")));
        assert!(names.container_log(&format!("web-6d5f-x2x_shop_nginx-1-{C}.log")));
        let place = Place::of(&format!("/kubepods/burstable/pod{U}/{C}"));
        assert_eq!(names.pod(&place), Some(&pod("shop", "web-6d5f-x2x")));
        assert_eq!(names.container(&place), Some("nginx-1"));
        assert!(!names.lacks(&place));
        let place = Place::of(&format!("/kubepods/pod{S}"));
        assert_eq!(names.pod(&place), Some(&pod("kube-system", "etcd-node.example")));
        assert_eq!(names.container(&place), None);
        assert!(!names.lacks(&place));
        // The log's name alone names the pod, too.
        let place = Place::of(&format!("/docker/{C}"));
        assert_eq!(names.pod(&place), Some(&pod("shop", "web-6d5f-x2x")));
    }

    #[test]
    fn what_has_no_name_yet() {
        let names = Names::default();
        for (path, lacks) in [
            (format!("/kubepods/burstable/pod{U}/{C}"), true),
            (format!("/kubepods/burstable/pod{U}"), true),
            (format!("/docker/{C}"), false),
            ("/".to_owned(), false),
        ] {
            let place = Place::of(&path);
            assert_eq!(names.lacks(&place), lacks, "{path}");
            assert_eq!((names.pod(&place), names.container(&place)), (None, None));
        }
    }

    #[test]
    fn there_is_always_room_for_a_new_name() {
        let mut names = Names::default();
        let uid = |nth: usize| format!("0b1f6a9e-8f4d-4f7a-9c51-{nth:012x}");
        let directory = |nth: usize| format!("shop_web-{nth}_{}", uid(nth));
        let is_known = |names: &Names, nth| {
            names.pod(&Place { pod_uid: Some(uid(nth)), ..Place::default() }).is_some()
        };
        for nth in 0..=MOST {
            assert!(names.pod_directory(&directory(nth)));
        }
        assert!(is_known(&names, MOST) && is_known(&names, 0));
        // One that is still there is listed again, and outlasts the others.
        names.pod_directory(&directory(0));
        assert_eq!(names.pods().count(), MOST + 1);
        for nth in MOST + 1..2 * MOST {
            names.pod_directory(&directory(nth));
        }
        assert!(is_known(&names, 0) && !is_known(&names, 1));
    }

    #[test]
    fn what_is_no_pods() {
        let mut names = Names::default();
        for name in [
            "",
            "_",
            "shop_web",
            &format!("shop_web_{U}_x"),
            &format!("shop__{U}"),
            &format!("shop_we/b_{U}"),
            &format!("shop_we\x1bb_{U}"),
            "shop_web_12",
        ] {
            assert!(!names.pod_directory(name), "{name}");
        }
        for name in [
            "",
            ".log",
            &format!("web_shop_nginx-{C}"),
            &format!("web_shop_nginx-{}.log", &C[..60]),
            &format!("web_nginx-{C}.log"),
            &format!("{C}.log"),
        ] {
            assert!(!names.container_log(name), "{name}");
        }
        assert_eq!(names, Names::default());
    }

    #[test]
    fn hostile_names_are_survived() {
        let id = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";
        let sound = [format!("shop_web-1_{U}"), format!("web-1_shop_app-{id}.log")];
        crate::hostile::survived_text(&sound.each_ref().map(String::as_str), |name| {
            let mut names = Names::default();
            let known = [names.pod_directory(name), names.container_log(name)];
            assert!(
                names.pods().all(|pod| is_name(&pod.namespace) && is_name(&pod.name)),
                "{known:?}"
            );
        });
    }
}
