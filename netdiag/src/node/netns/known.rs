//! The network namespaces of a node, looked for again and again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Depth, Namespace, find};
use crate::node::pace::Pace;

/// A thorough look is taken so rarely at most.
const THOROUGHLY_EVERY: Duration = Duration::from_secs(60);

/// A quick look each time, and what a thorough one found beyond as long as it is there.
#[derive(Debug)]
pub struct Known {
    host_root: PathBuf,
    /// Those that only a thorough look finds.
    hidden: Vec<Namespace>,
    pace: Pace,
}

impl Known {
    /// None yet; the first look is thorough.
    #[must_use]
    pub fn new(host_root: &Path) -> Self {
        Self { host_root: host_root.to_owned(), hidden: Vec::new(), pace: Pace::default() }
    }

    /// Those that are there: sorted by inode number, each once.
    pub fn look(&mut self) -> Vec<Namespace> {
        let quick = find(&self.host_root, Depth::Processes).namespaces;
        if self.pace.is_due() {
            let Self { host_root, pace, .. } = self;
            let look = || find(host_root, Depth::Everything).namespaces;
            self.hidden = pace.run(THOROUGHLY_EVERY, look);
        }
        self.join(quick, Namespace::is_gone)
    }

    fn join(
        &mut self,
        mut all: Vec<Namespace>,
        is_gone: impl Fn(&Namespace) -> bool,
    ) -> Vec<Namespace> {
        let found = |one: &Namespace| all.binary_search_by_key(&one.inode, |found| found.inode);
        self.hidden.retain(|one| found(one).is_err() && !is_gone(one));
        all.extend(self.hidden.iter().cloned());
        all.sort_unstable_by_key(|one| one.inode);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::netns::{Handle, OWN, own_inode};

    fn namespace(inode: u32) -> Namespace {
        Namespace { inode, ..Namespace::default() }
    }

    #[test]
    fn what_is_hidden_is_known_until_it_is_gone_or_found() {
        let mut known = Known::new(Path::new("/"));
        known.hidden = [5, 6, 7].map(namespace).into();
        let mut join = |quick: &[u32], gone: u32| {
            let quick = quick.iter().copied().map(namespace).collect();
            let all = known.join(quick, |one| one.inode == gone);
            all.iter().map(|one| one.inode).collect::<Vec<_>>()
        };
        assert_eq!(join(&[3, 9], 0), [3, 5, 6, 7, 9]);
        assert_eq!(join(&[3, 6], 7), [3, 5, 6]);
        assert_eq!(join(&[3], 0), [3, 5]);
    }

    #[test]
    fn one_is_gone_when_no_way_leads_there() {
        let own = own_inode().expect("a procfs");
        let there = Namespace { handles: vec![Handle::Link(OWN.into())], ..namespace(own) };
        assert!(!there.is_gone());
        assert!(Namespace { inode: own + 1, ..there }.is_gone(), "the way leads elsewhere");
        assert!(namespace(own).is_gone());
        let first = Known::new(Path::new("/")).look();
        assert!(first.iter().any(|one| one.inode == own), "{first:?}");
    }
}
