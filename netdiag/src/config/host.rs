//! What the node says of its processes, where these live, and of network namespaces, for filters.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{fs::statfs, system::uname};

use super::{Home, Lookup, Process};
use crate::{
    cli::value::NetnsName,
    node::{
        self,
        netns::{self, Depth, NSFS_MAGIC},
        places::{Places, learn_names},
        within::within,
    },
    owner::Names,
};

/// Directories where tools keep named namespaces (`ip netns`, container runtimes).
const NAMED: [&str; 3] = ["run/netns", "var/run/netns", "run/docker/netns"];

/// The node, seen through its file system.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    /// Asked for once: it takes a look at every descriptor of the node.
    socket_holders: OnceLock<Vec<String>>,
}

impl Host {
    /// The node whose file system is mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), socket_holders: OnceLock::new() }
    }

    /// Name of the node in outputs and file names: `--node`, else `$NODE_NAME`, else the host's
    /// name where its file system is mounted elsewhere, else this machine's. What cannot stand in
    /// a file name becomes `_`.
    #[must_use]
    pub fn node_name(&self, flag: Option<&str>, variable: Option<&str>) -> String {
        let given = [flag, variable].into_iter().flatten().find(|name| !name.trim().is_empty());
        let name = given.map(str::to_owned).or_else(|| {
            let elsewhere = self.root != Path::new("/");
            elsewhere.then(|| fs::read_to_string(within(&self.root, "etc/hostname")).ok()).flatten()
        });
        let own = || uname().nodename().to_string_lossy().into_owned();
        let name = name.filter(|name| !name.trim().is_empty()).unwrap_or_else(own);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = name
            .trim()
            .trim_start_matches('.')
            .chars()
            .take(128)
            .map(|c| if allowed(c) { c } else { '_' })
            .collect();
        if name.is_empty() { "node".to_owned() } else { name }
    }

    fn of_process(&self, pid: u32) -> PathBuf {
        self.root.join(format!("proc/{pid}/ns/net"))
    }
}

impl Lookup for Host {
    fn knows_processes(&self) -> bool {
        node::proc::is_of_node(&self.root)
    }

    fn process(&self, pid: u32) -> Process {
        // A thread has a directory of its own there, which no listing shows.
        let path = self.root.join(format!("proc/{pid}/status"));
        let Ok(status) = fs::read_to_string(path) else { return Process::Absent };
        match tgid(&status) {
            Some(process) if process != pid => Process::Thread(process),
            _ => Process::Exists,
        }
    }

    fn socket_holders(&self) -> &[String] {
        self.socket_holders.get_or_init(|| node::seed(&self.root, false).holders())
    }

    fn netns(&self, name: &NetnsName) -> Result<u32, String> {
        let named = |name: &str| {
            NAMED.iter().find_map(|directory| inode(&within(&self.root, directory).join(name)))
        };
        match name {
            NetnsName::Inode(number) => {
                let found = netns::find(&self.root, Depth::Everything).namespaces;
                let known = found.iter().any(|namespace| namespace.inode == *number);
                known
                    .then_some(*number)
                    .or_else(|| named(&number.to_string()))
                    .ok_or_else(|| "no network namespace has this inode number".to_owned())
            }
            NetnsName::Name(name) => {
                named(name).ok_or_else(|| "no such name under /run/netns".to_owned())
            }
            NetnsName::Path(path) => {
                if !path.exists() {
                    return Err("no such file".to_owned());
                }
                inode(path).ok_or_else(|| "not the file of a network namespace".to_owned())
            }
            NetnsName::Pid(pid) if self.process(*pid) == Process::Absent => {
                Err("no such process".to_owned())
            }
            NetnsName::Pid(pid) => inode(&self.of_process(*pid))
                .ok_or_else(|| "its namespace cannot be read without privilege".to_owned()),
        }
    }

    fn netns_names(&self) -> Vec<String> {
        let names: BTreeSet<String> = NAMED
            .iter()
            .filter_map(|directory| fs::read_dir(within(&self.root, directory)).ok())
            .flat_map(Iterator::flatten)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.into_iter().collect()
    }

    fn process_names(&self) -> Vec<String> {
        let processes = fs::read_dir(self.root.join("proc")).into_iter().flatten().flatten();
        let processes = processes.filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
        });
        let names =
            processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
        let names: BTreeSet<String> = names.map(|name| name.trim_end().to_owned()).collect();
        names.into_iter().collect()
    }

    fn places(&self) -> Result<Vec<Home>, String> {
        let places = Places::begin(&self.root);
        if places.hierarchy().is_none() {
            let mounted = self.root.join("sys/fs/cgroup");
            return Err(format!("none are mounted at {}; give --host-root", mounted.display()));
        }
        let mut names = Names::default();
        learn_names(&self.root, &mut names);
        Ok(places.known().map(|(_, place)| (place.clone(), names.pod(place).cloned())).collect())
    }
}

/// The process of a thread, in the text of its status (proc_pid_status(5)).
fn tgid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Inode number of a namespace's file; `None` for any other file.
fn inode(path: &Path) -> Option<u32> {
    (statfs(path).ok()?.f_type == NSFS_MAGIC)
        .then(|| fs::metadata(path).ok())
        .flatten()
        .and_then(|metadata| u32::try_from(metadata.ino()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_tells_its_process() {
        assert_eq!(tgid("Name:\tjava\nTgid:\t812\nNgid:\t0\nPid:\t815\n"), Some(812));
        assert_eq!(tgid("Name:\tjava\n"), None);
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).expect("listener");
            ended.recv().ok();
        });
        let id = told.recv().expect("thread").as_raw_nonzero().get().unsigned_abs();
        let host = Host::new(Path::new("/"));
        assert_eq!(host.process(id), Process::Thread(std::process::id()));
        drop(end);
        thread.join().expect("thread");
    }

    #[test]
    fn this_process_and_its_namespace_are_found() {
        let host = Host::new(Path::new("/"));
        let pid = std::process::id();
        assert_eq!(host.process(pid), Process::Exists);
        let own = host.netns(&NetnsName::Pid(pid)).expect("own namespace");
        let path = NetnsName::Path("/proc/self/ns/net".into());
        assert_eq!(host.netns(&path), Ok(own));
        assert_eq!(host.netns(&NetnsName::Inode(own)), Ok(own));
    }

    #[test]
    fn the_node_is_named_by_whoever_knows_best() {
        let root = tempfile::tempdir().expect("directory");
        let host = Host::new(root.path());
        let own = host.node_name(None, None);
        assert!(!own.is_empty() && !own.contains('/'), "{own}");
        fs::create_dir(root.path().join("etc")).expect("directory");
        fs::write(root.path().join("etc/hostname"), "worker-3\n").expect("file");
        assert_eq!(host.node_name(None, None), "worker-3");
        assert_eq!(host.node_name(None, Some("")), "worker-3");
        assert_eq!(host.node_name(None, Some("pool/a b")), "pool_a_b");
        assert_eq!(host.node_name(Some("given"), Some("pool")), "given");
        assert_eq!(host.node_name(Some("../.."), None), "_..");
    }

    #[test]
    fn what_is_no_namespace_is_refused_with_its_reason() {
        let root = tempfile::tempdir().expect("directory");
        let names = root.path().join("run/netns");
        fs::create_dir_all(&names).expect("directory");
        fs::write(names.join("stale"), "").expect("file");
        let host = Host::new(root.path());
        assert_eq!(host.netns_names(), ["stale"]);
        assert!(host.netns(&NetnsName::Name("stale".into())).is_err());
        assert!(host.netns(&NetnsName::Name("none".into())).is_err());
        assert!(host.netns(&NetnsName::Inode(1)).is_err());
        assert!(host.netns(&NetnsName::Pid(1)).is_err());
        assert!(host.netns(&NetnsName::Path(names.join("stale"))).is_err());
        assert_eq!(host.process(1), Process::Absent);
    }
}
