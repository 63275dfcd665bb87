//! Pods as kubelet and a runtime make them: control groups of either version and driver, and the log files that
//! name them. No pod is run by anyone: what netdiag goes by is all that there is.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::cgroup::{self, Cgroup};

/// How kubelet names groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// By levels: `kubepods/burstable/podUID/ID`.
    Cgroupfs,
    /// As systemd's slices and scopes: `kubepods.slice/kubepods-burstable.slice/…`.
    Systemd,
}

/// Classes of service, with the name that groups of the class have.
const CLASSES: [Option<&str>; 3] = [None, Some("burstable"), Some("besteffort")];

/// A node's file system with its own log files, for `--host-root`; its processes and groups are this machine's.
/// Groups and files are removed when it is dropped.
#[derive(Debug)]
pub struct Node {
    root: TempDir,
    /// In which the groups are.
    groups: Cgroup,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Path of its group below the root of the hierarchy.
    pub cgroup: String,
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Uid of its pod.
    pub pod_uid: String,
    /// Name of its pod.
    pub pod: String,
    /// Kubernetes namespace of its pod.
    pub namespace: String,
    /// Where processes are put into it.
    pub procs: PathBuf,
}

impl Node {
    /// A node without pods.
    ///
    /// # Errors
    /// When there is no hierarchy of groups.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = tempfile::tempdir()?;
        for name in ["proc", "sys", "run"] {
            symlink(Path::new("/").join(name), root.path().join(name))?;
        }
        for name in ["pods", "containers"] {
            fs::create_dir_all(root.path().join("var/log").join(name))?;
        }
        // Kubelet's --cgroup-root, so that tests of other binaries do not meet.
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { root, groups: Cgroup::new("memory", &format!("pods-{nth}"))? })
    }

    /// For `--host-root`.
    ///
    /// # Panics
    /// When the directory for temporary files has no name in UTF-8.
    #[must_use]
    pub fn root(&self) -> &str {
        self.root.path().to_str().expect("a name in UTF-8")
    }

    /// The `nth` container there is, with two in each pod and pods of all classes of service. Nothing names it yet.
    ///
    /// # Errors
    /// When its group cannot be made.
    pub fn container(&self, driver: Driver, nth: u32) -> Result<Container> {
        let pod_nth = nth / 2;
        // Neither is ever used twice.
        let pod_uid = format!("{pod_nth:08x}-8f4d-4f7a-9c51-{:012x}", process::id());
        let id = format!("{nth:032x}{:032x}", process::id());
        let class = CLASSES[pod_nth as usize % CLASSES.len()];
        let below = match (driver, class) {
            (Driver::Cgroupfs, None) => format!("kubepods/pod{pod_uid}/{id}"),
            (Driver::Cgroupfs, Some(class)) => format!("kubepods/{class}/pod{pod_uid}/{id}"),
            (Driver::Systemd, class) => {
                let uid = pod_uid.replace('-', "_");
                let scope = format!("cri-containerd-{id}.scope");
                match class {
                    None => format!("kubepods.slice/kubepods-pod{uid}.slice/{scope}"),
                    Some(class) => {
                        let slice = format!("kubepods-{class}");
                        format!("kubepods.slice/{slice}.slice/{slice}-pod{uid}.slice/{scope}")
                    }
                }
            }
        };
        let group = self.groups.path().join(&below);
        fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
        Ok(Container {
            cgroup: format!("/{}/{below}", self.groups.name()),
            id,
            name: format!("app-{}", nth % 2),
            pod_uid,
            pod: format!("web-{pod_nth}"),
            namespace: format!("shop-{}", pod_nth % 7),
            procs: group.join("cgroup.procs"),
        })
    }

    /// Writes the log files of a container, as kubelet does when it starts it.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn name(&self, container: &Container) -> Result<()> {
        let Container { id, name, pod_uid, pod, namespace, .. } = container;
        let logs = self.root.path().join("var/log");
        let directory = format!("pods/{namespace}_{pod}_{pod_uid}/{name}");
        fs::create_dir_all(logs.join(&directory))?;
        fs::write(logs.join(&directory).join("0.log"), "")?;
        let link = logs.join(format!("containers/{pod}_{namespace}_{name}-{id}.log"));
        symlink(Path::new("/var/log").join(directory).join("0.log"), link)?;
        Ok(())
    }
}

impl Container {
    /// Removes its group, which no process is in any more.
    ///
    /// # Errors
    /// When one still is.
    pub fn remove(&self) -> Result<()> {
        let group = self.procs.parent().context("a group")?;
        cgroup::remove(group)
    }
}
