//! Owners of sockets that were found, as long as they are the same processes.
//!
//! A service manager keeps a socket while its service begins again (systemd.socket(5)): the process that was found is
//! gone then, and its number may be another's. So it is looked again whether it is there. Searching reads every
//! descriptor of the node, and what the kernel itself holds (nfsd's listener) is never found, so both are paced.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use super::{find, start};
use crate::node::pace::Pace;

/// What was not found is not searched for again before.
const AGAIN: Duration = Duration::from_secs(10);

/// A process that holds a socket.
#[derive(Clone, Debug)]
struct Found {
    /// Its id and its name, which is empty where it ended meanwhile.
    owner: (u32, String),
    /// When it began, as [`start`] has it.
    start: u64,
}

/// Owners found so far, by inode number of the socket.
#[derive(Clone, Debug, Default)]
pub struct Known {
    found: HashMap<u64, Found>,
    /// Sockets whose owners were searched for, and are still to be found.
    tried: HashSet<u64>,
    /// When those are searched for again.
    again: Pace,
    searching: Pace,
    looking: Pace,
}

impl Known {
    /// Forgets the owners of all sockets but these.
    pub fn keep(&mut self, sockets: &HashSet<u64>) {
        self.found.retain(|inode, _| sockets.contains(inode));
    }

    /// Forgets which owners of these sockets are gone, and searches the procfs under `host_root` for those that are not
    /// known, where it is time to; blocks.
    pub fn find(&mut self, wanted: &HashSet<u64>, host_root: &Path) {
        let procfs = host_root.join("proc");
        if self.looking.is_due() {
            self.forget_ended(wanted, &procfs);
        }
        if self.again.is_due() {
            self.tried.clear();
            self.again.spent(AGAIN, Duration::ZERO);
        }
        let untried = |inode: &u64| self.is_open(*inode) && !self.tried.contains(inode);
        let unknown: HashSet<u64> = wanted.iter().copied().filter(untried).collect();
        if unknown.is_empty() || !self.searching.is_due() {
            return;
        }
        let Self { found, searching, .. } = self;
        searching.run(Duration::ZERO, || {
            // Without owners they are told of all the same.
            for (inode, owner) in find(host_root, &unknown).unwrap_or_default().by_inode {
                let start = start(&procfs, owner.pid);
                found.insert(inode, Found { owner: (owner.pid, owner.comm), start });
            }
        });
        let still_open: Vec<_> = unknown.into_iter().filter(|inode| self.is_open(*inode)).collect();
        self.tried.extend(still_open);
    }

    /// Process id and name of a socket's owner, where it is known.
    #[must_use]
    pub fn of(&self, inode: u64) -> Option<&(u32, String)> {
        self.found.get(&inode).map(|found| &found.owner)
    }

    /// Whether an owner is to be searched for: process 1 may hold a socket for a service that is yet to begin.
    fn is_open(&self, inode: u64) -> bool {
        self.of(inode).is_none_or(|(pid, _)| *pid == 1)
    }

    fn forget_ended(&mut self, wanted: &HashSet<u64>, procfs: &Path) {
        let Self { found, looking, .. } = self;
        looking.run(Duration::ZERO, || {
            let mut starts = HashMap::new();
            found.retain(|inode, Found { owner: (pid, _), start: then }| {
                let now = || *starts.entry(*pid).or_insert_with(|| start(procfs, *pid));
                !wanted.contains(inode) || lives(*then, now)
            });
        });
    }

    /// These are known, and not looked at for an hour.
    #[cfg(test)]
    pub(in crate::node) fn with(owners: impl IntoIterator<Item = (u64, (u32, String))>) -> Self {
        let found = owners.into_iter().map(|(inode, owner)| (inode, Found { owner, start: 0 }));
        let mut known = Self { found: found.collect(), ..Self::default() };
        known.looking.spent(Duration::from_secs(3_600), Duration::ZERO);
        known
    }
}

/// Whether a process that began then is the one with its number that begins `now`; the end of time is of none.
fn lives(then: u64, now: impl FnOnce() -> u64) -> bool {
    then != u64::MAX && now() == then
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_one_as_long_as_it_lives() {
        let (own, procfs) = (std::process::id(), Path::new("/proc"));
        let began = start(procfs, own);
        let found = [(own, began), (own, began + 1), (own, u64::MAX), (u32::MAX, 5), (u32::MAX, 5)];
        let found = found.map(|(pid, start)| Found { owner: (pid, "it".to_owned()), start });
        let mut known = Known { found: (1..).zip(found).collect(), ..Known::default() };
        known.forget_ended(&HashSet::from([1, 2, 3, 4]), procfs);
        let is_known = [1, 2, 3, 4, 5].map(|inode| known.of(inode).is_some());
        assert_eq!(is_known, [true, false, false, false, true], "nobody asks for the last one");
        known.keep(&HashSet::from([1]));
        assert_eq!(known.found.len(), 1);
    }

    #[test]
    fn what_is_not_found_is_searched_again_but_not_each_time() {
        let root = tempfile::tempdir().unwrap();
        let mut known = Known::with([(7, (1, "systemd".to_owned())), (8, (9, "web".to_owned()))]);
        known.find(&HashSet::from([7, 8, 9]), root.path());
        assert_eq!(known.tried, HashSet::from([7, 9]));
        assert!(!known.again.is_due());
        known.searching = Pace::NEW;
        known.find(&HashSet::from([7, 9]), root.path());
        assert!(known.searching.is_due(), "it did not search");
        known.again = Pace::NEW;
        known.find(&HashSet::from([9]), root.path());
        assert_eq!(known.tried, HashSet::from([9]));
        assert_eq!(known.of(7).map(|(pid, _)| *pid), Some(1), "better than nobody");
    }
}
