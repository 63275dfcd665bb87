//! The network namespaces of a node, looked for again and again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Depth, Namespace, births::Births, find};
use crate::node::pace::Pace;

/// A thorough look is taken so rarely at most.
const THOROUGHLY_EVERY: Duration = Duration::from_secs(60);

/// And so often at least, whatever shows that there is nothing to find.
const THOROUGHLY_AT_LEAST: Duration = Duration::from_secs(600);

/// A quick look where there may be others than were found, and what a thorough one found beyond as long as it is there.
#[derive(Debug)]
pub struct Known {
    host_root: PathBuf,
    births: Births,
    /// What the last quick look found.
    quick: Vec<Namespace>,
    /// Those that only a thorough look finds.
    hidden: Vec<Namespace>,
    /// All of them that the last one found, those that no known way leads to any more, too.
    sought: BTreeSet<u32>,
    /// When that was.
    searched: Option<Instant>,
    /// One was not found any more since: it may be there by a way that only a thorough look finds.
    lost: bool,
    pace: Pace,
}

impl Known {
    /// None yet; the first look is thorough.
    #[must_use]
    pub fn new(host_root: &Path) -> Self {
        Self {
            host_root: host_root.to_owned(),
            births: Births::default(),
            quick: Vec::new(),
            hidden: Vec::new(),
            sought: BTreeSet::new(),
            searched: None,
            lost: false,
            pace: Pace::default(),
        }
    }

    /// Those that are there: sorted by inode number, each once.
    pub fn look(&mut self) -> Vec<Namespace> {
        // What is made while processes are walked through shows the next time.
        if self.births.may_be() || self.quick.iter().any(|one| !one.own && one.is_gone()) {
            let found = find(&self.host_root, Depth::Processes).namespaces;
            self.lost |= lacks(&found, &self.quick);
            self.quick = found;
        }
        let searches = self.pace.is_due() && self.is_worth_a_search();
        if searches {
            self.searched = Some(Instant::now());
            self.lost = false;
            let Self { host_root, pace, .. } = self;
            let look = || find(host_root, Depth::Everything).namespaces;
            self.hidden = pace.run(THOROUGHLY_EVERY, look);
        }
        let quick = self.quick.clone();
        let all = self.join(quick, Namespace::is_gone);
        if searches {
            self.sought = self.hidden.iter().map(|one| one.inode).collect();
        }
        all
    }

    /// Those that only the last thorough look found, whether or not they are there still.
    #[must_use]
    pub const fn sought(&self) -> &BTreeSet<u32> {
        &self.sought
    }

    /// Whether a thorough look may find what the last one did not.
    fn is_worth_a_search(&self) -> bool {
        self.searched.is_none_or(|searched| {
            self.lost || self.births.since(searched) || searched.elapsed() >= THOROUGHLY_AT_LEAST
        })
    }

    fn join(
        &mut self,
        mut all: Vec<Namespace>,
        is_gone: impl Fn(&Namespace) -> bool,
    ) -> Vec<Namespace> {
        let Self { hidden, lost, .. } = self;
        hidden.retain(|one| {
            let is_found = is_among(&all, one);
            let is_gone = !is_found && is_gone(one);
            *lost |= is_gone;
            !is_found && !is_gone
        });
        all.extend(self.hidden.iter().cloned());
        all.sort_unstable_by_key(|one| one.inode);
        all
    }
}

fn is_among(all: &[Namespace], one: &Namespace) -> bool {
    all.binary_search_by_key(&one.inode, |found| found.inode).is_ok()
}

/// Whether any of those before is not among those that were found.
fn lacks(found: &[Namespace], before: &[Namespace]) -> bool {
    before.iter().any(|one| !is_among(found, one))
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
    fn a_search_is_worth_it_where_one_was_made_or_lost() {
        let mut known = Known::new(Path::new("/"));
        assert!(known.is_worth_a_search(), "nobody has looked yet");
        known.searched = Some(Instant::now());
        assert!(!known.is_worth_a_search());
        known.hidden = [5, 6].map(namespace).into();
        known.join(vec![namespace(5)], |_| false);
        assert!(!known.is_worth_a_search(), "5 is found otherwise, 6 is there");
        known.join(Vec::new(), |_| true);
        assert!(known.is_worth_a_search(), "no known way leads to 6");
        let (both, one) = ([3, 4].map(namespace), [4].map(namespace));
        assert!(lacks(&one, &both) && !lacks(&both, &one));
    }

    #[test]
    fn processes_are_walked_through_again_where_something_was_made() {
        let mut known = Known::new(Path::new("/"));
        known.look();
        known.quick.clear();
        let again = known.look();
        assert!(again.iter().any(|one| one.own), "the first uevents are too short ago: {again:?}");
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
