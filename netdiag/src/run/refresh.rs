//! Asking the kernel at the end of an interval for the counters that no program told in it.
//!
//! A program reports a socket when it sends. One that waits for its peer's window, or that only
//! receives, moves on without. Each is asked for by itself, since a dump walks over the hash of all
//! namespaces; where there are many in one, the dump is cheaper.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use netdiag_common::flow::FlowKey;

use crate::{
    flow::Fresh,
    kernel::clock::monotonic_ns,
    node::{
        netns::{self, Depth, Namespace},
        sockets,
    },
};

/// Sockets of one namespace that are asked for one by one.
const MANY: usize = 1_000;

/// Asks in every namespace.
pub(super) struct Refresher {
    host_root: PathBuf,
    namespaces: Vec<Namespace>,
    /// Those that no search found.
    unknown: HashSet<u32>,
}

impl Refresher {
    pub(super) fn new(host_root: &Path) -> Self {
        let (namespaces, unknown) = (Vec::new(), HashSet::new());
        Self { host_root: host_root.to_owned(), namespaces, unknown }
    }

    /// What the kernel says of these sockets; those that are gone, or in a namespace that cannot be
    /// entered, are left out. Blocks.
    pub(super) fn ask(&mut self, wanted: Vec<(FlowKey, u64)>) -> Vec<Fresh> {
        let mut by_netns: BTreeMap<u32, Vec<(FlowKey, u64)>> = BTreeMap::new();
        for one in wanted {
            by_netns.entry(one.0.netns).or_default().push(one);
        }
        self.find(&by_netns);
        let wanted_in = |namespace: &&Namespace| by_netns.contains_key(&namespace.inode);
        let namespaces: Vec<_> = self.namespaces.iter().filter(wanted_in).cloned().collect();
        let answers = netns::enter_all(&namespaces, |namespace| {
            let time_ns = monotonic_ns();
            let wanted = &by_netns[&namespace.inode];
            let found = if wanted.len() > MANY {
                sockets::dump(namespace.inode, &sockets::FULL).sockets
            } else {
                sockets::ask(wanted).unwrap_or_default()
            };
            found.into_iter().filter_map(move |socket| {
                let (key, cookie, detail) = (socket.key, socket.cookie, socket.detail);
                Some(Fresh { time_ns, key, cookie, tcp: socket.tcp?, detail })
            })
        });
        let mut fresh = Vec::new();
        for (answer, namespace) in answers.into_iter().zip(&namespaces) {
            match answer {
                Ok(found) => fresh.extend(found),
                // Gone, or to be found another way the next time.
                Err(_) => self.namespaces.retain(|known| known.inode != namespace.inode),
            }
        }
        fresh
    }

    /// Searches the namespaces again when one is not known; one that was not found then is not
    /// searched for any more.
    fn find(&mut self, wanted: &BTreeMap<u32, Vec<(FlowKey, u64)>>) {
        let known: HashSet<u32> = self.namespaces.iter().map(|known| known.inode).collect();
        let is_new = |inode: &&u32| !known.contains(inode) && !self.unknown.contains(inode);
        if wanted.keys().any(|inode| is_new(&inode)) {
            self.namespaces = netns::find(&self.host_root, Depth::Everything).namespaces;
            let found: HashSet<u32> = self.namespaces.iter().map(|found| found.inode).collect();
            self.unknown = wanted.keys().filter(|inode| !found.contains(inode)).copied().collect();
        }
    }
}
