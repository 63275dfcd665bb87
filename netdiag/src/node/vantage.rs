//! What of the node can be looked at from here: containers see little of it, by what is mounted and by
//! what they may do.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{PROC_SUPER_MAGIC, statfs},
    thread::CapabilitySet,
};

use super::{
    places::{self, ROOT},
    proc,
};
use crate::sandbox;

/// Where containers that look at their node have its file system: `kubectl debug node` mounts it
/// there, and so does deploy/.
pub const USUAL: &str = "/host";

/// The file system of the node, where nobody tells where it is: at `usual`, where a procfs shows
/// that there is one, else at the root.
#[must_use]
pub fn host_root(usual: &Path) -> PathBuf {
    let is_procfs = |path: &Path| statfs(path).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC);
    let root = if is_procfs(&usual.join("proc")) { usual } else { Path::new("/") };
    root.to_owned()
}

/// What is said of a root that nobody named, unless it is this machine's own.
#[must_use]
pub fn taken(host_root: &Path) -> Option<String> {
    (host_root != Path::new("/")).then(|| {
        let root = host_root.display();
        format!(
            "the node is looked at below {root}, for {root}/proc is a procfs; where that is no node's, give \
             --host-root /"
        )
    })
}

/// Whether this process runs in a container, as far as that can be told.
#[must_use]
pub fn in_container(host_root: &Path) -> bool {
    host_root != Path::new("/")
        || !proc::is_of_node(Path::new("/"))
        // The kubelet gives it to every container.
        || env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// What cannot be seen of the node, and why, one line each.
#[must_use]
pub fn unseen(host_root: &Path) -> Vec<String> {
    let mut lines = lacking(sandbox::has());
    let procfs = host_root.join("proc");
    if !proc::is_of_node(host_root) {
        lines.push(format!(
            "processes that {} does not number as the node does: sockets from before the start have no \
             owner, and a thread is named as its process; mount the node's at {USUAL}/proc, or run with \
             its PID namespace (hostPID)",
            procfs.display()
        ));
    }
    lines.extend(groups(&host_root.join("sys/fs/cgroup")));
    lines
}

/// What the capabilities that are missing would let see.
fn lacking(effective: CapabilitySet) -> Vec<String> {
    // Each: any of these, its name, what is not seen without it.
    let needs = [
        (
            CapabilitySet::SYS_ADMIN,
            "CAP_SYS_ADMIN",
            "other network namespaces cannot be entered: their older sockets, counters and interfaces",
        ),
        (
            CapabilitySet::SYS_PTRACE,
            "CAP_SYS_PTRACE",
            "other processes' descriptors and namespaces: owners of older sockets, and network namespaces \
             that have no mount",
        ),
        (
            CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE,
            "CAP_DAC_READ_SEARCH",
            "descriptors of other users' processes: owners of older sockets",
        ),
        (
            CapabilitySet::NET_ADMIN,
            "CAP_NET_ADMIN",
            "entries of the connection tracking table, and packet filter rules",
        ),
        (
            CapabilitySet::SYSLOG,
            "CAP_SYSLOG",
            "where the kernel's functions lie: names of places where packets are dropped",
        ),
    ];
    needs
        .into_iter()
        .filter(|(any, ..)| !effective.intersects(*any))
        .map(|(_, name, what)| format!("without {name}: {what}"))
        .collect()
}

/// Whether the control groups below `root` are the node's, for no name of a container or pod is known
/// from others.
fn groups(root: &Path) -> Option<String> {
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut hierarchies =
        [root.to_owned()].into_iter().chain(below).filter(|path| places::mounted(path).is_some());
    let Some(first) = hierarchies.next() else {
        return Some(format!(
            "control groups: none are mounted at {}, so groups, containers and pods have no names; mount \
             the node's at {USUAL}/sys/fs/cgroup",
            root.display()
        ));
    };
    let inode = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.ino());
    let whole = |path: &Path| inode(path).is_none_or(|inode| inode == ROOT);
    let partial = match first == root {
        true => !whole(root),
        false => !whole(&first) || hierarchies.any(|hierarchy| !whole(&hierarchy)),
    };
    partial.then(|| {
        format!(
            "control groups of others: {} shows this container's alone, so theirs have no names; mount \
             the node's at {USUAL}/sys/fs/cgroup",
            root.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procfs_shows_where_the_node_is() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(host_root(directory.path()), Path::new("/"), "no directory proc");
        fs::create_dir(directory.path().join("proc")).expect("directory");
        assert_eq!(host_root(directory.path()), Path::new("/"), "no procfs");
        let linked = directory.path().join("linked");
        std::os::unix::fs::symlink("/", &linked).expect("link");
        assert_eq!(host_root(&linked), linked);
        assert!(taken(&linked).is_some_and(|line| line.contains("--host-root /")));
        assert_eq!(taken(Path::new("/")), None);
    }

    #[test]
    fn what_is_missing_is_said_with_what_it_costs() {
        let all = CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::NET_ADMIN
            | CapabilitySet::SYSLOG;
        assert_eq!(lacking(all), Vec::<String>::new());
        let other = (all - CapabilitySet::DAC_READ_SEARCH) | CapabilitySet::DAC_OVERRIDE;
        assert_eq!(lacking(other), Vec::<String>::new(), "either does");
        let [line] = &lacking(all - CapabilitySet::SYS_PTRACE)[..] else { panic!("one line") };
        assert!(line.starts_with("without CAP_SYS_PTRACE: "), "{line}");
        assert_eq!(lacking(CapabilitySet::empty()).len(), 5);
    }

    #[test]
    fn groups_that_are_not_mounted_are_told() {
        let directory = tempfile::tempdir().expect("directory");
        let line = groups(directory.path()).expect("a line");
        assert!(line.starts_with("control groups: none are mounted"), "{line}");
    }
}
