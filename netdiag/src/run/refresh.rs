//! Asking the kernel at the end of an interval for the counters that no program told in it.
//!
//! A program reports a socket when it sends. One that waits for its peer's window, or that only
//! receives, moves on without. Each is asked for by itself, since a dump walks over the hash of all
//! namespaces; where there are many in one, the dump is cheaper.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use netdiag_common::flow::FlowKey;

use crate::{
    clock::monotonic_ns,
    flow::Fresh,
    node::{
        netns::{self, Depth, Namespace},
        pace::Pace,
        sockets::{self, Socket},
    },
};

/// Sockets of one namespace that are asked for one by one.
const MANY: usize = 1_000;

/// Between two searches for namespaces of which none is new.
const AGAIN: Duration = Duration::from_secs(10);

/// What it means that the kernel did not answer.
pub(super) const CONSEQUENCE: &str =
    "flows that no program told of lack what they counted since, and their states are unknown";

/// Sockets that are asked for, with their cookies, by the inode numbers of network namespaces.
type ByNetns<'a> = BTreeMap<u32, &'a [(FlowKey, u64)]>;

/// What the kernel said.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) fresh: Vec<Fresh>,
    /// Sockets of which it said nothing.
    pub(super) unanswered: Vec<FlowKey>,
    /// What could not be had, one line each.
    pub(super) problems: Vec<String>,
}

/// Asks in every namespace.
pub(super) struct Refresher {
    host_root: PathBuf,
    namespaces: Vec<Namespace>,
    /// Those that the last search did not find.
    unknown: HashSet<u32>,
    /// When those are searched for again.
    again: Pace,
    /// Those that could not be asked the last time.
    failed: BTreeSet<u32>,
}

impl Refresher {
    pub(super) fn new(host_root: &Path) -> Self {
        Self {
            host_root: host_root.to_owned(),
            namespaces: Vec::new(),
            unknown: HashSet::new(),
            again: Pace::NEW,
            failed: BTreeSet::new(),
        }
    }

    /// What the kernel says of these sockets, which stand together by network namespace. Blocks.
    pub(super) fn ask(&mut self, wanted: &[(FlowKey, u64)]) -> Answers {
        // There may be a hundred thousand: no copies.
        let by_netns = wanted.chunk_by(|(one, _), (next, _)| one.netns == next.netns);
        let by_netns: ByNetns = by_netns.map(|some| (some[0].0.netns, some)).collect();
        self.find(&by_netns);
        let mut failed = BTreeMap::new();
        for &inode in by_netns.keys().filter(|inode| self.unknown.contains(inode)) {
            let line = format!("network namespace {inode} has neither a process nor a mount");
            failed.insert(inode, line);
        }
        let wanted_in = |namespace: &&Namespace| by_netns.contains_key(&namespace.inode);
        let namespaces: Vec<_> = self.namespaces.iter().filter(wanted_in).cloned().collect();
        let found = netns::enter_all(&namespaces, |namespace| {
            let (time_ns, mut problems) = (monotonic_ns(), Vec::new());
            let sockets = ask_in(namespace.inode, by_netns[&namespace.inode], &mut problems);
            let fresh = sockets.into_iter().filter_map(move |socket| {
                let (key, cookie, detail) = (socket.key, socket.cookie, socket.detail);
                Some(Fresh { time_ns, key, cookie, tcp: socket.tcp?, detail })
            });
            (fresh, problems)
        });
        let mut answers = Answers::default();
        for (found, namespace) in found.into_iter().zip(&namespaces) {
            match found {
                Ok((fresh, mut problems)) => {
                    answers.fresh.extend(fresh);
                    answers.problems.append(&mut problems);
                }
                // Gone, or to be found another way the next time.
                Err(problem) => {
                    self.namespaces.retain(|known| known.inode != namespace.inode);
                    failed.insert(namespace.inode, problem);
                }
            }
        }
        answers.problems.extend(self.lasting(failed));
        let told: HashSet<FlowKey> = answers.fresh.iter().map(|fresh| fresh.key).collect();
        let keys = wanted.iter().map(|(key, _)| *key);
        answers.unanswered = keys.filter(|key| !told.contains(key)).collect();
        answers
    }

    /// There was nothing to ask for this time, so nothing failed.
    pub(super) fn rest(&mut self) {
        self.failed.clear();
    }

    /// Lines about the namespaces that failed the last time as well: one that ends does so once.
    fn lasting(&mut self, failed: BTreeMap<u32, String>) -> Vec<String> {
        let before = mem::replace(&mut self.failed, failed.keys().copied().collect());
        let lasting = failed.into_iter().filter(|(inode, _)| before.contains(inode));
        lasting.map(|(_, problem)| format!("{problem}: {CONSEQUENCE}")).collect()
    }

    /// Searches the namespaces again when one is not known: at once where it is new, and now and then where it was not
    /// found before. A process may have been about to begin or end then, or procfs not have been whole.
    fn find(&mut self, wanted: &ByNetns) {
        let known: HashSet<u32> = self.namespaces.iter().map(|known| known.inode).collect();
        let is_new = |inode: &u32| !known.contains(inode) && !self.unknown.contains(inode);
        let is_unknown = |inode: &u32| self.unknown.contains(inode);
        if wanted.keys().any(is_new) || wanted.keys().any(is_unknown) && self.again.is_due() {
            let search = || netns::find(&self.host_root, Depth::Everything).namespaces;
            self.namespaces = self.again.run(AGAIN, search);
            let found: HashSet<u32> = self.namespaces.iter().map(|found| found.inode).collect();
            self.unknown = wanted.keys().filter(|inode| !found.contains(inode)).copied().collect();
        }
    }
}

/// Asks the calling thread's network namespace, whose inode number is `netns`.
fn ask_in(netns: u32, wanted: &[(FlowKey, u64)], problems: &mut Vec<String>) -> Vec<Socket> {
    if wanted.len() > MANY {
        let mut dump = sockets::dump(netns, &sockets::FULL, CONSEQUENCE);
        problems.append(&mut dump.problems);
        return dump.sockets;
    }
    let mut found = Vec::with_capacity(wanted.len());
    if let Err(error) = sockets::ask(wanted, &mut found) {
        problems.push(format!(
            "cannot ask network namespace {netns} for its sockets: {error}: {CONSEQUENCE}; see \
             whether `ss -ti` tells them there"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_told_of_when_it_fails_again() {
        let mut refresher = Refresher::new(Path::new("/"));
        let failed = |inodes: &[u32]| {
            inodes.iter().map(|&inode| (inode, format!("{inode} is shut"))).collect()
        };
        assert!(refresher.lasting(failed(&[1])).is_empty());
        assert_eq!(refresher.lasting(failed(&[1, 2])), [format!("1 is shut: {CONSEQUENCE}")]);
        assert!(refresher.lasting(failed(&[])).is_empty());
        assert!(refresher.lasting(failed(&[1])).is_empty());
        refresher.rest();
        assert!(refresher.lasting(failed(&[1])).is_empty());
    }

    #[test]
    fn what_is_not_answered_is_named() {
        let nowhere = FlowKey { netns: 1, ..FlowKey::default() };
        let mut refresher = Refresher::new(Path::new("/"));
        let first = refresher.ask(&[(nowhere, 0)]);
        assert_eq!((first.unanswered, first.problems.len()), (vec![nowhere], 0));
        let second = refresher.ask(&[(nowhere, 0)]);
        assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
        assert!(second.problems[0].contains("network namespace 1 "), "{:?}", second.problems);
    }

    #[test]
    fn a_namespace_that_was_not_found_is_searched_again_but_not_each_time() {
        let (own, root) = (netns::own_inode().unwrap(), tempfile::tempdir().unwrap());
        let wanted = ByNetns::from([(own, &[][..])]);
        let mut refresher = Refresher::new(root.path());
        refresher.unknown.insert(own);
        refresher.again.spent(AGAIN, Duration::ZERO);
        refresher.find(&wanted);
        assert!(refresher.unknown.contains(&own) && refresher.namespaces.is_empty());
        refresher.again = Pace::NEW;
        refresher.find(&wanted);
        assert!(refresher.unknown.is_empty() && !refresher.again.is_due());
        assert!(refresher.namespaces.iter().any(|one| one.inode == own));
    }
}
