//! What the path of a cgroup says of container and pod.
//!
//! Kubelet makes a group for each pod, `pod<UID>` or `…-pod<UID>.slice`, below one of its own that has
//! `kubepods` in its name (pkg/kubelet/cm/pod_container_manager_linux.go). A runtime makes one for each
//! container, whose name is the container's id, with the runtime's name before it where systemd made it a scope.
//!
//! Whoever owns a group may make others below it, by any name. So the outermost names count, which the node's own
//! kubelet and runtime gave, and a container cannot pass for another one by what it makes inside its own group. A pod
//! below a container that is in no pod counts, since that container may be a node itself (kind, k3d): one to which
//! the node's hierarchy was handed can claim to be a pod, and nothing less.

use super::Place;

/// Digits of a container id (SHA-256, or as many random ones).
const ID_DIGITS: usize = 64;

/// Digits of a uid, and those of the hash that a static pod has instead (MD5).
const UID_DIGITS: usize = 32;

/// Where the dashes of a uid are (RFC 4122).
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl Place {
    /// What a path below the root of a hierarchy tells.
    ///
    /// Of several pods the outermost one counts, and of containers the one right below the pod, which is the one
    /// that Kubernetes knows; without a pod the outermost one.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let mut place = Self { cgroup: path.to_owned(), ..Self::default() };
        let mut is_kubelets = false;
        let mut groups = path.split('/');
        for group in groups.by_ref() {
            for name in names(group) {
                is_kubelets |= is_of_kubelet(name);
                if is_kubelets && let Some(uid) = pod_uid(name) {
                    (place.pod_uid, place.container) = (Some(uid), None);
                } else if place.container.is_none() {
                    place.container = container(name).map(str::to_owned);
                }
            }
            if place.pod_uid.is_some() {
                break;
            }
        }
        if place.pod_uid.is_some() && place.container.is_none() {
            let below = groups.next().into_iter().flat_map(names);
            place.container = below.filter_map(container).next().map(str::to_owned);
        }
        place
    }
}

/// `slice:runtime:id` is what systemd's driver asks for, and one name where no systemd answers.
fn names(group: &str) -> impl Iterator<Item = &str> {
    group.split(':')
}

/// Whether it is the group of all pods or one of those below: `kubepods`, `kubelet-kubepods-burstable.slice`.
fn is_of_kubelet(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    name.split('-').any(|word| word == "kubepods")
}

/// The uid in the name of a pod's group. systemd takes a dash in the name of a slice for a level.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// Whether a text is a uid as pods have it.
pub(super) fn is_uid(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() == UID_DIGITS {
        return bytes.iter().all(|&byte| is_digit(byte));
    }
    let fits = |(at, byte)| if DASHES.contains(&at) { byte == b'-' } else { is_digit(byte) };
    bytes.len() == UID_DIGITS + DASHES.len() && bytes.iter().copied().enumerate().all(fits)
}

/// Whether a text is a container id of the usual runtimes.
pub(super) fn is_container_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(is_digit)
}

const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The container in the name of its group. The monitor beside it is none (`crio-conmon-…`), nor is a
/// service of that name (podman's health checks).
fn container(name: &str) -> Option<&str> {
    if let Some(named) = name.strip_prefix("lxc.payload.") {
        return Some(named).filter(|named| !named.is_empty());
    }
    let (name, is_scope) = match name.strip_suffix(".scope") {
        Some(scope) => (scope, true),
        None => (name, false),
    };
    if is_container_id(name) {
        return Some(name);
    }
    let (runtime, id) = name.rsplit_once('-')?;
    if is_container_id(id) {
        return (!runtime.ends_with("conmon")).then_some(id);
    }
    // Without a manager above them, containers have whatever id they were given.
    let given = ["runc-", "crun-"].iter().find_map(|runtime| name.strip_prefix(runtime));
    given.filter(|given| is_scope && !given.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container, another one that is not to be taken for it, a pod, and a static pod.
    const C: &str = "3f0f4f1f5a3ec63d1ec0bd7c2b6d5c4f6ed2b9a5a0d3f1c48d0a6f3e9b7c5d21";
    const N: &str = "9ab3f04e5d6c7b8a9f0e1d2c3b4a59687766554433221100ffeeddccbbaa9988";
    const U: &str = "0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d42";
    const S: &str = "6bf2e5a1c3d4b8f7a9e0d1c2b3a4f5e6";

    /// Letters stand for ids: `C`, `N`, `U`, `S` as above, `V` for a uid as systemd's slices have it.
    fn path(pattern: &str) -> String {
        let dashless = U.replace('-', "_");
        let ids = [("{C}", C), ("{N}", N), ("{U}", U), ("{S}", S), ("{V}", &dashless)];
        ids.iter().fold(pattern.to_owned(), |path, (letter, id)| path.replace(letter, id))
    }

    #[test]
    fn paths_of_pods() {
        for (pattern, container, pod) in [
            // cgroupfs driver, by class of service; containerd, docker and CRI-O.
            ("/kubepods/burstable/pod{U}/{C}", Some(C), Some(U)),
            ("/kubepods/besteffort/pod{U}/{C}", Some(C), Some(U)),
            ("/kubepods/pod{U}/{C}", Some(C), Some(U)),
            ("/kubepods/burstable/pod{U}/crio-{C}", Some(C), Some(U)),
            ("/kubepods/burstable/pod{U}/crio-conmon-{C}", None, Some(U)),
            ("/kubepods/burstable/pod{S}/{C}", Some(C), Some(S)),
            ("/kubepods/burstable/pod{U}", None, Some(U)),
            ("/somewhere/kubepods/pod{U}/{C}", Some(C), Some(U)),
            // systemd driver.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{V}.slice/cri-containerd-{C}.scope",
                Some(C),
                Some(U),
            ),
            ("/kubepods.slice/kubepods-pod{V}.slice/docker-{C}.scope", Some(C), Some(U)),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{V}.slice/crio-{C}.scope",
                Some(C),
                Some(U),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{V}.slice/crio-{C}.scope/container",
                Some(C),
                Some(U),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{V}.slice/crio-conmon-{C}.scope",
                None,
                Some(U),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{S}.slice/cri-containerd-{C}.scope",
                Some(C),
                Some(S),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{V}.slice",
                None,
                Some(U),
            ),
            // The form of systemd's driver, asked of cgroupfs.
            ("/kubepods-burstable-pod{V}.slice:cri-containerd:{C}", Some(C), Some(U)),
            // What containers make inside: an init system, docker in a pod.
            ("/kubepods/burstable/pod{U}/{C}/init.scope", Some(C), Some(U)),
            ("/kubepods/burstable/pod{U}/{C}/system.slice/nginx.service", Some(C), Some(U)),
            ("/kubepods/burstable/pod{U}/{C}/docker/{N}", Some(C), Some(U)),
            ("/kubepods/burstable/pod{U}/{C}/podcast", Some(C), Some(U)),
            // kind and k3d: a node that is a container.
            ("/docker/{N}/kubelet/kubepods/burstable/pod{U}/{C}", Some(C), Some(U)),
            (
                "/system.slice/docker-{N}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{V}.slice/cri-containerd-{C}.scope",
                Some(C),
                Some(U),
            ),
            ("/system.slice/docker-{N}.scope/kubelet.slice/kubelet.service", Some(N), None),
            ("/docker/{N}/kubepods/besteffort/pod{U}", None, Some(U)),
            ("/docker/{N}/k3s", Some(N), None),
            // What a container may call a group of its own.
            ("/kubepods/pod{S}/{N}/docker/{N}/kubelet/kubepods/pod{U}/{C}", Some(N), Some(S)),
            ("/kubepods/pod{S}/{N}/kubepods/pod{U}/{C}", Some(N), Some(S)),
            ("/kubepods/pod{S}/odd/{C}", None, Some(S)),
            (
                "/kubepods.slice/kubepods-pod{V}.slice/crio-{C}.scope/kubepods.slice/kubepods-pod{S}.slice/crio-{N}.scope",
                Some(C),
                Some(U),
            ),
            ("/docker/{N}/kubelet/kubepods/pod{U}/{C}/kubepods/pod{S}/{N}", Some(C), Some(U)),
        ] {
            let path = path(pattern);
            let place = Place::of(&path);
            assert_eq!(
                (place.container.as_deref(), place.pod_uid.as_deref()),
                (container, pod),
                "{path}"
            );
            assert_eq!(place.cgroup, path);
        }
    }

    #[test]
    fn paths_of_containers_without_a_pod() {
        for (pattern, container) in [
            ("/docker/{C}", Some(C)),
            ("/system.slice/docker-{C}.scope", Some(C)),
            ("/system.slice:docker:{C}", Some(C)),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{C}.scope", Some(C)),
            ("/docker/{C}/docker/{N}", Some(C)),
            ("/lxc.payload.web/docker/{C}", Some("web")),
            ("/default/{C}", Some(C)),
            ("/system.slice/nerdctl-{C}.scope", Some(C)),
            ("/machine.slice/libpod-{C}.scope", Some(C)),
            ("/machine.slice/libpod-{C}.scope/container", Some(C)),
            ("/machine.slice/libpod-conmon-{C}.scope", None),
            ("/machine.slice/machine-libpod_pod_{N}.slice/libpod-{C}.scope", Some(C)),
            ("/machine.slice/machine-libpod_pod_{N}.slice", None),
            ("/libpod_parent/libpod-{C}", Some(C)),
            ("/libpod_parent/conmon", None),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C}.scope", Some(C)),
            ("/ecs/6f1d2c/{C}", Some(C)),
            ("/system.slice/runc-web.scope", Some("web")),
            ("/user.slice/user-0.slice/session-2.scope/crun-web", None),
            ("/system.slice/crun-web-1.scope", Some("web-1")),
            ("/lxc.payload.web", Some("web")),
            ("/lxc.monitor.web", None),
        ] {
            let path = path(pattern);
            let place = Place::of(&path);
            assert_eq!((place.container.as_deref(), place.pod_uid), (container, None), "{path}");
        }
    }

    #[test]
    fn paths_of_neither() {
        for pattern in [
            "/",
            "",
            "/..",
            "/init.scope",
            "/system.slice/ssh.service",
            "/user.slice/user-1000.slice/session-2.scope",
            // Podman's health checks run beside their container.
            "/system.slice/{C}.service",
            "/system.slice/{C}-1f2e3d4c.service",
            // A pod's form where no kubelet is.
            "/pod{U}",
            "/system.slice/my-pod{V}.slice",
            "/kubepods/burstable",
            "/kubepods/burstable/podcast",
            "/notkubepods/pod{U}",
            "/kubepods/pod0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d4",
            "/kubepods/pod0b1f6a9e-8f4d-4f7a-9c51-6a3b1f0e7d4X",
            // Not of 64 digits.
            "/docker/3f0f4f1f5a3e",
            "/docker/{C}0",
            "/docker/Z{C}",
        ] {
            let path = path(pattern);
            let place = Place::of(&path);
            assert_eq!((place.container, place.pod_uid), (None, None), "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_survived() {
        let (pod, slice) = (U, U.replace('-', "_"));
        let sound = [
            format!("/kubepods/burstable/pod{pod}/{C}/x"),
            format!(
                "/kubelet-kubepods-pod{slice}.slice:cri-containerd:{C}/cri-containerd-{C}.scope"
            ),
            format!("/system.slice/docker-{C}.scope/kubepods/pod{S}/lxc.payload.a"),
        ];
        crate::hostile::survived_text(&sound.each_ref().map(String::as_str), |path| {
            let place = Place::of(path);
            assert_eq!(place.cgroup, path);
            assert!(place.pod_uid.is_none_or(|uid| is_uid(&uid)));
            // An id is a part of the path: nobody is told of a container that is not there.
            assert!(place.container.is_none_or(|id| path.contains(&id)));
        });
    }
}
