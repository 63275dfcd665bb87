//! Listeners that throw connection requests away.
//!
//! A SYN that finds the accept queue full is freed like a packet that arrived, so no tracepoint tells of
//! it (`tcp_conn_request`, `net/ipv4/tcp_input.c`). The listener counts it (`sk_drops`), and so does the
//! namespace (`ListenDrops`): listeners are asked only where that one rose.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use netdiag_common::flow::FlowKey;

use super::{
    netns::Namespace,
    owners,
    sockets::{self, Socket, StateFlags},
};

/// Listeners that are remembered.
const REMEMBERED: usize = 65_536;

/// Listeners that the total of a run has.
const TOTALLED: usize = 4_096;

/// What a listener threw away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropping {
    /// Its address, port and namespace.
    pub key: FlowKey,
    /// Process id (tgid) of its owner.
    pub pid: Option<u32>,
    /// Name of that process.
    pub comm: Option<String>,
    /// Connection requests that it dropped.
    pub drops: u64,
    /// Connections that wait to be accepted, when it was asked.
    pub queue: u32,
    /// How many may; one more is let in.
    pub queue_limit: u32,
}

/// What a listener said last.
#[derive(Clone, Copy, Debug)]
struct Counted {
    netns: u32,
    drops: u32,
}

/// What is known of the node's listeners.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    /// Drops that were counted so far, by cookie.
    counted: HashMap<u64, Counted>,
    owners: owners::Known,
    /// Of the whole run, by cookie, no more than [`TOTALLED`].
    total: BTreeMap<u64, Dropping>,
    unread: BTreeMap<u32, String>,
}

impl Listeners {
    /// What listeners of these namespaces dropped before the run does not count.
    pub fn begin(&mut self, namespaces: &[Namespace]) {
        for socket in self.dump(namespaces) {
            self.count(&socket);
        }
    }

    /// Asks the listeners of these namespaces, and the procfs under `host_root` for their owners.
    /// Returns those that dropped something since they were asked last; blocks.
    pub fn advance(&mut self, namespaces: &[Namespace], host_root: &Path) -> Vec<Dropping> {
        self.unread.clear();
        if namespaces.is_empty() {
            return Vec::new();
        }
        let there = self.dump(namespaces);
        self.forget_closed(&there);
        let dropping: Vec<_> =
            there.into_iter().filter_map(|socket| Some((self.count(&socket)?, socket))).collect();
        let inodes = dropping.iter().map(|(_, socket)| socket.inode);
        self.owners.find(&inodes.filter(|inode| *inode != 0).collect(), host_root);
        let told: Vec<_> = dropping
            .into_iter()
            .map(|(drops, socket)| (socket.cookie, self.told(drops, &socket)))
            .collect();
        self.add(&told);
        told.into_iter().map(|(_, dropping)| dropping).collect()
    }

    /// All of the run.
    #[must_use]
    pub fn total(&self) -> Vec<Dropping> {
        self.total.values().cloned().collect()
    }

    /// Namespaces whose listeners may have dropped something and were not told the last time, with why not.
    #[must_use]
    pub const fn unread(&self) -> &BTreeMap<u32, String> {
        &self.unread
    }

    fn dump(&mut self, namespaces: &[Namespace]) -> Vec<Socket> {
        if namespaces.is_empty() {
            return Vec::new();
        }
        let consequence = "listeners that dropped connection requests are not named";
        let dump = sockets::dump_in(namespaces, &StateFlags::LISTEN, consequence);
        self.unread = dump.unread;
        dump.listeners
    }

    /// Makes room where there is none: listeners that are gone from a namespace that told of others.
    fn forget_closed(&mut self, there: &[Socket]) {
        if self.counted.len() < REMEMBERED {
            return;
        }
        let cookies: HashSet<_> = there.iter().map(|socket| socket.cookie).collect();
        let asked: HashSet<_> = there.iter().map(|socket| socket.key.netns).collect();
        self.counted.retain(|cookie, one| cookies.contains(cookie) || !asked.contains(&one.netns));
        self.owners.keep(&there.iter().map(|socket| socket.inode).collect());
    }

    /// By how much a listener's counter rose, none where it did not. One that was not there before
    /// began at 0; the counter wraps.
    fn count(&mut self, socket: &Socket) -> Option<u32> {
        let now = socket.listening?.drops;
        let room = self.counted.len() < REMEMBERED;
        let before = match self.counted.get_mut(&socket.cookie) {
            Some(counted) => std::mem::replace(&mut counted.drops, now),
            None if room => {
                let netns = socket.key.netns;
                self.counted.insert(socket.cookie, Counted { netns, drops: now });
                0
            }
            None => now,
        };
        Some(now.wrapping_sub(before)).filter(|rise| *rise != 0)
    }

    fn told(&self, drops: u32, socket: &Socket) -> Dropping {
        let owner = self.owners.of(socket.inode);
        let listening = socket.listening.unwrap_or_default();
        Dropping {
            key: socket.key,
            pid: owner.map(|(pid, _)| *pid),
            comm: owner.map(|(_, comm)| comm.clone()).filter(|comm| !comm.is_empty()),
            drops: drops.into(),
            queue: listening.queue,
            queue_limit: listening.queue_limit,
        }
    }

    /// Adds to what listeners dropped in the run. Of those that drop nothing now the one makes room that dropped the
    /// least: services begin again as long as a run lasts, each time with a new listener.
    fn add(&mut self, told: &[(u64, Dropping)]) {
        let now: HashSet<_> = told.iter().map(|(cookie, _)| *cookie).collect();
        for (cookie, dropping) in told {
            if self.total.len() >= TOTALLED && !self.total.contains_key(cookie) {
                let at_rest = self.total.iter().filter(|(cookie, _)| !now.contains(*cookie));
                let least = at_rest.min_by_key(|(_, total)| total.drops);
                let Some((&least, _)) = least else { continue };
                self.total.remove(&least);
            }
            let before = self.total.get(cookie).map_or(0, |total| total.drops);
            let drops = before + dropping.drops;
            self.total.insert(*cookie, Dropping { drops, ..dropping.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::sockets::Listening;

    fn listener(cookie: u64, drops: u32) -> Socket {
        Socket {
            key: FlowKey { local_port: 80, ..FlowKey::default() },
            cookie,
            state: 10,
            inode: cookie + 100,
            uid: 0,
            tcp: None,
            detail: None,
            listening: Some(Listening { drops, queue: 6, queue_limit: 5 }),
        }
    }

    #[test]
    fn only_what_was_dropped_since_counts() {
        let mut listeners = Listeners::default();
        assert_eq!(listeners.count(&listener(1, 40)), Some(40), "before the run");
        for (socket, expected) in [
            (listener(1, 40), None),
            (listener(1, 43), Some(3)),
            (listener(2, 5), Some(5)),
            (listener(1, u32::MAX), Some(u32::MAX - 43)),
            (listener(1, 1), Some(2)),
            (Socket { listening: None, ..listener(3, 9) }, None),
        ] {
            assert_eq!(listeners.count(&socket), expected, "{socket:?}");
        }
    }

    #[test]
    fn those_that_closed_make_room() {
        let mut listeners = Listeners::default();
        for cookie in 0..REMEMBERED as u64 {
            listeners.count(&listener(cookie, 1));
        }
        let there = [listener(5, 2), listener(1 << 40, 7)];
        assert_eq!(listeners.count(&there[1]), None, "no room, so it is not known since when");
        listeners.forget_closed(&there);
        let rises = there.each_ref().map(|socket| listeners.count(socket));
        assert_eq!(rises, [Some(1), Some(7)]);
    }

    #[test]
    fn the_total_is_the_sum_with_the_last_queue() {
        let owners = owners::Known::with([(101, (7, "nginx".to_owned()))]);
        let mut listeners = Listeners { owners, ..Listeners::default() };
        let first = listeners.told(3, &listener(1, 0));
        listeners.add(&[(1, first)]);
        let last = Listening { drops: 0, queue: 2, queue_limit: 9 };
        let last = listeners.told(4, &Socket { listening: Some(last), ..listener(1, 0) });
        listeners.add(&[(1, last)]);
        let [total] = &listeners.total()[..] else { panic!("{:?}", listeners.total()) };
        assert_eq!((total.drops, total.queue, total.queue_limit), (7, 2, 9));
        assert_eq!((total.pid, total.comm.as_deref()), (Some(7), Some("nginx")));
    }

    #[test]
    fn those_that_drop_nothing_make_room_in_the_total() {
        let mut listeners = Listeners::default();
        let mut add = |cookies: std::ops::Range<u64>| {
            let told: Vec<_> = cookies
                .map(|cookie| (cookie, listeners.told(cookie as u32 + 1, &listener(cookie, 0))))
                .collect();
            listeners.add(&told);
            (listeners.total.len(), listeners.total.keys().next().copied())
        };
        let most = TOTALLED as u64;
        assert_eq!(add(0..most), (TOTALLED, Some(0)));
        assert_eq!(add(most..most + 2), (TOTALLED, Some(2)), "the two that dropped least");
        assert_eq!(add(2..most + 3), (TOTALLED, Some(2)), "none is at rest");
    }
}
