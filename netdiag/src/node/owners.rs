//! Which process holds a socket.
//!
//! A socket dump names no process. A descriptor of a process does name its socket, as
//! `/proc/PID/fd/N -> socket:[INODE]`, so every descriptor of the node is read once.
//!
//! Several processes can hold one socket (fork, SCM_RIGHTS, socket activation) and nothing in the
//! kernel says which of them sends on it. The one that started first is taken, since a child
//! inherits from its parent, but process 1 only when nobody else holds it, since a service manager
//! keeps the sockets that it hands out; between equals the lowest process id.
//! [`Owner::holders`] says that there was a choice.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use procfs::{FromRead, process::Stat};
use rustix::io::Errno;

use super::proc::{self, Target};

mod known;

pub use known::Known;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id (tgid) as the scanned procfs counts it.
    pub pid: u32,
    /// Name of its main thread; empty when the process ended meanwhile.
    pub comm: String,
    /// How many processes hold the socket.
    pub holders: u32,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Owners by inode number of the socket; a socket that no readable process holds is absent.
    pub by_inode: HashMap<u64, Owner>,
    /// Processes whose descriptors were read.
    pub processes: usize,
    /// Processes whose descriptors may not be read; sockets that they hold stay without owner.
    pub unreadable: usize,
    /// Descriptors read.
    pub descriptors: usize,
}

impl Owners {
    /// What is missing, in one line; none when every process could be read.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        (self.unreadable > 0).then(|| {
            format!(
                "{} of {} processes hide their descriptors: sockets older than the start that they \
                 hold have no owner; seeing them takes CAP_SYS_PTRACE and no security module that \
                 forbids it",
                self.unreadable,
                self.unreadable + self.processes
            )
        })
    }
}

/// Finds the owners of the sockets with these inode numbers. Inode 0 means a socket that no
/// descriptor refers to (not yet accepted, or closed and draining) and has none.
///
/// # Errors
/// One line when the procfs itself cannot be read. Single processes that cannot are counted.
pub fn find(host_root: &Path, wanted: &HashSet<u64>) -> Result<Owners, String> {
    let root = host_root.join("proc");
    let unreadable = |error: Errno| {
        format!(
            "cannot read {}: {error}: sockets older than the start have no owner; mount a procfs \
             there or give --host-root",
            root.display()
        )
    };
    let procfs = proc::open(host_root).map_err(unreadable)?;
    if !proc::is_of_node(host_root) {
        return Err(format!(
            "{} is that of a container, whose process ids are not the node's: processes have no \
             names, and sockets older than the start no owner; run with the node's PID namespace \
             (hostPID) or give --host-root",
            root.display()
        ));
    }
    let mut owners = Owners::default();
    let mut choice: HashMap<u64, Choice> = HashMap::new();
    let mut starts = HashMap::new();
    let mut held = Vec::new();
    proc::numbers(procfs.as_fd(), |pid, _| {
        held.clear();
        match sockets_of(procfs.as_fd(), pid, &mut held) {
            Ok(descriptors) => {
                owners.processes += 1;
                owners.descriptors += descriptors;
            }
            Err(error) if proc::gone(error) => return,
            Err(_) => {
                owners.unreadable += 1;
                return;
            }
        }
        held.retain(|inode| *inode != 0 && wanted.contains(inode));
        held.sort_unstable();
        held.dedup();
        for inode in &held {
            match choice.entry(*inode) {
                Entry::Vacant(entry) => {
                    entry.insert(Choice { pid, holders: 1 });
                }
                Entry::Occupied(mut entry) => {
                    let chosen = entry.get_mut();
                    chosen.holders += 1;
                    let mut start = |pid| *starts.entry(pid).or_insert_with(|| start(&root, pid));
                    if rank(pid, start(pid)) < rank(chosen.pid, start(chosen.pid)) {
                        chosen.pid = pid;
                    }
                }
            }
        }
    })
    .map_err(unreadable)?;
    let mut comms: HashMap<u32, String> = HashMap::new();
    owners.by_inode = choice
        .into_iter()
        .map(|(inode, Choice { pid, holders })| {
            let comm = comms.entry(pid).or_insert_with(|| comm(&root, pid)).clone();
            (inode, Owner { pid, comm, holders })
        })
        .collect();
    Ok(owners)
}

/// Order of preference among the holders of a socket, the lowest first.
const fn rank(pid: u32, start: u64) -> (bool, u64, u32) {
    (pid == 1, start, pid)
}

#[derive(Clone, Copy)]
struct Choice {
    pid: u32,
    holders: u32,
}

/// Appends the inode numbers of the sockets that a process holds; gives the number of descriptors.
/// When the main thread has ended, its descriptors are those of the other threads.
fn sockets_of(procfs: BorrowedFd<'_>, pid: u32, into: &mut Vec<u64>) -> Result<usize, Errno> {
    let of_main = descriptors(procfs, &format!("{pid}/fd"), into)?;
    if of_main > 0 {
        return Ok(of_main);
    }
    let tasks = proc::open_dir(procfs, &format!("{pid}/task"))?;
    let mut of_others = 0;
    proc::numbers(tasks.as_fd(), |tid, _| {
        if of_others == 0 && tid != pid {
            of_others = descriptors(tasks.as_fd(), &format!("{tid}/fd"), into).unwrap_or(0);
        }
    })?;
    Ok(of_others)
}

fn descriptors(dir: BorrowedFd<'_>, name: &str, into: &mut Vec<u64>) -> Result<usize, Errno> {
    let directory = proc::open_dir(dir, name)?;
    let mut count = 0;
    let mut hidden = Ok(());
    proc::numbers(directory.as_fd(), |_, name| {
        count += 1;
        match proc::target(directory.as_fd(), name) {
            Ok(Target::Socket(inode)) => into.push(inode),
            Err(error) if !proc::gone(error) => hidden = Err(error),
            _ => {}
        }
    })?;
    hidden.map(|()| count)
}

/// When a process started, in clock ticks since boot (`proc_pid_stat(5)`, field 22); the end of
/// time when it is gone, so that the living go first.
fn start(root: &Path, pid: u32) -> u64 {
    fs::File::open(root.join(format!("{pid}/stat")))
        .ok()
        .and_then(|file| Stat::from_read(file).ok())
        .map_or(u64::MAX, |stat| stat.starttime)
}

fn comm(root: &Path, pid: u32) -> String {
    fs::read(root.join(format!("{pid}/comm")))
        .map(|name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_start_owns() {
        // Each list: (process id, start), the owner first.
        for holders in [
            &[(50, 100), (60, 200)][..],
            &[(900, 100), (60, 200)],
            &[(50, 100), (51, 100)],
            &[(700, 900), (1, 0)],
            &[(1, 0)],
            &[(70, 5), (60, u64::MAX), (1, 0)],
        ] {
            let least = holders.iter().min_by_key(|(pid, start)| rank(*pid, *start));
            assert_eq!(least, holders.first());
        }
    }

    #[test]
    fn a_root_without_procfs_is_one_problem() {
        let root = tempfile::tempdir().unwrap();
        let problem = find(root.path(), &HashSet::from([1])).unwrap_err();
        assert!(problem.starts_with("cannot read") && problem.contains("--host-root"), "{problem}");
        assert!(!problem.contains('\n'), "{problem}");
    }

    #[test]
    fn hidden_processes_are_told() {
        assert_eq!(Owners { processes: 3, ..Owners::default() }.problem(), None);
        let problem = Owners { processes: 3, unreadable: 2, ..Owners::default() }.problem();
        assert!(problem.unwrap().starts_with("2 of 5 processes"));
    }
}
