//! Whom filters ask for, as people and tools write it.

use std::{fmt, path::PathBuf};

use super::Parsed;

/// Where hierarchies of cgroups are mounted below `/sys/fs/cgroup` where that holds several, and links to them.
const DIRECTORIES: [&str; 17] = [
    "unified",
    "systemd",
    "memory",
    "pids",
    "cpu,cpuacct",
    "cpu",
    "cpuacct",
    "devices",
    "freezer",
    "blkio",
    "cpuset",
    "net_cls,net_prio",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
];

/// How a network namespace was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsName {
    /// Inode number.
    Inode(u32),
    /// Name under `/run/netns`.
    Name(String),
    /// Path of a file of the namespace.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inode(inode) => write!(f, "{inode}"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// `--netns`.
pub fn netns(text: &str) -> Parsed<NetnsName> {
    if let Some(pid) = text.strip_prefix("pid:") {
        return pid
            .parse()
            .map(NetnsName::Pid)
            .map_err(|_| format!("`{pid}` is no process id; write pid:4711"));
    }
    if text.is_empty() || text == "." || text == ".." {
        return Err("write an inode number, a name under /run/netns, a path, or pid:N".to_owned());
    }
    if text.contains('/') {
        return Ok(NetnsName::Path(text.into()));
    }
    Ok(text.parse().map_or_else(|_| NetnsName::Name(text.to_owned()), NetnsName::Inode))
}

/// `--comm`, `--pod` and `--namespace`.
pub fn name(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("write a name".to_owned());
    }
    Ok(text.to_owned())
}

/// `--cgroup`: a path below the root of its hierarchy, or below where that is mounted here or on the node, or a line
/// of `/proc/PID/cgroup`.
pub fn cgroup(text: &str) -> Parsed<String> {
    let below = below_hierarchy(text).trim_matches('/');
    if text.is_empty() || below.split('/').any(|name| name == ".." || name == ".") {
        return Err(
            "write a path below /sys/fs/cgroup, such as system.slice/nginx.service".to_owned()
        );
    }
    Ok(format!("/{below}"))
}

/// The path below the root of a hierarchy, in what tools print of a cgroup.
fn below_hierarchy(text: &str) -> &str {
    // `ID:CONTROLLERS:PATH` (cgroups(7)).
    let mut parts = text.splitn(3, ':');
    if let (Some(id), Some(_controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        && id.parse::<u32>().is_ok()
    {
        return path;
    }
    let Some((_, mounted)) =
        text.split_once("sys/fs/cgroup").filter(|(root, _)| root.starts_with('/'))
    else {
        return text;
    };
    let mounted = mounted.trim_start_matches('/');
    let (first, below) = mounted.split_once('/').unwrap_or((mounted, ""));
    if DIRECTORIES.contains(&first) { below } else { mounted }
}

/// `--container`: the beginning of an id, as the tools of runtimes and of Kubernetes print it. Runtimes without a
/// manager above them take any name.
pub fn container(text: &str) -> Parsed<String> {
    let id = text.rsplit_once("://").map_or(text, |(_runtime, id)| id);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    if id.is_empty() || !id.bytes().all(allowed) {
        return Err(
            "write the beginning of a container id, such as 3f0f4f1f5a3e or containerd://3f0f4f1f5a3e".to_owned()
        );
    }
    Ok(id.to_owned())
}
