//! From rows of entries to their JSON form.

use std::collections::BTreeMap;

use super::is_seen;
use crate::{
    flow::{
        entries::{self, Frozen, Interval},
        tuples::address,
    },
    signal::{
        CountId, Rows,
        conntrack::{self, Creator, Tuple},
        counts_of,
    },
    snapshot::{Conntrack, Endpoint, Entry, Maker, Owner, SignalStatus, Sum, Tuple as Shown},
};

/// None when no signal tells of entries.
pub(super) fn build(entries: &Interval, signals: &[SignalStatus]) -> Option<Conntrack> {
    let is_seen =
        counts_of(Rows::Entries).any(|(_, signal, count)| is_seen(signal, count.name, signals));
    is_seen.then(|| Conntrack {
        entries: entries.rows.iter().map(|row| entry(row, signals)).collect(),
        other: Sum { counts: values(&entries.other, signals) },
        creators: entries.makers.iter().map(|one| maker(one, signals)).collect(),
    })
}

fn entry(row: &Frozen, signals: &[SignalStatus]) -> Entry {
    Entry {
        netns: (row.entry.netns != 0).then_some(row.entry.netns),
        zone: row.entry.zone,
        protocol: protocol(row.entry.protocol),
        original: shown(&row.entry.original),
        reply: row.reply.as_ref().map(shown),
        creator: row.creator.as_ref().map(owner),
        flows: row.flows.iter().map(|&id| super::flow_name(id)).collect(),
        counts: values(&row.counts, signals),
    }
}

fn values(counts: &[(CountId, u64)], signals: &[SignalStatus]) -> BTreeMap<String, Option<u64>> {
    counts_of(Rows::Entries)
        .map(|(id, signal, count)| {
            let n = counts.iter().find(|(other, _)| *other == id).map_or(0, |&(_, n)| n);
            (count.name.to_owned(), is_seen(signal, count.name, signals).then_some(n))
        })
        .collect()
}

fn maker(maker: &entries::Maker, signals: &[SignalStatus]) -> Maker {
    let seen = |wanted, n| {
        let (_, signal, count) = counts_of(Rows::Entries).find(|&(id, ..)| id == wanted)?;
        is_seen(signal, count.name, signals).then_some(n)
    };
    let (ip, port) = maker.destination;
    Maker {
        netns: (maker.netns != 0).then_some(maker.netns),
        protocol: protocol(maker.protocol),
        destination: end(ip, port),
        creator: maker.creator.as_ref().map(owner),
        new: seen(conntrack::NEW, maker.new),
        table_full: seen(conntrack::TABLE_FULL, maker.table_full),
    }
}

/// IANA protocol numbers; none where it is not known.
fn protocol(number: u16) -> Option<String> {
    Some(match number {
        0 => return None,
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    })
}

fn shown(tuple: &Tuple) -> Shown {
    Shown {
        source: end(tuple.source, tuple.source_port),
        destination: end(tuple.destination, tuple.destination_port),
    }
}

fn end(bytes: [u8; 16], port: u16) -> Endpoint {
    Endpoint { ip: (bytes != [0; 16]).then(|| address(bytes)), port: (port != 0).then_some(port) }
}

fn owner(creator: &Creator) -> Owner {
    let comm = (!creator.comm.is_empty()).then(|| creator.comm.clone());
    Owner { pid: Some(creator.pid), comm, ..Owner::default() }
}
