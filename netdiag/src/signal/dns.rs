//! `dns`: queries of the domain name system, and what became of them.
//!
//! Programs tell of each place that a message passes. What a query and its answer are is concluded from
//! that ([`crate::flow::queries`]), and is an event as well.

use std::borrow::Cow;

use netdiag_common::{
    field::Field,
    flow::{FlowKey, TCP},
    message::{HEAD, Message},
    signal::{
        Signal,
        dns::{Record, flag},
    },
};
use zerocopy::FromBytes;

use super::{
    Attachment, Cost, Count, CountId, Definition, Fold, Hook, Label, Malformed, Metric, MetricId, Rows,
    Source, Subject, count_id, metric_id,
};
use crate::event::{Field as Said, Form, Kind, Past, Shown, Stack, Told, Value};

const LATENCY: MetricId = metric_id(Signal::Dns, 0);
const QUERIES: CountId = count_id(Signal::Dns, 0);
const UNANSWERED: CountId = count_id(Signal::Dns, 1);
const RETRIED: CountId = count_id(Signal::Dns, 2);
const LATE: CountId = count_id(Signal::Dns, 3);
const UNKNOWN: CountId = count_id(Signal::Dns, 4);
const ANSWERS: CountId = count_id(Signal::Dns, 5);

/// How long a query waits before it counts as unanswered, in nanoseconds: what resolvers wait before they
/// ask again (`timeout` in resolv.conf(5)).
pub const PATIENCE_NS: u64 = 5_000_000_000;

/// From here on an answer is told of by itself, in nanoseconds.
const SLOW_NS: u64 = 1_000_000_000;

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Dns,
    help: "queries to port 53 and their answers, by server, also those that the node forwards",
    metrics: &[Metric::new(
        "dns",
        "query sent to answer received, where the query was first seen on this node",
    )],
    counts: &[
        Count::new("dns.queries", "queries, each once however often it was sent or forwarded")
            .without_column()
            .telling(),
        Count::new("dns.unanswered", "queries without an answer for 5 s")
            .without_column()
            .telling(),
        Count::new("dns.retried", "times that queries were sent again, also after 5 s")
            .without_column()
            .telling(),
        Count::new("dns.late", "answers that came after 5 s").without_column().telling(),
        Count::new("dns.unknown", "queries whose answer may be among messages that were not told of")
            .without_column()
            .telling(),
        Count::labelled(
            "dns_answers",
            "answers by result code, late ones too, without the codes that EDNS adds",
        )
        .keyed("rcode")
        .without_column()
        .telling(),
    ],
    cost: Cost::Packet,
    sources: &[TP_BTF, RAW_TP],
    samples: 1,
    flush: None,
    rows: Rows::Flows,
    kinds: &[&DNS],
};

const DNS: Kind = Kind {
    name: "dns",
    help: "a query failed, was not answered for 5 s, or took 1 s and more",
    fields: &[
        Said::new("result", "its result code, or unanswered", Form::Text, Shown::Bare),
        Said::new(
            "latency_ns",
            "query sent to answer received, in nanoseconds",
            Form::Number,
            Shown::Named,
        ),
    ],
    has_stack: false,
};

const FIELDS: &[Field] = &[
    Field::SkbLen,
    Field::SkbDataLen,
    Field::SkbSk,
    Field::SkbDev,
    Field::SkbHead,
    Field::SkbData,
    Field::SkbNetworkHeader,
    Field::SkbProtocol,
    Field::DevNet,
    Field::DevIfindex,
];

const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[
        Attachment::new("dns_out_tp_btf", Hook::TpBtf("net_dev_queue")),
        Attachment::new("dns_in_tp_btf", Hook::TpBtf("netif_receive_skb")),
    ],
    extras: &[],
    fields: FIELDS,
    places: &[],
    typed: true,
    reads_memory: true,
    // Both run with bottom halves off.
    skips_when_preempted: false,
    blind: &[],
    cost: None,
    module: None,
    when_preempted: None,
};

const RAW_TP: Source = Source {
    name: "raw_tp",
    attachments: &[
        Attachment::new("dns_out_raw_tp", Hook::RawTp("net_dev_queue")),
        Attachment::new("dns_in_raw_tp", Hook::RawTp("netif_receive_skb")),
    ],
    extras: &[],
    fields: FIELDS,
    places: &[],
    // It needs nothing of what is remembered of a socket.
    typed: true,
    reads_memory: true,
    skips_when_preempted: false,
    blind: &["messages whose bytes lie in pages: over TCP nearly all"],
    cost: None,
    module: None,
    when_preempted: None,
};

/// A network device, and which way packets pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Number of the device.
    pub ifindex: u32,
    /// Whether they leave by it.
    pub out: bool,
}

impl Place {
    /// Where the answers to what passes here pass.
    #[must_use]
    pub const fn back(self) -> Self {
        Self { out: !self.out, ..self }
    }
}

/// A message passed a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Where.
    pub place: Place,
    /// The conversation as the packet has it, who asks as this end.
    pub seen: FlowKey,
    /// As it began, before addresses were translated, where that is known.
    pub asked: Option<FlowKey>,
    /// What its header says.
    pub message: Message,
}

/// Something became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Who asks, without a port: there is another one for each query. The peer is the server.
    pub asker: FlowKey,
    /// What.
    pub what: What,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was sent.
    Asked,
    /// It was sent again.
    Retried,
    /// No answer came in time.
    Unanswered,
    /// None was seen in time, and not everything was.
    Unknown,
    /// An answer came.
    Answered {
        /// The result code.
        rcode: u8,
        /// From the query, in nanoseconds.
        latency_ns: u64,
        /// It came after the query had counted as unanswered.
        late: bool,
    },
}

/// Of this signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What programs tell.
    Passage(Passage),
    /// A packet turned out to be the middle of something.
    Other,
    /// What is concluded from it.
    Query(Query),
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        match self {
            // Nothing is counted of these.
            Self::Passage(_) | Self::Other => Subject::Flow(0),
            Self::Query(query) => Subject::Asker(&query.asker),
        }
    }

    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        let Self::Query(query) = self else { return };
        match query.what {
            What::Asked => row.count(QUERIES, 1),
            What::Retried => row.count(RETRIED, 1),
            What::Unanswered => row.count(UNANSWERED, 1),
            What::Unknown => row.count(UNKNOWN, 1),
            What::Answered { rcode, latency_ns, late } => {
                row.latency(LATENCY, latency_ns);
                row.labelled(ANSWERS, Label::Rcode(rcode), 1);
                if late {
                    row.count(LATE, 1);
                }
            }
        }
    }

    pub(super) fn tell(&self, _past: &Past, told: &mut impl FnMut(Told)) {
        let Self::Query(query) = self else { return };
        let (result, latency) = match query.what {
            What::Unanswered => (Cow::Borrowed("unanswered"), Value::Unknown),
            What::Answered { rcode, latency_ns, .. }
                if is_failure(rcode) || latency_ns >= SLOW_NS =>
            {
                (rcode_name(rcode), Value::Number(latency_ns))
            }
            _ => return,
        };
        told(Told {
            kind: &DNS,
            time_ns: query.time_ns,
            events: 1,
            values: vec![Value::Text(result), latency],
            stack: Stack::None,
        });
    }
}

/// Whether a result code is neither an answer nor that there is no such name, which resolvers hear all
/// day long as they try the domains of their search list.
const fn is_failure(rcode: u8) -> bool {
    const NOERROR: u8 = 0;
    const NXDOMAIN: u8 = 3;
    rcode != NOERROR && rcode != NXDOMAIN
}

/// The name of a result code (IANA, DNS RCODEs), else its number.
#[must_use]
pub fn rcode_name(rcode: u8) -> Cow<'static, str> {
    Cow::Borrowed(match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        _ => return Cow::Owned(format!("RCODE{rcode}")),
    })
}

/// Decodes one record.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let (mut record, rest) = Record::read_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if record.header.samples != 1 {
        return Err(Malformed::Value("number of samples"));
    }
    let is = |flag| record.flags & flag != 0;
    let (to_server, out, tracked) = (is(flag::TO_SERVER), is(flag::OUT), is(flag::TRACKED));
    if is(flag::PACKET) {
        let message = rest.get(record.before as usize..).ok_or(Malformed::Short)?;
        let known = message.len().min(HEAD);
        if known < HEAD.min(record.length as usize) {
            return Err(Malformed::Short);
        }
        record.head[..known].copy_from_slice(&message[..known]);
    } else if !rest.is_empty() {
        return Err(Malformed::Long);
    }
    let tcp = record.key.protocol == TCP;
    let message = Message::read(&record.head, record.length, to_server, tcp);
    emit(message.map_or(Event::Other, |message| {
        Event::Passage(Passage {
            time_ns: record.header.time_ns,
            place: Place { netns: record.key.netns, ifindex: record.ifindex, out },
            seen: record.key,
            asked: tracked.then_some(record.asked),
            message,
        })
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
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

    fn record(flags: u32) -> Record {
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
        let far = Record { before: u32::MAX, ..behind };
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
}
