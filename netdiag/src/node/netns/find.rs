//! Finding the network namespaces of a node.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{Handle, Namespace, OWN, own_inode};
use crate::node::{
    mounts,
    proc::{self, Target},
};

/// Ways to one namespace that are remembered: a process may end before its namespace is entered.
const HANDLES: usize = 4;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The main thread of every process, and the bind mounts that this process and process 1 see:
    /// cheap enough for every interval.
    Processes,
    /// Every thread, every descriptor, and the bind mounts in every mount namespace.
    Everything,
}

/// The namespaces found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Sorted by inode number, each once.
    pub namespaces: Vec<Namespace>,
    /// What could not be looked at, one line each.
    pub problems: Vec<String>,
}

/// Looks for network namespaces in the procfs under `host_root`, and in this process.
#[must_use]
pub fn find(host_root: &Path, depth: Depth) -> Found {
    let mut search = Search::default();
    if let Ok(inode) = own_inode() {
        search.namespace(inode, || Handle::Link(OWN.into())).own = true;
    }
    if let Ok(text) = fs::read("/proc/self/mountinfo") {
        search.mounts(&text, Path::new("/"));
    }
    let procfs = host_root.join("proc");
    if let Err(error) = search.processes(host_root, &procfs, depth) {
        search.problems.push(format!(
            "cannot read {}: {error}: only the own network namespace and those mounted here are \
             seen; mount a procfs there or give --host-root",
            procfs.display()
        ));
    }
    if search.hidden > 0 {
        let who = match search.hidden {
            1 => "1 process hides its".to_owned(),
            many => format!("{many} processes hide their"),
        };
        search.problems.push(format!(
            "{who} network namespace: it is not seen unless another process shares it; seeing it \
             takes CAP_SYS_PTRACE and no security module that forbids it"
        ));
    }
    let mut namespaces: Vec<_> = search.namespaces.into_values().collect();
    for namespace in &mut namespaces {
        namespace.names.sort_unstable();
        namespace.mounts.sort_unstable();
    }
    Found { namespaces, problems: search.problems }
}

#[derive(Default)]
struct Search {
    namespaces: BTreeMap<u32, Namespace>,
    hidden: usize,
    problems: Vec<String>,
}

impl Search {
    fn namespace(&mut self, inode: u32, handle: impl FnOnce() -> Handle) -> &mut Namespace {
        let namespace = self.namespaces.entry(inode).or_default();
        namespace.inode = inode;
        if namespace.handles.len() < HANDLES {
            namespace.handles.push(handle());
        }
        namespace
    }

    fn processes(&mut self, host_root: &Path, path: &Path, depth: Depth) -> Result<(), Errno> {
        let procfs = proc::open(host_root)?;
        let mut mount_namespaces = HashSet::new();
        proc::numbers(procfs.as_fd(), |pid, name| {
            // A quick look takes one call of nearly every process.
            let of_main = (depth == Depth::Processes)
                .then(|| self.link(procfs.as_fd(), &format!("{pid}/ns/net"), path, pid));
            // Where the main thread has ended, another one may live.
            let of_main = of_main.filter(|seen| *seen != Err(Errno::NOENT));
            if let Some(seen) = of_main
                && pid != 1
            {
                self.hidden += usize::from(seen.is_err_and(|error| !proc::gone(error)));
                return;
            }
            let process = match proc::open_dir(procfs.as_fd(), name.to_str().unwrap_or_default()) {
                Ok(process) => process,
                Err(error) => {
                    self.hidden += usize::from(!proc::gone(error));
                    return;
                }
            };
            let directory = path.join(pid.to_string());
            let seen = of_main.unwrap_or_else(|| self.threads(process.as_fd(), &directory, pid));
            if seen.is_err_and(|error| !proc::gone(error)) {
                self.hidden += 1;
                return;
            }
            // Process 1 is looked at in any case: under a host root its mounts are not ours.
            if (depth == Depth::Everything || pid == 1)
                && let Ok(Target::Mountns(inode)) = proc::target(process.as_fd(), c"ns/mnt")
                && mount_namespaces.insert(inode)
                && let Ok(text) = fs::read(directory.join("mountinfo"))
            {
                self.mounts(&text, &directory.join("root"));
            }
            if depth == Depth::Everything {
                self.descriptors(process.as_fd(), &directory);
            }
        })
    }

    fn threads(
        &mut self,
        process: BorrowedFd<'_>,
        directory: &Path,
        pid: u32,
    ) -> Result<(), Errno> {
        let tasks = proc::open_dir(process, "task")?;
        let mut result = Ok(());
        proc::numbers(tasks.as_fd(), |tid, name| {
            let directory = || directory.join(format!("task/{tid}"));
            let seen = proc::open_dir(tasks.as_fd(), name.to_str().unwrap_or_default())
                .and_then(|task| self.link(task.as_fd(), "ns/net", &directory(), pid));
            if let Err(error) = seen
                && !proc::gone(error)
            {
                result = Err(error);
            }
        })?;
        result
    }

    /// The namespace that a process's link leads to, which lies so below a directory with that path.
    fn link(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &str,
        path: &Path,
        pid: u32,
    ) -> Result<(), Errno> {
        if let Target::Netns(inode) = proc::target(dir, name)? {
            let handle = || Handle::Link(path.join(name));
            let namespace = self.namespace(inode, handle);
            namespace.pid = namespace.pid.min(Some(pid)).or(Some(pid));
        }
        Ok(())
    }

    fn descriptors(&mut self, process: BorrowedFd<'_>, directory: &Path) {
        let Ok(descriptors) = proc::open_dir(process, "fd") else { return };
        // A process that ends meanwhile has no descriptors left to miss.
        let _ = proc::numbers(descriptors.as_fd(), |number, name| {
            if let Ok(Target::Netns(inode)) = proc::target(descriptors.as_fd(), name) {
                self.namespace(inode, || Handle::Link(directory.join(format!("fd/{number}"))));
            }
        });
    }

    fn mounts(&mut self, mountinfo: &[u8], root: &Path) {
        for (inode, path) in namespace_mounts(mountinfo) {
            let namespace = self
                .namespace(inode, || Handle::Mount { root: root.to_owned(), path: path.clone() });
            let name = ["/run/netns", "/var/run/netns"]
                .iter()
                .find_map(|directory| path.strip_prefix(directory).ok())
                .and_then(Path::to_str);
            if let Some(name) = name
                && !namespace.names.iter().any(|known| known == name)
            {
                namespace.names.push(name.to_owned());
            }
            if !namespace.mounts.contains(&path) {
                namespace.mounts.push(path);
            }
        }
    }
}

/// Bind mounts of network namespaces in a `mountinfo` (`proc_pid_mountinfo(5)`): inode number and
/// mount point.
fn namespace_mounts(mountinfo: &[u8]) -> impl Iterator<Item = (u32, PathBuf)> {
    mounts::all(mountinfo).filter(|mount| mount.kind == b"nsfs").filter_map(|mount| {
        let inode = mount.root.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
        Some((inode.parse().ok()?, mount.point))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mounts_of_namespaces_only() {
        let text = b"\
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
98 25 0:4 net:[4026532281] /run/netns/blue rw shared:60 - nsfs nsfs rw\n\
99 25 0:4 net:[4026532399] /run/docker/netns/a\\040b\\134 rw - nsfs nsfs rw\n\
97 25 0:4 mnt:[4026532398] /run/mnt rw shared:60 - nsfs nsfs rw\n\
96 25 0:5 net:[4026532397] /tmp/lie rw - tmpfs tmpfs rw\n\
95 25 0:4 net:[x] /run/netns/bad rw - nsfs nsfs rw\n\
94 25";
        let found: Vec<_> = namespace_mounts(text).collect();
        assert_eq!(
            found,
            [
                (4_026_532_281, PathBuf::from("/run/netns/blue")),
                (4_026_532_399, PathBuf::from("/run/docker/netns/a b\\")),
            ]
        );
    }

    #[test]
    fn names_and_mounts_join_one_namespace() {
        let mut search = Search::default();
        let text = b"\
98 25 0:4 net:[7] /run/netns/blue rw shared:60 - nsfs nsfs rw\n\
99 25 0:4 net:[7] /var/run/netns/blue rw - nsfs nsfs rw\n\
99 25 0:4 net:[7] /run/netns/azure rw - nsfs nsfs rw\n";
        search.mounts(text, Path::new("/"));
        search.mounts(text, Path::new("/proc/1/root"));
        let namespace = &search.namespaces[&7];
        assert_eq!(namespace.names, ["blue", "azure"]);
        assert_eq!(namespace.mounts.len(), 3);
        assert_eq!(namespace.handles.len(), HANDLES);
    }

    proptest! {
        #[test]
        fn any_mountinfo_is_survived(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, path) in namespace_mounts(&text) {
                prop_assert!(path.as_os_str().len() <= text.len());
            }
        }
    }

    #[test]
    fn hostile_mounts_are_survived() {
        let sound = b"98 25 0:4 net:[4026532281] /run/netns/a\\040b rw shared:60 - nsfs nsfs rw\n";
        crate::hostile::survived(&[sound.to_vec()], |text| {
            for (_, path) in namespace_mounts(text) {
                assert!(path.as_os_str().len() <= text.len());
            }
        });
    }
}
