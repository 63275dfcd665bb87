//! `reset`: connections that were reset, by this end with the kernel's reason, or by the other.

use netdiag_common::{
    field::Field,
    flow::{FlowKey, TCP},
    signal::{
        Signal,
        reset::{NO_REASON, Record, SAMPLES, direction},
    },
};
use zerocopy::FromBytes;

use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Label, Malformed,
    Rows, Source, Subject, When, count_id,
};
use crate::event::{
    Counted, Field as Said, Form, Kind, Packet, Past, Segment, Shown, Stack, Told, Value, Way,
    flags,
};

const SENT: CountId = count_id(Signal::Reset, 0);
const RECEIVED: CountId = count_id(Signal::Reset, 1);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Reset,
    help: "connections that were reset, by this end or by the other",
    metrics: &[],
    counts: &[
        Count::labelled(
            "resets_sent",
            "resets that this end sent, by the kernel's reason; `unknown` before 6.10",
        )
        .without_column()
        .telling(),
        Count::new("resets_received", "resets that ended a connection of this end").telling(),
    ],
    cost: Cost::Loss,
    sources: &[TP_BTF, RAW_TP],
    samples: SAMPLES,
    flush: Some("reset_flush"),
    rows: Rows::Flows,
    kinds: &[&RESET],
    shed: None,
};

const RESET: Kind = Kind {
    name: "reset",
    help: "a connection was reset, or asked for in vain",
    fields: &[
        Said::new("direction", "sent or received", Form::Text, Shown::Bare),
        Said::new(
            "reason",
            "the kernel's reason to send it, unknown before 6.10",
            Form::Text,
            Shown::Bare,
        ),
        Said::new("resets", "resets that the event stands for", Form::Number, Shown::UnlessOne),
    ],
    has_stack: false,
    has_packet: true,
    counted: &[
        Counted::new("resets_received").when("direction", "received"),
        Counted::by("resets_sent.", "reason"),
        Counted::new("resets_sent.unknown"),
    ],
};

const FIELDS: &[Field] =
    &[Field::SkbHead, Field::SkbNetworkHeader, Field::SkbDev, Field::DevNet, Field::InetSport];

const BLIND: &[&str] =
    &["resets received for a connection request or in TIME_WAIT, which no socket hears of"];

/// Before 6.10 the tracepoint is silent where no full socket answers.
const CLOSED_PORTS: Extra = Extra {
    when: When::TracepointArgumentsBelow("tcp_send_reset", 3),
    alternatives: &[Alternative::programs(&[
        Attachment::new("reset_v4_fentry", Hook::Fentry("tcp_v4_send_reset")),
        Attachment::new("reset_v6_fentry", Hook::Fentry("tcp_v6_send_reset")),
    ])],
    lost: "resets sent for ports that nobody listens on, or in TIME_WAIT",
    counts: &[],
};

const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[
        Attachment::new("reset_sent_tp_btf", Hook::TpBtf("tcp_send_reset")),
        Attachment::new("reset_received_tp_btf", Hook::TpBtf("tcp_receive_reset")),
    ],
    extras: &[CLOSED_PORTS],
    fields: FIELDS,
    places: &[],
    typed: true,
    reads_memory: true,
    skips_when_preempted: true,
    blind: BLIND,
    module: None,
    when_preempted: None,
};

const RAW_TP: Source = Source {
    name: "raw_tp",
    attachments: &[
        Attachment::new("reset_sent_raw_tp", Hook::RawTp("tcp_send_reset")),
        Attachment::new("reset_received_raw_tp", Hook::RawTp("tcp_receive_reset")),
    ],
    // It needs nothing of what is remembered of a socket.
    ..TP_BTF
};

/// The enum that numbers reasons, and the part of the names that all have.
pub const REASONS: (&str, &str) = ("sk_rst_reason", "SK_RST_REASON_");

/// Resets of one conversation for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the last of them was sent or received, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The conversation, all zero where it is not known; the netns is 0 where that is not.
    pub key: FlowKey,
    /// Whether this end sent it; else it received it.
    pub sent: bool,
    /// Number of the kernel's reason (`enum sk_rst_reason`), where it has one.
    pub reason: Option<u32>,
    /// How many.
    pub resets: u32,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Packet { key: &self.key, ends_known: true }
    }

    pub(super) fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        let resets = u64::from(self.resets);
        if self.sent {
            row.labelled(SENT, Label::Reset(self.reason), resets);
        } else {
            row.count(RECEIVED, resets);
        }
    }

    pub(super) fn tell(&self, _past: &Past, told: &mut impl FnMut(Told)) {
        let resets = u64::from(self.resets);
        told(Told {
            kind: &RESET,
            time_ns: self.time_ns,
            events: resets,
            values: vec![
                Value::name(if self.sent { "sent" } else { "received" }),
                self.reason.map_or(Value::Unknown, Value::ResetReason),
                Value::Number(resets),
            ],
            stack: Stack::None,
            packet: self.packet(),
        });
    }

    /// The reset itself. Its sequence number no program reads.
    fn packet(&self) -> Option<Packet> {
        Some(Packet {
            way: Some(if self.sent { Way::Out } else { Way::In }),
            tcp: Segment { flags: Some(flags::RST), payload: Some(0), ..Segment::default() },
            ..Packet::of(FlowKey { protocol: TCP, ..self.key })?
        })
    }
}

/// Decodes one record.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let (record, rest) = Record::read_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if !rest.is_empty() {
        return Err(Malformed::Long);
    }
    if record.header.samples == 0 || record.header.samples > SAMPLES {
        return Err(Malformed::Value("number of resets"));
    }
    if record.direction > direction::RECEIVED {
        return Err(Malformed::Value("direction of a reset"));
    }
    emit(Event {
        time_ns: record.header.time_ns,
        key: record.key,
        sent: record.direction == direction::SENT,
        reason: (record.reason != NO_REASON).then_some(record.reason),
        resets: record.header.samples,
    });
    Ok(())
}
