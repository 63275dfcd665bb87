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
    Shed, Source, Subject, count_id, metric_id,
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
    shed: Some(Shed::at(3)),
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
    has_packet: false,
    counted: &[],
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
    module: None,
    when_preempted: None,
};

/// The source whose programs have the kernel copy what lies in pages; those of the other one cannot.
pub const COPIES: &str = TP_BTF.name;

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
    /// Where it begins in what TCP carries, if it does.
    pub seq: Option<u32>,
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
            packet: None,
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
        let message = rest.get(usize::from(record.before)..).ok_or(Malformed::Short)?;
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
            seq: tcp.then_some(record.seq),
        })
    }));
    Ok(())
}

#[cfg(test)]
mod tests;
