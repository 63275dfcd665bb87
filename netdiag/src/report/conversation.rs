//! Both ends of a conversation side by side, and where between them segments are lost.

use super::{
    columns::rfc3339,
    counts,
    course::{Names, Sum},
    ends::{Key, Pair},
    told::{Conversation, EndRow, Way},
};
use crate::snapshot::{Endpoint, Flow, Owner, Role};

/// What is added up for an end.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) sum: Sum,
    /// Who and what it is, as was told last.
    flow: Option<Box<Flow>>,
    rtt_min_ns: Option<u64>,
    /// Of the intervals that tell of it: the first one's start, the last one's end and the longest one's length, in
    /// nanoseconds.
    told: Option<(i64, i64, i64)>,
}

impl End {
    pub(super) fn count(&mut self, flow: &Flow, (start, end): (i64, i64)) {
        self.sum.count(flow);
        let length = end.saturating_sub(start);
        let (first, last, longest) = self.told.unwrap_or((start, end, length));
        self.told = Some((first.min(start), last.max(end), longest.max(length)));
        self.rtt_min_ns = [self.rtt_min_ns, flow.rtt_min_ns].into_iter().flatten().min();
        let who = Flow { metrics: [].into(), counts: [].into(), ..flow.clone() };
        self.flow = Some(Box::new(who));
    }

    /// Whether both tell of the same time, to the length of an interval.
    fn is_beside(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (self.told, other.told) else { return false };
        let most = one.2.max(other.2);
        let is_near = |one: i64, other: i64| one.abs_diff(other) <= most.unsigned_abs();
        is_near(one.0, other.0) && is_near(one.1, other.1)
    }

    fn told(&self, key: &Key, names: &Names) -> EndRow {
        let nowhere = Endpoint { ip: None, port: None };
        let flow = self.flow.as_deref();
        EndRow {
            node: key.node.clone(),
            id: key.id.clone(),
            local: flow.map_or(nowhere.clone(), |flow| flow.local.clone()),
            peer: flow.map_or(nowhere, |flow| flow.peer.clone()),
            netns: flow.and_then(|flow| flow.netns),
            role: flow.and_then(|flow| flow.role),
            owner: flow.map_or_else(Owner::default, |flow| flow.owner.clone()),
            rtt_min_ns: self.rtt_min_ns,
            metrics: self.sum.metrics(names),
            counts: self.sum.counts().clone(),
        }
    }
}

/// A conversation by its two ends.
pub(super) fn told(pair: &Pair, ends: &[End], names: &Names) -> Conversation {
    let is_whole = matches!(ends, [one, other] if one.is_beside(other));
    let protocol = ends.iter().find_map(|end| end.flow.as_deref()?.protocol.clone());
    let mut ends: Vec<EndRow> =
        pair.ends.iter().zip(ends).map(|(key, end)| end.told(key, names)).collect();
    if ends.last().is_some_and(|end| end.role == Some(Role::Client)) {
        ends.reverse();
    }
    let ways = match &ends[..] {
        [one, other] => vec![way(one, other, is_whole), way(other, one, is_whole)],
        _ => Vec::new(),
    };
    Conversation {
        protocol,
        start: rfc3339(pair.first),
        end: rfc3339(pair.last),
        translated: pair.translated,
        ends,
        ways,
    }
}

/// `is_whole`: both ends were recorded in the same time, so that their counts can be held against each other.
fn way(from: &EndRow, to: &EndRow, is_whole: bool) -> Way {
    let of = |end: &EndRow, name| counts::total(&end.counts, name);
    let (segments_sent, segments_received) =
        (of(from, "segments_sent"), of(to, "segments_received"));
    // The kernel is asked for the one and the other at times of its own: no less than nothing is lost.
    let both = segments_sent.zip(segments_received).filter(|_| is_whole);
    let lost = both.map(|(sent, received)| sent.saturating_sub(received));
    let mut way = Way {
        from: from.node.clone(),
        to: to.node.clone(),
        segments_sent,
        segments_received,
        segments_lost: lost,
        retransmits: of(from, "retransmits"),
        retransmitted_bytes: of(from, "bytes_retransmitted"),
        spurious: of(from, "dsacks"),
        dropped_at_sender: of(from, "drops"),
        dropped_at_receiver: of(to, "drops"),
        dropped_bytes_at_sender: of(from, "drop_bytes"),
        dropped_bytes_at_receiver: of(to, "drop_bytes"),
        lost_where: String::new(),
    };
    way.lost_where = if is_whole {
        place(&way)
    } else {
        "not known: one end was recorded for longer than the other".to_owned()
    };
    way
}

/// Where most of what was lost was lost.
fn place(way: &Way) -> String {
    let Way { from, to, .. } = way;
    let needed = way.retransmits.map(|sent| sent.saturating_sub(way.spurious.unwrap_or(0)));
    // What was sent again was missed; that counters were read a moment apart is no loss.
    let lost = match (needed, way.segments_lost) {
        (Some(0), _) => return "nothing is lost".to_owned(),
        (Some(needed), Some(lost)) => needed.min(lost),
        (Some(needed), None) => needed,
        (None, _) => return "not known: retransmissions were not recorded".to_owned(),
    };
    // A packet that a kernel drops may be many segments, which their bytes tell.
    let most = |packets: Option<u64>, bytes: Option<u64>| {
        let by_bytes = bytes.zip(way.retransmitted_bytes);
        packets.is_some_and(|n| n > 0 && n.saturating_mul(2) >= lost)
            || by_bytes.is_some_and(|(n, again)| n > 0 && n.saturating_mul(2) >= again)
    };
    if most(way.dropped_at_receiver, way.dropped_bytes_at_receiver) {
        return format!("on {to}, in the kernel, which says why in its drops");
    }
    if most(way.dropped_at_sender, way.dropped_bytes_at_sender) {
        return format!("on {from}, in the kernel, which says why in its drops");
    }
    if lost == 0 {
        return format!("all arrived at {to}: its acknowledgements are lost or late");
    }
    match (way.dropped_at_sender, way.dropped_at_receiver) {
        (Some(_), Some(_)) => format!("on the way from {from} to {to}: neither kernel dropped it"),
        _ => "not known: drops were not recorded at both ends".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(way: Way) -> String {
        place(&Way { from: "a".to_owned(), to: "b".to_owned(), ..way })
    }

    #[test]
    fn loss_is_located() {
        let none = || Way {
            from: String::new(),
            to: String::new(),
            segments_sent: Some(1_000),
            segments_received: Some(1_000),
            segments_lost: Some(0),
            retransmits: Some(0),
            retransmitted_bytes: Some(40_000),
            spurious: Some(0),
            dropped_at_sender: Some(0),
            dropped_at_receiver: Some(0),
            dropped_bytes_at_sender: Some(0),
            dropped_bytes_at_receiver: Some(0),
            lost_where: String::new(),
        };
        let of = |sent, lost| Way { retransmits: Some(sent), segments_lost: Some(lost), ..none() };
        for (way, expected) in [
            (none(), "nothing is lost"),
            (of(0, 3), "nothing is lost"),
            (of(30, 30), "on the way from a to b: neither kernel dropped it"),
            (Way { dropped_at_receiver: Some(25), ..of(30, 30) }, "on b, in the kernel"),
            (Way { dropped_at_sender: Some(16), ..of(30, 30) }, "on a, in the kernel"),
            (Way { dropped_at_receiver: Some(2), ..of(30, 30) }, "on the way from a to b"),
            (
                Way {
                    dropped_at_receiver: Some(1),
                    dropped_bytes_at_receiver: Some(39_000),
                    ..of(30, 30)
                },
                "on b, in the kernel",
            ),
            (Way { spurious: Some(30), ..of(30, 0) }, "nothing is lost"),
            (of(30, 0), "all arrived at b: its acknowledgements"),
            (Way { retransmits: None, ..none() }, "not known: retransmissions"),
            (Way { dropped_at_receiver: None, ..of(30, 30) }, "not known: drops"),
        ] {
            let found = lost(way.clone());
            assert!(found.starts_with(expected), "{found}, not {expected}: {way:?}");
        }
    }
}
