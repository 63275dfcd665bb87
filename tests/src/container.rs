//! Containers as the kubelet starts them, by runc: netdiag's own from deploy/daemonset.yaml, and others that
//! it shall name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use rustix::{
    fs::statfs,
    thread::{CapabilitySet, capabilities},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::manifest::{Volume, host_network, volumes};
use crate::{namespace::Namespace, netdiag, tool};

mod manifest;

pub use self::manifest::{DAEMONSET, capabilities_of};

/// Magic numbers of file systems in memory (`include/uapi/linux/magic.h`): tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Names of containers that the kernel's tools and runc agree on.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A container that has not been started, or has; gone with its value.
#[derive(Debug)]
pub struct Container {
    home: TempDir,
    id: String,
    config: Value,
}

impl Container {
    /// netdiag's as the manifest has it: its capabilities alone, a root that is read-only, and of the node
    /// what the manifest mounts. Directories of the node that are for people (`/var`) are below [`Self::node`]
    /// instead.
    ///
    /// # Errors
    /// When the manifest cannot be followed.
    pub fn of_daemonset() -> Result<Self> {
        let mut pod = Self::new("netdiag")?;
        let mut mounts = Vec::new();
        for Volume { host, inside, read_only } in volumes(DAEMONSET)? {
            let source = match host.starts_with("/var") {
                true => pod.node(&host),
                false => PathBuf::from(&host),
            };
            fs::create_dir_all(&source)?;
            mounts.push(bind(&source, &inside, read_only));
        }
        pod.mount(mounts);
        pod.mount(vec![bind(&netdiag::binary()?, "/usr/bin/netdiag", true)]);
        let may = capabilities(None)?.permitted;
        let wanted = capabilities_of(DAEMONSET)?;
        // runc cannot give what this process has not.
        pod.capabilities(wanted.into_iter().filter(|name| has(may, name)));
        pod.namespaces(&if host_network(DAEMONSET) { vec![] } else { vec!["network"] });
        Ok(pod)
    }

    /// A container of somebody else's with busybox in it, in a network namespace, whose control group is at
    /// `cgroup` below the root of each hierarchy.
    ///
    /// # Errors
    /// When there is no busybox.
    pub fn workload(id: &str, cgroup: &str, namespace: &Namespace) -> Result<Self> {
        let mut pod = Self::new(id)?;
        id.clone_into(&mut pod.id);
        let busybox = tool::find("busybox").context("busybox is not installed")?;
        pod.mount(vec![bind(&busybox, "/usr/bin/busybox", true)]);
        pod.namespaces(&[]);
        let path = format!("/run/netns/{}", namespace.name());
        if let Some(namespaces) = pod.config["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "network", "path": path}));
        }
        pod.config["linux"]["cgroupsPath"] = json!(cgroup);
        Ok(pod)
    }

    fn new(label: &str) -> Result<Self> {
        let home = tempfile::tempdir()?;
        for directory in ["usr/bin", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(home.path().join("rootfs").join(directory))?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("nd{}-{number}-{label}", std::process::id());
        let mount = |kind, at, option: &str| json!({"type": kind, "source": kind, "destination": at, "options": ["nosuid", option]});
        let config = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/usr/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "pod",
            "mounts": [
                mount("proc", "/proc", "nodev"),
                mount("tmpfs", "/dev", "mode=755"),
                mount("sysfs", "/sys", "ro"),
                mount("tmpfs", "/tmp", "mode=1777"),
            ],
            // What containerd hides and protects.
            "linux": {
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Ok(Self { home, id, config })
    }

    /// Where a directory of the node is that a container must not write to.
    #[must_use]
    pub fn node(&self, path: &str) -> PathBuf {
        self.home.path().join("node").join(path.trim_start_matches('/'))
    }

    /// Whether all that is kept of it is in memory, as in a machine without a disk.
    ///
    /// # Errors
    /// When its directory is gone.
    pub fn is_in_memory(&self) -> Result<bool> {
        Ok(in_memory(self.home.path())?)
    }

    /// Its own PID namespace, or the node's (hostPID).
    #[must_use]
    pub fn with_host_pid(mut self, host_pid: bool) -> Self {
        self.share("pid", host_pid);
        self
    }

    /// Its own network namespace, or the node's (hostNetwork).
    #[must_use]
    pub fn with_host_network(mut self, host_network: bool) -> Self {
        self.share("network", host_network);
        self
    }

    /// Without anything that is mounted below this path.
    #[must_use]
    pub fn without_mounts(mut self, below: &str) -> Self {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.retain(|mount| {
                !mount["destination"].as_str().is_some_and(|at| at.starts_with(below))
            });
        }
        self
    }

    /// Without a capability, such as `CAP_SYSLOG`.
    #[must_use]
    pub fn without_capability(mut self, name: &str) -> Self {
        let sets = self.config["process"]["capabilities"].as_object_mut();
        for set in sets.into_iter().flat_map(serde_json::Map::values_mut) {
            if let Some(names) = set.as_array_mut() {
                names.retain(|known| known != name);
            }
        }
        self
    }

    /// A directory or file of the machine mounted inside.
    #[must_use]
    pub fn with_mount(mut self, source: &Path, inside: &str, read_only: bool) -> Self {
        self.mount(vec![bind(source, inside, read_only)]);
        self
    }

    /// With another environment variable.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        if let Some(variables) = self.config["process"]["env"].as_array_mut() {
            variables.push(json!(format!("{name}={value}")));
        }
        self
    }

    /// In this directory.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.config["process"]["cwd"] = json!(directory);
        self
    }

    /// A command that starts it, passes its output and signals on, and ends as it ends.
    ///
    /// # Errors
    /// When there is no runc.
    pub fn command(&mut self, arguments: &[&str]) -> Result<Command> {
        self.config["process"]["args"] = json!(arguments);
        fs::write(self.home.path().join("config.json"), self.config.to_string())?;
        let mut command = self.runc()?;
        command.arg("run");
        // The root of a machine without a disk cannot be changed for another one (`pivot_root(2)`).
        if in_memory(Path::new("/"))? {
            command.arg("--no-pivot");
        }
        command.arg("--bundle").arg(self.home.path()).arg(&self.id);
        command.stdin(std::process::Stdio::null());
        Ok(command)
    }

    fn runc(&self) -> Result<Command> {
        let mut command = tool::command("runc")?;
        command.arg("--root").arg(self.home.path().join("state"));
        Ok(command)
    }

    fn mount(&mut self, more: Vec<Value>) {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.extend(more);
        }
    }

    fn capabilities(&mut self, names: impl Iterator<Item = String>) {
        let names: Vec<_> = names.collect();
        self.config["process"]["capabilities"] = json!({
            "bounding": names, "effective": names, "permitted": names,
        });
    }

    /// Those that every container has of its own, and more.
    fn namespaces(&mut self, more: &[&str]) {
        let all = ["mount", "ipc", "uts", "cgroup", "pid"];
        let all: Vec<_> = all.iter().chain(more).map(|kind| json!({"type": kind})).collect();
        self.config["linux"]["namespaces"] = all.into();
    }

    fn share(&mut self, kind: &str, with_node: bool) {
        let Some(namespaces) = self.config["linux"]["namespaces"].as_array_mut() else { return };
        namespaces.retain(|namespace| namespace["type"] != kind);
        if !with_node {
            namespaces.push(json!({"type": kind}));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // One that has ended is not known any more.
        let ended = self
            .runc()
            .and_then(|mut runc| Ok(runc.args(["delete", "--force"]).arg(&self.id).output()?));
        if let Err(error) = ended {
            eprintln!("container {} may stay behind: {error:#}", self.id);
        }
    }
}

fn bind(source: &Path, inside: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"type": "bind", "source": source, "destination": inside, "options": ["rbind", access]})
}

fn in_memory(path: &Path) -> std::io::Result<bool> {
    let magic = statfs(path)?.f_type;
    Ok(IN_MEMORY.iter().any(|known| i128::from(*known) == i128::from(magic)))
}

fn has(set: CapabilitySet, name: &str) -> bool {
    let name = name.trim_start_matches("CAP_");
    CapabilitySet::from_name(name).is_some_and(|capability| set.contains(capability))
}
