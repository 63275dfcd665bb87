//! `retransmit`: segments that TCP sent again, by kind.

use netdiag_common::{
    field::Field,
    flow::{FlowKey, SocketRef, TCP, TcpCounters},
    signal::{
        Signal,
        retransmit::{Record, origin},
    },
};
use zerocopy::FromBytes;

use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Malformed, Rows,
    Source, Subject, When, count_id, socket::state_name,
};
use crate::event::{
    self, Counted, Field as Said, Form, Packet, Past, Segment, Shown, Stack, Told, Value, Way,
    flags,
};

const FIRST_KIND: CountId = count_id(Signal::Retransmit, 0);
/// Count of the segments of which only the kernel's own counter tells
/// ([`TcpCounters::retrans_unseen`]): their kind is not known.
const OTHER: CountId = count_id(Signal::Retransmit, Kind::Other as u16);
const FAILED: CountId = count_id(Signal::Retransmit, Kind::COUNT);
const BYTES: CountId = count_id(Signal::Retransmit, Kind::COUNT + 1);
const IN_A_ROW: CountId = count_id(Signal::Retransmit, Kind::COUNT + 2);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Retransmit,
    help: "segments that TCP sent again, by kind; failed attempts apart",
    metrics: &[],
    counts: &[
        Count::new("retransmits.rto", "segments sent again after a timeout").keyed("kind"),
        Count::new("retransmits.fast", "segments sent again by fast recovery").keyed("kind"),
        Count::new("retransmits.tlp", "tail-loss probes that sent a segment again").keyed("kind"),
        Count::new("retransmits.syn", "SYN segments sent again").telling().keyed("kind"),
        Count::new("retransmits.synack", "SYN-ACK segments sent again").keyed("kind"),
        Count::new(
            "retransmits.other",
            "segments sent again for another reason, or that no program saw",
        )
        .keyed("kind"),
        Count::new("retransmits_failed", "segments whose retransmission failed on this node"),
        Count::new(
            "retransmit_bytes",
            "payload bytes of the segments that programs saw sent again",
        ),
        Count::gauge(
            "timeouts_in_a_row",
            "timeouts before or with the last segment sent again since something new was acknowledged",
        ),
    ],
    cost: Cost::Loss,
    sources: &[TP_BTF, RAW_TP],
    samples: 1,
    flush: None,
    rows: Rows::Flows,
    kinds: &[&RETRANSMIT],
    shed: None,
};

const RETRANSMIT: event::Kind = event::Kind {
    name: "retransmit",
    help: "TCP sent a segment again, or failed to; `other` without a sequence number was told by \
           the socket's counter only",
    fields: &[
        Said::new("retransmit", "rto, fast, tlp, syn, synack or other", Form::Text, Shown::Bare),
        Said::new("segments", "segments in the buffer", Form::Number, Shown::UnlessOne),
        Said::new("bytes", "payload bytes", Form::Number, Shown::Bare),
        Said::new("failed", "it failed on this node", Form::Flag, Shown::Bare),
        Said::new("error", "the errno with which it failed", Form::Text, Shown::Bare),
        Said::new("seq", "sequence number of the first byte", Form::Number, Shown::No),
        Said::new("state", "the connection's TCP state", Form::Text, Shown::No),
        Said::new("srtt_ns", "smoothed round-trip time", Form::Number, Shown::Named),
        Said::new("cwnd", "congestion window in segments", Form::Number, Shown::Named),
    ],
    has_stack: true,
    has_packet: true,
    counted: &[
        Counted::new("retransmits_failed").when("failed", "failed"),
        Counted::by("retransmits.", "retransmit"),
    ],
};

/// Before 6.16 the tracepoint has no argument `err` and tells only of success; the function's return
/// tells of failure. `__tcp_retransmit_skb` has tail-loss probes as well, where the compiler left it
/// whole.
const FAILED_ATTEMPTS: Extra = Extra {
    when: When::TracepointArgumentsBelow("tcp_retransmit_skb", 3),
    alternatives: &[
        Alternative::programs(&[
            Attachment::new("retransmit_fentry", Hook::Fentry("__tcp_retransmit_skb")),
            Attachment::new("retransmit_fexit", Hook::Fexit("__tcp_retransmit_skb")),
        ]),
        Alternative::programs(&[ATTEMPT_BEGINS, ATTEMPT_ENDS, PROBE_BEGINS, PROBE_ENDS]),
        Alternative::programs(&[ATTEMPT_BEGINS, ATTEMPT_ENDS])
            .blind_to(&["tail-loss probes that fail on this node (they count as other)"]),
    ],
    counts: &["retransmits_failed"],
    lost: "retransmissions that fail on this node",
};

const ATTEMPT_BEGINS: Attachment =
    Attachment::new("retransmit_fentry", Hook::Fentry("tcp_retransmit_skb"));
const ATTEMPT_ENDS: Attachment =
    Attachment::new("retransmit_fexit", Hook::Fexit("tcp_retransmit_skb"));
const PROBE_BEGINS: Attachment =
    Attachment::new("retransmit_probe_fentry", Hook::Fentry("tcp_send_loss_probe"));
const PROBE_ENDS: Attachment =
    Attachment::new("retransmit_probe_fexit", Hook::Fexit("tcp_send_loss_probe"));

const FIELDS: &[Field] = &[
    Field::SkbLen,
    Field::SkbCb,
    Field::CbSeq,
    Field::CbGsoSegs,
    Field::CaState,
    Field::Pending,
    Field::Retransmits,
    Field::TcpRequestSntIsn,
];

const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[
        Attachment::aside("retransmit_second_tp_btf", Hook::TpBtf("tcp_retransmit_skb")),
        Attachment::new("retransmit_tp_btf", Hook::TpBtf("tcp_retransmit_skb")),
        Attachment::aside("retransmit_synack_second_tp_btf", Hook::TpBtf("tcp_retransmit_synack")),
        Attachment::new("retransmit_synack_tp_btf", Hook::TpBtf("tcp_retransmit_synack")),
    ],
    extras: &[FAILED_ATTEMPTS],
    fields: FIELDS,
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

const RAW_TP: Source = Source {
    name: "raw_tp",
    attachments: &[
        Attachment::aside("retransmit_second_raw_tp", Hook::RawTp("tcp_retransmit_skb")),
        Attachment::new("retransmit_raw_tp", Hook::RawTp("tcp_retransmit_skb")),
        Attachment::aside("retransmit_synack_second_raw_tp", Hook::RawTp("tcp_retransmit_synack")),
        Attachment::new("retransmit_synack_raw_tp", Hook::RawTp("tcp_retransmit_synack")),
    ],
    extras: &[FAILED_ATTEMPTS],
    fields: FIELDS,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// Why TCP sent a segment again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Retransmission timeout (RFC 6298).
    Rto,
    /// Fast recovery by duplicate ACKs, SACK or RACK (RFC 5681, 6675, 8985).
    Fast,
    /// Tail-loss probe (RFC 8985 section 7).
    Tlp,
    /// A SYN that was not answered.
    Syn,
    /// A SYN-ACK that was not answered, or asked for again.
    Synack,
    /// None of these.
    Other,
}

impl Kind {
    const COUNT: u16 = 6;

    /// Tells the kind from what the socket said at the tracepoint; checked against call stacks on
    /// 5.10 to 7.2. Constants: `enum tcp_ca_state` and `ICSK_TIME_LOSS_PROBE`
    /// (`include/net/inet_connection_sock.h`), `TCP_SYN_SENT` (`include/net/tcp_states.h`).
    #[must_use]
    pub const fn of(origin: u32, state: u32, ca_state: u8, timer: u8) -> Self {
        const SYN_SENT: u32 = 2;
        const CA_RECOVERY: u8 = 3;
        const CA_LOSS: u8 = 4;
        const LOSS_PROBE: u8 = 5;
        if origin == origin::SYNACK {
            return Self::Synack;
        }
        match (state, ca_state, timer) {
            (SYN_SENT, ..) => Self::Syn,
            (_, CA_LOSS, _) => Self::Rto,
            (_, CA_RECOVERY, _) => Self::Fast,
            (_, _, LOSS_PROBE) => Self::Tlp,
            _ => Self::Other,
        }
    }

    /// Its key in `counts.retransmits`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rto => "rto",
            Self::Fast => "fast",
            Self::Tlp => "tlp",
            Self::Syn => "syn",
            Self::Synack => "synack",
            Self::Other => "other",
        }
    }
}

/// One retransmission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The socket; its `flow` is 0 for a SYN-ACK.
    pub socket: SocketRef,
    /// Which kind.
    pub kind: Kind,
    /// Segments sent.
    pub segments: u32,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Payload bytes.
    pub bytes: u32,
    /// Timeouts since something new was acknowledged; newer kernels count this one already.
    pub in_a_row: u8,
    /// It failed on this node.
    pub failed: bool,
    /// The errno with which it failed, where known.
    pub error: Option<i32>,
    /// Process id of the owner where known.
    pub pid: Option<u32>,
    /// The socket's counters where they could be read.
    pub tcp: Option<TcpCounters>,
    /// Where in the kernel.
    pub stack: Stack,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Socket(&self.socket)
    }

    pub(super) fn unseen(&self) -> Option<(Signal, u64)> {
        self.tcp.as_ref().map(unseen)
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        row.seen(self.time_ns, self.pid, self.tcp.as_ref());
        if let Some(tcp) = &self.tcp {
            fold_unseen(tcp, row);
        }
        let segments = u64::from(self.segments);
        if self.failed {
            row.count(FAILED, segments);
        } else {
            row.count(CountId(FIRST_KIND.0 + self.kind as u16), segments);
            row.count(BYTES, u64::from(self.bytes));
        }
        row.state(IN_A_ROW, self.in_a_row.into());
    }

    pub(super) fn tell(&self, _past: &Past, told: &mut impl FnMut(Told)) {
        if let Some(tcp) = &self.tcp {
            tell_unseen(tcp, self.time_ns, told);
        }
        let path = self.tcp.as_ref();
        told(Told {
            kind: &RETRANSMIT,
            time_ns: self.time_ns,
            events: 1,
            values: vec![
                Value::name(self.kind.name()),
                Value::Number(self.segments.into()),
                Value::Number(self.bytes.into()),
                Value::Flag(self.failed),
                self.error.map_or(Value::Unknown, Value::errno),
                Value::Number(self.seq.into()),
                state_name(self.socket.state).map_or(Value::Unknown, Value::name),
                srtt(path),
                cwnd(path),
            ],
            stack: self.stack,
            packet: self.packet(),
        });
    }

    /// The segment, or the buffer of several. Only a tail-loss probe fails without an errno, and of that one
    /// there is but the number of segments.
    fn packet(&self) -> Option<Packet> {
        if self.failed && self.error.is_none() {
            return None;
        }
        let tcp = Segment {
            flags: self.flags(),
            seq: Some(self.seq),
            payload: Some(self.bytes),
        };
        let key = FlowKey { protocol: TCP, ..self.socket.key };
        Some(Packet { way: Some(Way::Out), tcp, ..Packet::of(key)? })
    }

    /// The flags that it must have. Only a SYN or a FIN is sent again without a byte.
    const fn flags(&self) -> Option<u8> {
        const SYN_RECV: u32 = 3;
        match (self.kind, self.bytes) {
            (Kind::Syn, _) => Some(flags::SYN),
            (Kind::Synack, _) => Some(flags::SYN | flags::ACK),
            // Either, where both ends have connected to each other.
            (_, 0) if self.socket.state == SYN_RECV => None,
            (_, 0) => Some(flags::FIN | flags::ACK),
            _ => Some(flags::ACK),
        }
    }
}

/// Both are 0 until the kernel has a sample.
fn srtt(tcp: Option<&TcpCounters>) -> Value {
    let known = tcp.filter(|tcp| tcp.srtt_us != 0);
    Value::number(known.map(|tcp| u64::from(tcp.srtt_us) * 1_000))
}

fn cwnd(tcp: Option<&TcpCounters>) -> Value {
    Value::number(tcp.filter(|tcp| tcp.cwnd != 0).map(|tcp| tcp.cwnd))
}

/// A run at least was missed where a socket's counters are the first to tell of segments.
pub(super) fn unseen(tcp: &TcpCounters) -> (Signal, u64) {
    (Signal::Retransmit, u64::from(tcp.retrans_unseen != 0))
}

/// Adds the segments of which a socket's counters are the first to tell; nothing where there are
/// none, since a count that is there is known.
pub(super) fn fold_unseen(tcp: &TcpCounters, row: &mut impl Fold) {
    if tcp.retrans_unseen != 0 {
        row.count(OTHER, u64::from(tcp.retrans_unseen));
    }
}

/// Tells of the segments of which a socket's counters are the first to tell, so that what is told adds
/// up to what is counted.
pub(super) fn tell_unseen(tcp: &TcpCounters, time_ns: u64, told: &mut impl FnMut(Told)) {
    if tcp.retrans_unseen == 0 {
        return;
    }
    told(Told {
        kind: &RETRANSMIT,
        time_ns,
        events: 1,
        values: vec![
            Value::name(Kind::Other.name()),
            Value::Number(tcp.retrans_unseen.into()),
            Value::Unknown,
            Value::Unknown,
            Value::Unknown,
            Value::Unknown,
            Value::Unknown,
            srtt(Some(tcp)),
            cwnd(Some(tcp)),
        ],
        stack: Stack::None,
        packet: None,
    });
}

/// Decodes one record.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let (record, rest) = Record::read_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if !rest.is_empty() {
        return Err(Malformed::Long);
    }
    if record.header.samples != 1 {
        return Err(Malformed::Value("number of samples"));
    }
    if record.origin > origin::FAILED_PROBE {
        return Err(Malformed::Value("origin of a retransmission"));
    }
    if record.segments == 0 || record.segments > u32::from(u16::MAX) {
        return Err(Malformed::Value("number of segments"));
    }
    emit(Event {
        time_ns: record.header.time_ns,
        socket: record.socket,
        kind: Kind::of(record.origin, record.socket.state, record.ca_state, record.timer),
        segments: record.segments,
        seq: record.seq,
        bytes: record.bytes,
        in_a_row: record.backoff,
        failed: record.error != 0 || record.origin == origin::FAILED_PROBE,
        error: (record.error != 0).then_some(record.error.saturating_neg()),
        pid: (record.pid != 0).then_some(record.pid),
        tcp: (record.has_tcp != 0).then_some(record.tcp),
        stack: Stack::of(record.stack),
    });
    Ok(())
}
