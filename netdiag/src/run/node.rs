//! The node's own words: its counters and states.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::voice::Few;
use crate::{
    clock::monotonic_ns,
    node::{
        conntrack::{Counter, Tables, Tracked},
        listeners::{Dropping, Listeners},
        netns::{Known, Namespace},
        places::Places,
        surroundings::Surroundings,
        tcp_counters::{self, Counters},
    },
    snapshot::{
        ConntrackTable, Listener, Node, Owner,
        build::endpoints,
        node::{Part, Unread},
    },
};

/// The TCP counters, and the listeners that by these threw connection requests away.
pub(super) struct Overflows {
    tcp: tcp_counters::Reading,
    listeners: Listeners,
    /// Where the processes live that the node names.
    places: Places,
    /// Why namespaces cannot be read, by inode number.
    problems: BTreeMap<u32, String>,
}

impl Overflows {
    /// Begins with a first reading.
    pub(super) fn begin(
        tcp: tcp_counters::Reading,
        namespaces: &[Namespace],
        host_root: &Path,
    ) -> Self {
        let mut listeners = Listeners::default();
        listeners.begin(&dropping(&tcp.namespaces, namespaces));
        Self { tcp, listeners, places: Places::begin(host_root), problems: BTreeMap::new() }
    }

    /// By how much the counters rose since the last reading, and what listeners threw away.
    pub(super) fn advance(
        &mut self,
        tcp: tcp_counters::Reading,
        namespaces: &[Namespace],
        host_root: &Path,
    ) -> (BTreeMap<u32, Counters>, Vec<Listener>) {
        // A process that began later is not the one that was found to hold a socket.
        let began_ns = monotonic_ns();
        let increase = tcp_counters::increase(&self.tcp, &tcp);
        let listeners = self.listeners.advance(&dropping(&increase, namespaces), host_root);
        self.problems = tcp.lasting_problems(&self.tcp);
        self.tcp.follow(tcp);
        let mut listeners: Vec<Listener> = listeners.into_iter().map(named).collect();
        locate(&mut self.places, listeners.iter_mut().map(|one| &mut one.owner), began_ns);
        (increase, listeners)
    }
}

/// Readings of the TCP counters and of connection tracking, one interval apart. Reading takes the longer the more
/// namespaces there are, so it is no work for the thread that reads the rings.
pub(super) struct Readings {
    host_root: PathBuf,
    namespaces: Known,
    overflows: Overflows,
    /// By how much the TCP counters rose in the run.
    tcp: BTreeMap<u32, Counters>,
    conntrack: Tables,
    surroundings: Surroundings,
    told: Few,
}

/// What is said in place of more problems.
const MORE: &str = "more cannot be read of what the node says of itself, of which no further lines tell: the outputs \
                    do (`unread`)";

impl Readings {
    /// Reads for the first time.
    pub(super) fn begin(host_root: &Path) -> Self {
        let mut known = Known::new(host_root);
        let namespaces = known.look();
        let mut surroundings = Surroundings::begin(&namespaces, host_root);
        let overflows = Overflows::begin(surroundings.take_tcp(), &namespaces, host_root);
        let mut conntrack = Tables::default();
        conntrack.begin(surroundings.take_tracked());
        Self {
            host_root: host_root.to_owned(),
            namespaces: known,
            overflows,
            tcp: BTreeMap::new(),
            conntrack,
            surroundings,
            told: Few::new(MORE),
        }
    }

    /// As of [`Surroundings`].
    pub(super) const fn count_sockets(&mut self) {
        self.surroundings.count_sockets();
    }

    /// What happened since the last time.
    pub(super) fn advance(&mut self) -> Node {
        let began_ns = monotonic_ns();
        let namespaces = self.namespaces.look();
        let mut node = Node::default();
        self.surroundings.advance(&namespaces, &mut node);
        let tcp = self.surroundings.take_tcp();
        let (increase, listeners) = self.overflows.advance(tcp, &namespaces, &self.host_root);
        let conntrack = self.conntrack.advance(self.surroundings.take_tracked());
        let (overflows, conntracked) = (&self.overflows.problems, self.conntrack.problems());
        let lines = overflows.values().chain(conntracked.values());
        for problem in lines.chain(self.surroundings.problems()) {
            self.told.say_once(problem);
        }
        self.unread(&mut node);
        node.tcp = tcp_counters::named(&increase);
        tcp_counters::add(&mut self.tcp, &increase);
        node.listeners = listeners;
        node.conntrack = conntrack.into_iter().map(table).collect();
        let places = &mut self.overflows.places;
        locate(places, node.owners_mut(), began_ns);
        places.forget_processes();
        node
    }

    /// Adds what could not be read, beyond what the surroundings say of themselves.
    fn unread(&self, node: &mut Node) {
        let parts = [
            (Part::Tcp, &self.overflows.problems),
            (Part::Listeners, self.overflows.listeners.unread()),
            (Part::Conntrack, self.conntrack.problems()),
        ];
        let unread = parts.into_iter().map(|(part, all)| Unread::in_namespaces(part, all));
        node.unread.extend(unread.flatten());
        node.unread.sort_by_key(|one| one.part);
    }

    /// What happened since the first time. A namespace that was read only once is left out.
    pub(super) fn total(&mut self) -> Node {
        let mut node = Node {
            tcp: tcp_counters::named(&self.tcp),
            listeners: self.overflows.listeners.total().into_iter().map(named).collect(),
            conntrack: self.conntrack.total().into_iter().map(table).collect(),
            ..Node::default()
        };
        self.surroundings.total(&mut node);
        self.unread(&mut node);
        locate(&mut self.overflows.places, node.owners_mut(), monotonic_ns());
        node
    }
}

/// Says where processes live that are named.
fn locate<'a>(places: &mut Places, owners: impl Iterator<Item = &'a mut Owner>, time_ns: u64) {
    for owner in owners {
        if let (Some(pid), Some(comm)) = (owner.pid, &owner.comm)
            && let Some(place) = places.of_named(pid, comm, time_ns)
        {
            owner.locate(&place);
        }
    }
}

/// The namespaces in which listeners dropped connection requests, by these counters.
fn dropping(counters: &BTreeMap<u32, Counters>, namespaces: &[Namespace]) -> Vec<Namespace> {
    let dropped = |inode| counters.get(&inode)?.get("ListenDrops");
    let is_one = |namespace: &&Namespace| dropped(namespace.inode).is_some_and(|drops| *drops > 0);
    namespaces.iter().filter(is_one).cloned().collect()
}

fn named(dropping: Dropping) -> Listener {
    Listener {
        netns: dropping.key.netns,
        local: endpoints(&dropping.key).0,
        owner: Owner { pid: dropping.pid, comm: dropping.comm, ..Owner::default() },
        drops: dropping.drops,
        accept_queue: dropping.queue,
        accept_queue_limit: dropping.queue_limit,
    }
}

fn table(tracked: Tracked) -> ConntrackTable {
    let count = |counter| tracked.counts.get(counter);
    ConntrackTable {
        netns: tracked.netns,
        entries: tracked.entries,
        max: tracked.max,
        insert_failed: count(Counter::InsertFailed),
        drop: count(Counter::Drop),
        early_drop: count(Counter::EarlyDrop),
        clash_resolve: count(Counter::ClashResolve),
        invalid: count(Counter::Invalid),
        chaintoolong: count(Counter::ChainTooLong),
    }
}
