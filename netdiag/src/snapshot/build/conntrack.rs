//! From rows of entries to their JSON form.

use std::collections::BTreeMap;

use super::{is_seen, owner};
use crate::{
    flow::{
        entries::{self, Frozen, Interval},
        tuples::address,
    },
    labels::Labels,
    signal::{
        CountId, DEFINITIONS, Rows,
        conntrack::{self, Tuple},
        counts_of,
    },
    snapshot::{
        Account, Conntrack, Endpoint, Entry, SignalStatus, Sum, TopCreator, Tuple as Shown,
    },
};

/// None when no signal tells of entries. An age is unknown where an end may have been lost, or is not seen
/// at all.
pub(super) fn build(
    entries: &Interval,
    signals: &[SignalStatus],
    accounting: &BTreeMap<String, Account>,
    labels: &Labels,
) -> Option<Conntrack> {
    let lost = DEFINITIONS
        .iter()
        .filter(|definition| definition.rows == Rows::Entries)
        .filter_map(|definition| accounting.get(definition.signal.name()))
        .any(|account| account.lost() > 0);
    let ends_are_seen = !lost && seen(conntrack::DESTROYED, 0, signals).is_some();
    let is_seen =
        counts_of(Rows::Entries).any(|(_, signal, count)| is_seen(signal, count, signals));
    is_seen.then(|| Conntrack {
        entries: entries
            .rows
            .iter()
            .map(|row| entry(row, signals, ends_are_seen, labels))
            .collect(),
        other: Sum { counts: values(&entries.other, signals) },
        creators: entries.creators.iter().map(|one| creator(one, signals, labels)).collect(),
    })
}

fn entry(row: &Frozen, signals: &[SignalStatus], ends_are_seen: bool, labels: &Labels) -> Entry {
    Entry {
        netns: (row.entry.netns != 0).then_some(row.entry.netns),
        zone: row.entry.zone,
        protocol: protocol(row.entry.protocol),
        original: shown(&row.entry.original),
        reply: row.reply.as_ref().map(shown),
        creator: row
            .creator
            .as_ref()
            .map(|by| owner::of_process(by.pid, &by.comm, by.place.as_deref(), labels)),
        age_ns: row.age_ns.filter(|_| ends_are_seen),
        flows: row.flows.iter().map(|&id| super::flow_name(id)).collect(),
        counts: values(&row.counts, signals),
    }
}

fn values(counts: &[(CountId, u64)], signals: &[SignalStatus]) -> BTreeMap<String, Option<u64>> {
    counts_of(Rows::Entries)
        .map(|(id, signal, count)| {
            let n = counts.iter().find(|(other, _)| *other == id).map_or(0, |&(_, n)| n);
            (count.name.to_owned(), is_seen(signal, count, signals).then_some(n))
        })
        .collect()
}

fn creator(top: &entries::TopCreator, signals: &[SignalStatus], labels: &Labels) -> TopCreator {
    let (ip, port) = top.destination;
    TopCreator {
        netns: (top.netns != 0).then_some(top.netns),
        protocol: protocol(top.protocol),
        destination: end(ip, port),
        creator: top
            .creator
            .as_ref()
            .map(|by| owner::of_process(by.pid, &by.comm, by.place.as_deref(), labels)),
        new: seen(conntrack::NEW, top.new, signals),
        confirmed: seen(conntrack::CONFIRMED, top.confirmed, signals),
        table_full: seen(conntrack::TABLE_FULL, top.table_full, signals),
    }
}

/// A number, where some source sees what it counts.
fn seen(wanted: CountId, n: u64, signals: &[SignalStatus]) -> Option<u64> {
    let (_, signal, count) = counts_of(Rows::Entries).find(|&(id, ..)| id == wanted)?;
    is_seen(signal, count, signals).then_some(n)
}

/// IANA protocol numbers; none where it is not known.
pub(in crate::snapshot) fn protocol(number: u16) -> Option<String> {
    Some(match number {
        0 => return None,
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    })
}

/// A tuple, with null for what is not known.
pub(in crate::snapshot) fn shown(tuple: &Tuple) -> Shown {
    Shown {
        source: end(tuple.source, tuple.source_port),
        destination: end(tuple.destination, tuple.destination_port),
    }
}

fn end(bytes: [u8; 16], port: u16) -> Endpoint {
    Endpoint { ip: (bytes != [0; 16]).then(|| address(bytes)), port: (port != 0).then_some(port) }
}
