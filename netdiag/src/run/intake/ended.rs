//! What came to its end, or began anew, while the node was read for what was there before: it may be in what was
//! read, and is known better.

use std::collections::HashSet;

use netdiag_common::flow::FlowKey;

use crate::{
    node::SeededSocket,
    signal::{
        Event,
        conntrack::{self, CONFIRMED, DESTROYED, Entry},
        socket::{self, What},
    },
};

/// Sockets that closed, and entries of connection tracking that came or went.
#[derive(Default)]
pub(super) struct Ended {
    cookies: HashSet<u64>,
    keys: HashSet<FlowKey>,
    entries: HashSet<FlowKey>,
}

impl Ended {
    /// Those that are remembered. Sockets beyond come back as idle flows, and entries as what they were.
    const MOST: usize = 1 << 20;

    pub(super) fn note(&mut self, event: &Event) {
        if self.keys.len() + self.cookies.len() + self.entries.len() >= Self::MOST {
            return;
        }
        match event {
            Event::Socket(socket::Event { what: What::Close, socket, .. }) => {
                // Where the kernel gave no cookie, the key is all there is.
                if socket.cookie == 0 {
                    self.keys.insert(socket.key);
                } else {
                    self.cookies.insert(socket.cookie);
                }
            }
            Event::Conntrack(conntrack::Event { what: CONFIRMED | DESTROYED, entry, .. }) => {
                self.entries.insert(entry.key(&entry.original));
            }
            _ => {}
        }
    }

    pub(super) fn has_socket(&self, seed: &SeededSocket) -> bool {
        self.cookies.contains(&seed.cookie) || self.keys.contains(&seed.key)
    }

    /// Whether it is one of these, or may be among many that were told of at once.
    pub(super) fn has_entry(&self, entry: &Entry) -> bool {
        let nobodys = Entry { netns: entry.netns, ..Entry::default() };
        let nowhere = Entry::default();
        [entry, &entry.summed_up(), &nobodys, &nowhere]
            .iter()
            .any(|entry| self.entries.contains(&entry.key(&entry.original)))
    }
}

#[cfg(test)]
mod tests {
    use netdiag_common::flow::TCP;

    use super::*;
    use crate::signal::{
        CountId,
        conntrack::{NEW, Tuple},
    };

    fn entry(port: u16) -> Entry {
        let original = Tuple {
            source: [1; 16],
            destination: [2; 16],
            source_port: port,
            destination_port: 80,
        };
        Entry { netns: 7, zone: 0, protocol: TCP, original }
    }

    fn told(what: CountId, entry: Entry) -> Event {
        let (reply, creator) = (None, None);
        Event::Conntrack(conntrack::Event { time_ns: 1, entry, reply, creator, what, times: 1 })
    }

    #[test]
    fn entries_that_came_or_went_are_known_better() {
        let mut ended = Ended::default();
        for (what, port) in [(NEW, 1), (CONFIRMED, 2), (DESTROYED, 3)] {
            ended.note(&told(what, entry(port)));
        }
        let had = [1, 2, 3, 4].map(|port| ended.has_entry(&entry(port)));
        assert_eq!(had, [false, true, true, false]);
    }

    #[test]
    fn an_entry_may_be_among_many_told_of_at_once() {
        let everywhere = Entry { netns: 7, ..Entry::default() };
        for many in [entry(1).summed_up(), everywhere.clone(), Entry::default()] {
            let mut ended = Ended::default();
            ended.note(&told(DESTROYED, many.clone()));
            assert!(ended.has_entry(&entry(1)), "{many:?}");
        }
        let mut ended = Ended::default();
        ended.note(&told(DESTROYED, Entry { netns: 8, ..everywhere }));
        assert!(!ended.has_entry(&entry(1)), "that is another namespace's");
    }
}
