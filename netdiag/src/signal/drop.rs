//! `drop`: packets that the kernel threw away, by reason.

use netdiag_common::{
    field::Field,
    flow::FlowKey,
    signal::{
        Signal,
        drop::{Record, ends},
    },
};
use zerocopy::FromBytes;

use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Label, Malformed, Rows,
    Source, Subject, When, count_id,
};
use crate::event::{
    Counted, Field as Said, Form, Kind, Packet, Past, Shown, Stack, Told, Value, Way,
};

const DROPS: CountId = count_id(Signal::Drop, 0);
const BYTES: CountId = count_id(Signal::Drop, 1);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Drop,
    help: "packets that the kernel threw away, by its reason",
    metrics: &[],
    counts: &[
        Count::labelled(
            "drops",
            "packets dropped, a buffer of many segments as one, by the kernel's reason; before 5.17 \
             by place, as at:SYMBOL",
        )
        .telling(),
        Count::new("drop_bytes", "bytes of the packets dropped"),
    ],
    cost: Cost::Loss,
    sources: &[TP_BTF, RAW_TP, SOCKETS],
    samples: netdiag_common::signal::drop::SAMPLES,
    flush: Some("drop_flush"),
    rows: Rows::Flows,
    kinds: &[&DROP],
    shed: None,
};

const DROP: Kind = Kind {
    name: "drop",
    help: "the kernel threw a packet away, or so many of one conversation in a flood",
    fields: &[
        Said::new("reason", "the kernel's reason, unknown before 5.17", Form::Text, Shown::Bare),
        Said::new("location", "where in the kernel's code", Form::Text, Shown::Bare),
        Said::new("packets", "packets that the event stands for", Form::Number, Shown::UnlessOne),
        Said::new("length", "bytes of all of them", Form::Number, Shown::Bare),
    ],
    has_stack: true,
    has_packet: true,
    counted: &[
        Counted::by("drops.", "reason"),
        Counted::by("drops.at:", "location"),
        Counted::new("drops.at:unknown"),
    ],
};

const FIELDS: &[Field] = &[
    Field::SkbLen,
    Field::SkbSk,
    Field::SkbDev,
    Field::SkbHead,
    Field::SkbNetworkHeader,
    Field::SkbProtocol,
    Field::DevNet,
];

/// From 7.2 on the queue discipline tells its own reason before the packet is freed.
const QDISC_REASONS: Extra = Extra {
    when: When::TracepointExists("qdisc_drop"),
    alternatives: &[
        Alternative::programs(&[Attachment::aside("drop_qdisc_tp_btf", Hook::TpBtf("qdisc_drop"))]),
        Alternative::programs(&[Attachment::aside("drop_qdisc_raw_tp", Hook::RawTp("qdisc_drop"))]),
    ],
    counts: &[],
    lost: "the queue disciplines' own reasons (QDISC_DROP stands for all)",
};

const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[Attachment::new("drop_tp_btf", Hook::TpBtf("kfree_skb"))],
    extras: &[QDISC_REASONS],
    fields: FIELDS,
    places: &[],
    typed: true,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

const RAW_TP: Source = Source {
    name: "raw_tp",
    attachments: &[Attachment::new("drop_raw_tp", Hook::RawTp("kfree_skb"))],
    extras: &[QDISC_REASONS],
    fields: FIELDS,
    // It needs nothing of what is remembered of a socket.
    places: &[],
    typed: true,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// Without a look at packets: lockdown in mode confidentiality lets no program read what only an
/// address leads to.
const SOCKETS: Source = Source {
    name: "sockets",
    attachments: &[Attachment::new("drop_sockets_tp_btf", Hook::TpBtf("kfree_skb"))],
    extras: &[QDISC_REASONS],
    fields: &[Field::SkbLen, Field::SkbSk, Field::SkbProtocol],
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &["the conversations of packets that no socket holds (they count in the last row)"],
    module: None,
    when_preempted: None,
};

/// What `kfree_skb` tells of that is no drop: a function where it is freed (any where none), and its
/// reason (any where none; kernels before 5.17 have none at all).
///
/// A socket's queues are emptied as it closes, a listener ignores a reset, the last FIN finds but a
/// TIME_WAIT (both in `tcp_v4_rcv`), a packet socket's copy was not wanted, and 6.12 gave consumed packets a number among the reasons. A kernel
/// without reasons does not tell the second from other segments: there it is those with FIN or RST.
/// Checked on 5.10 to 7.2.
pub const NO_LOSSES: &[(Option<&str>, Option<&str>)] = &[
    (None, Some("SKB_CONSUMED")),
    (Some("sk_stream_kill_queues"), None),
    (Some("udp_destruct_common"), None),
    (None, Some("PACKET_SOCK_ERROR")),
    (Some("packet_rcv"), None),
    (Some("tpacket_rcv"), None),
    (Some("tcp_v4_rcv"), Some("NOT_SPECIFIED")),
    (Some("tcp_v6_rcv"), Some("NOT_SPECIFIED")),
];

/// The enums that number reasons, each with the part of the names that all have
/// (`include/net/dropreason-core.h`, `include/net/dropreason-qdisc.h`, `net/openvswitch/drop.h`).
pub const REASONS: &[(&str, &str)] = &[
    ("skb_drop_reason", "SKB_DROP_REASON_"),
    ("qdisc_drop_reason", ""),
    ("ovs_drop_reason", ""),
    ("mac80211_drop_reason", ""),
];

/// Drops of one conversation for one reason at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the last packet was dropped, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The conversation, all zero where it is not known; the netns is 0 where that is not.
    pub key: FlowKey,
    /// Whether it is known which end of the conversation is this one's; else it is the packets'
    /// destination.
    pub ends_known: bool,
    /// Which way they went, where that is known.
    pub way: Option<Way>,
    /// Number of the kernel's reason (`enum skb_drop_reason`), where the kernel has reasons.
    pub reason: Option<u32>,
    /// Address in the kernel's code where they were dropped.
    pub location: u64,
    /// How many.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Where in the kernel, the same for all.
    pub stack: Stack,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Packet { key: &self.key, ends_known: self.ends_known }
    }

    pub(super) fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        let label = self.reason.map_or(Label::Place(self.location), Label::Reason);
        row.labelled(DROPS, label, u64::from(self.packets));
        row.count(BYTES, self.bytes);
    }

    pub(super) fn tell(&self, _past: &Past, told: &mut impl FnMut(Told)) {
        let packets = u64::from(self.packets);
        told(Told {
            kind: &DROP,
            time_ns: self.time_ns,
            events: packets,
            values: vec![
                self.reason.map_or(Value::Unknown, Value::Reason),
                Value::Place(self.location),
                Value::Number(packets),
                Value::Number(self.bytes),
            ],
            stack: self.stack,
            packet: self.packet(),
        });
    }

    /// One of them; how long each of several was is not known.
    fn packet(&self) -> Option<Packet> {
        let bytes = (self.packets == 1).then_some(self.bytes);
        Some(Packet { way: self.way, bytes, ..Packet::of(self.key)? })
    }
}

/// Decodes one record.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let (record, rest) = Record::read_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if !rest.is_empty() {
        return Err(Malformed::Long);
    }
    if record.header.samples == 0 || record.header.samples > netdiag_common::signal::drop::SAMPLES {
        return Err(Malformed::Value("number of packets"));
    }
    if record.ends > ends::RECEIVED {
        return Err(Malformed::Value("ends of a conversation"));
    }
    emit(Event {
        time_ns: record.header.time_ns,
        key: if record.ends == ends::NONE { FlowKey::default() } else { record.key },
        ends_known: [ends::KNOWN, ends::SENT, ends::RECEIVED].contains(&record.ends),
        way: match record.ends {
            ends::SENT => Some(Way::Out),
            ends::RECEIVED | ends::BY_DESTINATION => Some(Way::In),
            _ => None,
        },
        reason: (record.reason != 0).then_some(record.reason),
        location: record.location,
        packets: record.header.samples,
        bytes: record.bytes,
        stack: Stack::of(record.stack),
    });
    Ok(())
}
