//! Records as programs send them, and what becomes of queries as it is told.

use netdiag_common::header::{Header, VERSION};
use zerocopy::IntoBytes as _;

use super::*;

const QUERY: u16 = 0x0100;
const ANSWER: u16 = 0x8180;

/// The first bytes of a message, behind its length or not.
fn head(length: Option<u16>, id: u16, flags: u16, questions: u16) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let words = length.into_iter().chain([id, flags, questions]);
    for (to, word) in head.chunks_mut(2).zip(words) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    head
}

fn message(id: u16, rcode: Option<u8>) -> Option<Message> {
    Some(Message { id, is_answer: rcode.is_some(), rcode: rcode.unwrap_or(0) })
}

#[test]
fn a_datagram_is_a_message_unless_it_goes_the_wrong_way() {
    for (flags, length, to_server, expected) in [
        (QUERY, 12, true, message(7, None)),
        (ANSWER | 3, 512, false, message(7, Some(3))),
        (QUERY, 11, true, None),
        (QUERY, 30, false, None),
        (ANSWER, 30, true, None),
    ] {
        let found = Message::read(&head(None, 7, flags, 1), length, to_server, false);
        assert_eq!(found, expected, "{flags:x} {length} {to_server}");
    }
}

#[test]
fn a_segment_is_a_message_when_it_could_be_one() {
    let asks = |announced, questions| head(Some(announced), 7, QUERY, questions);
    let says = |announced, flags| head(Some(announced), 7, flags, 1);
    for (head, length, to_server, expected) in [
        (asks(30, 1), 32, true, message(7, None)),
        // Two at once: the first.
        (asks(30, 1), 64, true, message(7, None)),
        // Of a query all is there.
        (asks(31, 1), 32, true, None),
        (asks(30, 0), 32, true, None),
        (head(Some(30), 7, QUERY | 1, 1), 32, true, None),
        // The length was in a segment before.
        (head(None, 7, QUERY, 1), 30, true, message(7, None)),
        // Of an answer that may come later.
        (says(60_000, ANSWER | 2), 1_448, false, message(7, Some(2))),
        (says(11, ANSWER), 1_448, false, None),
        (says(60_000, ANSWER | 1 << 6), 1_448, false, None),
        (says(60_000, ANSWER | 15 << 11), 1_448, false, None),
        (head(Some(40), 7, ANSWER | 1, 0), 42, false, message(7, Some(1))),
        (head(Some(40), 7, ANSWER, 0), 42, false, None),
        ([b'x'; HEAD], 1_448, false, None),
        ([0; HEAD], 1_448, false, None),
    ] {
        let found = Message::read(&head, length, to_server, true);
        assert_eq!(found, expected, "{head:?} {length} {to_server}");
    }
}

fn record(flags: u16) -> Record {
    let header = Header { version: VERSION, signal: Signal::Dns as u16, samples: 1, time_ns: 9 };
    let key = FlowKey { netns: 4, protocol: 17, peer_port: 53, ..FlowKey::default() };
    let head = head(None, 7, QUERY, 1);
    Record { header, key, ifindex: 3, flags, length: 30, head, ..Record::default() }
}

fn decoded(bytes: &[u8]) -> Result<Event, Malformed> {
    let mut events = Vec::new();
    decode(bytes, &mut |event| events.push(event))?;
    assert_eq!(events.len(), 1, "{events:?}");
    Ok(events[0])
}

fn passage(record: &Record) -> Passage {
    match decoded(record.as_bytes()) {
        Ok(Event::Passage(passage)) => passage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_is_a_message_at_a_place() {
    let out = passage(&record(flag::OUT | flag::TO_SERVER));
    assert_eq!((out.time_ns, out.asked), (9, None));
    assert_eq!(out.place, Place { netns: 4, ifindex: 3, out: true });
    assert_eq!(Some(out.message), message(7, None));
    let asked = FlowKey { local_port: 5, ..FlowKey::default() };
    let tracked = Record { asked, ..record(flag::TO_SERVER | flag::TRACKED) };
    assert_eq!(passage(&tracked).asked, Some(asked));
    assert!(!passage(&tracked).place.out);
}

#[test]
fn a_message_is_found_in_the_packet_behind_its_record() {
    let flags = flag::OUT | flag::TO_SERVER | flag::PACKET;
    let behind = Record { head: [0; HEAD], before: 42, ..record(flags) };
    let packet = [vec![0xee; 42], head(None, 9, QUERY, 1).to_vec(), vec![0; 3]].concat();
    let whole = [behind.as_bytes(), &packet].concat();
    let Ok(Event::Passage(passage)) = decoded(&whole) else { panic!("no passage") };
    assert_eq!(Some(passage.message), message(9, None));
    assert_eq!(decoded(&whole[..whole.len() - 4]), Err(Malformed::Short));
    assert_eq!(decoded(behind.as_bytes()), Err(Malformed::Short));
    let far = Record { before: u16::MAX, ..behind };
    assert_eq!(decoded(&[far.as_bytes(), &packet].concat()), Err(Malformed::Short));
}

#[test]
fn lying_records_are_malformed_and_other_packets_are_none() {
    let good = record(flag::TO_SERVER);
    assert_eq!(decoded(&good.as_bytes()[1..]), Err(Malformed::Short));
    assert_eq!(decoded(&[good.as_bytes(), &[0]].concat()), Err(Malformed::Long));
    let mut two = good;
    two.header.samples = 2;
    assert_eq!(decoded(two.as_bytes()), Err(Malformed::Value("number of samples")));
    assert_eq!(decoded(record(0).as_bytes()), Ok(Event::Other));
}

/// What an event says when it is told, if it is.
fn said(what: What) -> Option<String> {
    let asker = FlowKey::default();
    let mut said = None;
    Event::Query(Query { time_ns: 1, asker, what }).tell(&Past::default(), &mut |told| {
        said = Some(format!("{:?}", told.values));
    });
    said
}

#[test]
fn what_goes_wrong_is_told() {
    let answered = |rcode, latency_ns| What::Answered { rcode, latency_ns, late: false };
    for (what, word) in [
        (What::Asked, None),
        (What::Retried, None),
        (answered(0, 1), None),
        (answered(3, 1), None),
        (answered(0, SLOW_NS), Some("NOERROR")),
        (answered(2, 1), Some("SERVFAIL")),
        (What::Unanswered, Some("unanswered")),
    ] {
        let said = said(what);
        assert_eq!(said.is_some(), word.is_some(), "{what:?}: {said:?}");
        assert!(said.unwrap_or_default().contains(word.unwrap_or_default()), "{what:?}");
    }
}

#[test]
fn hostile_heads_are_survived() {
    let sound = [head(Some(30), 7, QUERY, 1), head(None, 7, ANSWER | 3, 1)].map(|head| head.to_vec());
    crate::hostile::survived(&sound, |bytes| {
        let mut head = [0; HEAD];
        head.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        for (to_server, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let message = Message::read(&head, bytes.len() as u32, to_server, tcp);
            assert!(message.is_none_or(|message| message.is_answer != to_server));
        }
    });
}
