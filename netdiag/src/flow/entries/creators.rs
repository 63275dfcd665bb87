//! Who makes the most entries of the connection tracking table.

use std::{cmp::Reverse, collections::HashMap};

use super::Interval;
use crate::signal::conntrack::{CONFIRMED, Creator, Entry, NEW, TABLE_FULL};

/// What one process made to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopCreator {
    /// Inode number of the network namespace, 0 when unknown.
    pub netns: u32,
    /// `IPPROTO_TCP` and so on.
    pub protocol: u16,
    /// Where the conversations go.
    pub destination: ([u8; 16], u16),
    /// The process, where known.
    pub creator: Option<Creator>,
    /// Entries made.
    pub new: u64,
    /// Entries that came into the table.
    pub confirmed: u64,
    /// Entries not made for want of room.
    pub table_full: u64,
}

/// Creators that are told of.
const CREATORS: usize = 10;

impl Interval {
    /// Finds out who made the most.
    pub(in crate::flow) fn count_creators(&mut self) {
        let mut sums: HashMap<_, (_, [u64; 3])> = HashMap::new();
        for row in &self.rows {
            let Entry { netns, protocol, original, .. } = row.entry;
            let destination = (original.destination, original.destination_port);
            let by = row.creator.as_ref().map(|by| (by.pid, by.comm.as_str()));
            if original.destination != [0; 16] {
                let (place, sum): &mut (Option<_>, _) =
                    sums.entry((netns, protocol, destination, by)).or_default();
                // Not every event of a process tells where it lives.
                *place = place.or(row.creator.as_ref().and_then(|by| by.place.as_ref()));
                for (sum, count) in sum.iter_mut().zip([NEW, CONFIRMED, TABLE_FULL]) {
                    *sum += row.count(count);
                }
            }
        }
        let mut sums: Vec<_> = sums.into_iter().filter(|(_, (_, sum))| *sum != [0; 3]).collect();
        // Not every source sees both how an entry is made and how it comes into the table.
        let wanted = |[new, confirmed, full]: [u64; 3]| new.max(confirmed) + full;
        sums.sort_unstable_by_key(|&(key, (_, sum))| (Reverse(wanted(sum)), key));
        self.creators = sums
            .into_iter()
            .take(CREATORS)
            .map(|((netns, protocol, destination, by), (place, [new, confirmed, table_full]))| {
                TopCreator {
                    netns,
                    protocol,
                    destination,
                    creator: by.map(|(pid, comm)| Creator {
                        pid,
                        comm: comm.to_owned(),
                        place: place.cloned(),
                    }),
                    new,
                    confirmed,
                    table_full,
                }
            })
            .collect();
    }
}
