//! Queueing disciplines, per network namespace, from the kernel's dump (`net/sched/sch_api.c`,
//! `tc_fill_qdisc`).

use std::{collections::BTreeMap, io};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    links::Interfaces,
    netlink::{Asker, text},
    reading::Reading,
};
use crate::snapshot::node::Qdisc;

/// `struct tcmsg` (`include/uapi/linux/rtnetlink.h`).
const HEADER_BYTES: usize = 20;

/// `TC_H_ROOT` (`include/uapi/linux/pkt_sched.h`).
const ROOT: u32 = u32::MAX;

/// `TCA_STATS_BASIC` and `TCA_STATS_QUEUE` (`include/uapi/linux/gen_stats.h`).
const BASIC: u16 = 1;
const QUEUE: u16 = 3;

/// `TCA_TBF_PARMS` and `TCA_TBF_RATE64`.
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;

/// Those that a snapshot lists.
const LISTED: usize = 1_000;

/// Those of one namespace that are remembered.
const REMEMBERED: usize = 4_096;

/// Interface, parent and handle.
pub type QueueKey = (u32, u32, u32);

/// Those of a namespace; counts are since each was made.
pub type Queues = BTreeMap<QueueKey, Qdisc>;

/// Reads those of the calling thread's namespace, in which the asker asks.
///
/// # Errors
/// Those of netlink, and `Interrupted` when they came and went all the time.
pub(super) fn read(asker: &mut Asker) -> io::Result<Queues> {
    let body = [0; HEADER_BYTES];
    let take = |queues: &mut Queues, kind, payload: &[u8]| {
        let queue = (kind == libc::RTM_NEWQDISC).then(|| parse(payload)).flatten();
        let makes_sense = queue.is_some();
        queues.extend(queue.filter(|(_, queue)| queue.kind != "noqueue"));
        makes_sense
    };
    asker.whole(NETLINK_ROUTE, libc::RTM_GETQDISC, &body, Queues::new, take)
}

fn parse(payload: &[u8]) -> Option<(QueueKey, Qdisc)> {
    let (header, attributes) = payload.split_first_chunk::<HEADER_BYTES>()?;
    let (index, handle, parent) = (word(header, 4)?, word(header, 8)?, word(header, 12)?);
    let mut qdisc = Qdisc {
        index,
        handle: format!("{:x}:", handle >> 16),
        parent: (parent != ROOT).then(|| format!("{:x}:{:x}", parent >> 16, parent & 0xffff)),
        ..Qdisc::default()
    };
    let mut options = None;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            libc::TCA_KIND => qdisc.kind = text(attribute.value()),
            libc::TCA_OPTIONS => options = Some(attribute.value().to_vec()),
            libc::TCA_STATS2 => {
                for part in NlasIterator::new(attribute.value()).flatten() {
                    count(&mut qdisc, part.kind(), part.value());
                }
            }
            _ => {}
        }
    }
    if qdisc.kind == "tbf" {
        qdisc.rate_bits = options.and_then(|options| tbf_rate(&options));
    }
    (!qdisc.kind.is_empty()).then_some(((index, parent, handle), qdisc))
}

/// `struct gnet_stats_basic` and `struct gnet_stats_queue`.
fn count(qdisc: &mut Qdisc, kind: u16, value: &[u8]) {
    let number = |at| word(value, at).map(u64::from).unwrap_or_default();
    match kind {
        BASIC => {
            qdisc.bytes = long(value, 0).unwrap_or_default();
            qdisc.packets = number(8);
        }
        QUEUE => {
            qdisc.backlog_packets = number(0);
            qdisc.backlog_bytes = number(4);
            qdisc.drops = number(8);
            qdisc.requeues = number(12);
            qdisc.overlimits = number(16);
        }
        _ => {}
    }
}

/// In bits per second: `struct tc_tbf_qopt` begins with a `struct tc_ratespec`, whose last word holds
/// it in bytes, and a rate beyond its range is told by itself.
fn tbf_rate(options: &[u8]) -> Option<u64> {
    let mut rate = None;
    for part in NlasIterator::new(options).flatten() {
        match part.kind() {
            TBF_PARAMETERS if rate.is_none() => rate = word(part.value(), 8).map(u64::from),
            TBF_RATE64 => rate = long(part.value(), 0),
            _ => {}
        }
    }
    rate?.checked_mul(8)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// What was counted since, an interval ago. Packets and drops are counted in 32 bits and wrap; where the
/// bytes fell it is another one with the same handle, and new.
fn since(now: &Qdisc, then: Option<&Qdisc>) -> Qdisc {
    let Some((then, bytes)) = then
        .filter(|then| then.kind == now.kind)
        .and_then(|then| Some((then, now.bytes.checked_sub(then.bytes)?)))
    else {
        return now.clone();
    };
    // A rise of half the range is a fall: a queue below it was replaced, and its sum with it.
    let rise = |now: u64, then: u64| match (now as u32).wrapping_sub(then as u32) {
        rise if rise < 1 << 31 => u64::from(rise),
        _ => 0,
    };
    Qdisc {
        bytes,
        packets: rise(now.packets, then.packets),
        drops: rise(now.drops, then.drops),
        overlimits: rise(now.overlimits, then.overlimits),
        requeues: rise(now.requeues, then.requeues),
        ..now.clone()
    }
}

/// Takes over a later reading. The kernel may skip some in a dump during which others go, and does not
/// tell: what was not found keeps its numbers, since it would be new the next time, and have counted from
/// zero.
pub fn follow(last: &mut Reading<Queues>, mut now: Reading<Queues>) {
    for (netns, queues) in &mut now.namespaces {
        let before = last.namespaces.remove(netns).unwrap_or_default();
        let room = REMEMBERED.saturating_sub(queues.len());
        let gone: Vec<_> =
            before.into_iter().filter(|(key, _)| !queues.contains_key(key)).take(room).collect();
        let emptied = |queue| Qdisc { backlog_bytes: 0, backlog_packets: 0, ..queue };
        queues.extend(gone.into_iter().map(|(key, queue)| (key, emptied(queue))));
    }
    last.follow(now);
}

/// Those of all namespaces, by inode number and as [`Queues`] are.
pub type Qdiscs = BTreeMap<(u32, QueueKey), Qdisc>;

/// What was counted between two readings an interval apart, the earlier first.
#[must_use]
pub fn increase(before: &Reading<Queues>, after: &Reading<Queues>) -> Qdiscs {
    let rose = after.since(before, |then, now| {
        let then = |key| then?.get(key);
        now.iter().map(|(key, qdisc)| (*key, since(qdisc, then(key)))).collect::<Vec<_>>()
    });
    let of = |netns| move |(key, one)| ((netns, key), Qdisc { netns, ..one });
    rose.into_iter().flat_map(|(netns, qdiscs)| qdiscs.into_iter().map(of(netns))).collect()
}

/// Those worth telling, with the names of their interfaces.
#[must_use]
pub fn listed(all: &Qdiscs, interfaces: &Interfaces) -> Vec<Qdisc> {
    let worth = |one: &&Qdisc| {
        let happened =
            one.drops | one.overlimits | one.requeues | one.backlog_bytes | one.backlog_packets;
        happened != 0 || one.rate_bits.is_some()
    };
    all.values()
        .filter(worth)
        .take(LISTED)
        .map(|one| {
            let interface = interfaces.get(&(one.netns, one.index));
            Qdisc { interface: interface.map(|found| found.name.clone()), ..one.clone() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn message() -> Vec<u8> {
        let queue = attribute(QUEUE, &words(&[3, 4_500, u32::MAX, 2, 9]));
        let basic = attribute(BASIC, &[&1_000u64.to_ne_bytes()[..], &words(&[8, 0])].concat());
        let rate = attribute(TBF_PARAMETERS, &words(&[0, 0, 125_000, 0, 0, 0]));
        [
            words(&[0, 7, 0x8001_0000, ROOT, 0]),
            attribute(libc::TCA_KIND, b"tbf\0"),
            attribute(libc::TCA_OPTIONS, &rate),
            attribute(libc::TCA_STATS2, &[basic, queue].concat()),
        ]
        .concat()
    }

    #[test]
    fn a_token_bucket_is_read() {
        let (key, qdisc) = parse(&message()).unwrap();
        assert_eq!(key, (7, ROOT, 0x8001_0000));
        let expected = Qdisc {
            netns: 0,
            index: 7,
            interface: None,
            kind: "tbf".to_owned(),
            handle: "8001:".to_owned(),
            parent: None,
            bytes: 1_000,
            packets: 8,
            drops: u32::MAX.into(),
            overlimits: 9,
            requeues: 2,
            backlog_bytes: 4_500,
            backlog_packets: 3,
            rate_bits: Some(1_000_000),
        };
        assert_eq!(qdisc, expected);
        let later = Qdisc { bytes: 1_500, drops: 4, overlimits: 10, ..qdisc.clone() };
        let rose = since(&later, Some(&qdisc));
        assert_eq!((rose.bytes, rose.drops, rose.overlimits, rose.requeues), (500, 5, 1, 0));
        assert_eq!(rose.backlog_packets, 3, "a level");
        let another = Qdisc { bytes: 1, ..later };
        assert_eq!(since(&another, Some(&qdisc)), another);
    }

    #[test]
    fn a_large_rate_is_told_by_itself() {
        let large = attribute(TBF_RATE64, &12_500_000_000u64.to_ne_bytes());
        let options = [attribute(TBF_PARAMETERS, &words(&[0, 0, u32::MAX])), large].concat();
        assert_eq!(tbf_rate(&options), Some(100_000_000_000));
        assert_eq!(tbf_rate(&[]), None);
    }

    #[test]
    fn one_that_was_skipped_is_not_new() {
        let one = |bytes| ((1, ROOT, 0), Qdisc { bytes, drops: bytes, ..Qdisc::default() });
        let reading = |queues: &[(QueueKey, Qdisc)]| Reading {
            namespaces: BTreeMap::from([(5, queues.iter().cloned().collect())]),
            ..Reading::default()
        };
        let mut last = reading(&[one(70)]);
        follow(&mut last, reading(&[]));
        let told = listed(&increase(&last, &reading(&[one(72)])), &Interfaces::new());
        assert_eq!((told.len(), told[0].drops), (1, 2));
    }

    #[test]
    fn hostile_messages_are_survived() {
        let whole = message();
        for end in 0..whole.len() {
            let _cut = parse(&whole[..end]);
            let mut hostile = whole.clone();
            hostile[end] = 0xff;
            let _changed = parse(&hostile);
        }
        assert_eq!(parse(&words(&[0, 7, 1, ROOT, 0])), None, "of no kind");
    }

    #[test]
    fn hostile_and_spoilt_messages_are_survived() {
        let sound = parse(&message()).map(|(_, qdisc)| qdisc);
        crate::hostile::survived(&[message()], |bytes| {
            if let Some((_, qdisc)) = parse(bytes) {
                let _rise = since(&qdisc, sound.as_ref());
            }
        });
    }
}
