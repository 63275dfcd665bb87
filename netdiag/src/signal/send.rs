//! `send`: how long tcp_sendmsg calls take.

use netdiag_common::{
    batch::BATCH,
    field::Field,
    flow::FlowId,
    globals::duty,
    signal::{Signal, send::Sample},
};

use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Malformed, Metric,
    MetricId, Rows, Shed, Source, Subject, When, batch, count_id, metric_id, turn,
};
use crate::event::{Past, Told};

const SEND: MetricId = metric_id(Signal::Send, 0);
const SENDS: CountId = count_id(Signal::Send, 0);
const BYTES: CountId = count_id(Signal::Send, 1);
const FAILED: CountId = count_id(Signal::Send, 2);
/// Nanoseconds that send calls took.
pub const SEND_NS: CountId = count_id(Signal::Send, 3);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Send,
    help: "time of tcp_sendmsg calls: copy and wait for send buffer, not network latency",
    metrics: &[Metric::new(
        "send",
        "tcp_sendmsg entered to returned: copy and wait for send buffer, not the network",
    )
    .with_columns()],
    counts: &[
        Count::new("sends", "send calls"),
        Count::new("send_bytes", "bytes that send calls handed to the kernel"),
        Count::new("sends_failed", "send calls that returned an error"),
        Count::new("send_ns", "nanoseconds that all send calls took").not_below(),
    ],
    cost: Cost::Call,
    sources: &[FEXIT, TRACEPOINTS, KPROBE],
    samples: BATCH as u32,
    flush: Some("send_flush"),
    rows: Rows::Flows,
    kinds: &[],
    shed: Some(Shed::at(2).hiding(
        "that a socket goes to another process: its owner is the one before, until a send counts again",
    )),
};

/// Trampolines at entry and return; cheapest, and sees every call.
const FEXIT: Source = Source {
    name: "fexit",
    attachments: &[
        Attachment::new("send_fentry", Hook::Fentry("tcp_sendmsg")),
        Attachment::end("send_fexit", Hook::Fexit("tcp_sendmsg")),
    ],
    extras: &[Extra {
        when: When::FunctionExists("tcp_sendpage"),
        alternatives: &[Alternative::programs(&[
            Attachment::new("sendpage_fentry", Hook::Fentry("tcp_sendpage")),
            Attachment::end("sendpage_fexit", Hook::Fexit("tcp_sendpage")),
        ])],
        lost: "sendfile and splice (tcp_sendpage)",
        counts: &[],
    }],
    fields: &[],
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

const CALLS_BEGIN: Attachment =
    Attachment::new("calls_begin_tp_btf", Hook::TpBtf("tcp_sendmsg_locked"))
        .with_duty(duty::SEND_BEGINS);

/// The pair of tracepoints of 6.16 and later. The next call is taken for a further turn of one whose
/// end was skipped, and the two make one sample: such an end is a missed sample as well.
const TRACEPOINTS: Source = Source {
    name: "tracepoints",
    attachments: &[
        CALLS_BEGIN,
        Attachment::new("calls_end_tp_btf", Hook::TpBtf("sock_send_length"))
            .with_duty(duty::SEND_ENDS),
    ],
    extras: &[],
    fields: &[Field::SkProtocol],
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: TRACEPOINTS_BLIND,
    module: None,
    when_preempted: Some(&TRACEPOINTS_PREEMPTED),
};

const TRACEPOINTS_BLIND: &[&str] = &[
    "time before the first copy (waiting for the socket lock)",
    "calls that fail before the first copy or carry no byte (counted as unmatched)",
];

/// The same with the classic tracepoint at the end, which is not skipped. A typed end that is
/// skipped leaves its beginning behind, and as the hook at the beginning fires at each turn of the
/// loop, the next call could not be told from the next turn: it would seem to begin with the last.
const TRACEPOINTS_PREEMPTED: Source = Source {
    name: "tracepoints",
    attachments: &[
        CALLS_BEGIN,
        Attachment::new("send_locked_end_tracepoint", Hook::Tracepoint("sock", "sock_send_length")),
    ],
    extras: &[],
    fields: CLASSIC_END,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[
        TRACEPOINTS_BLIND[0],
        TRACEPOINTS_BLIND[1],
        "time before a later copy where the kernel skipped the first run (counted as missed)",
    ],
    module: None,
    when_preempted: None,
};

/// What the classic tracepoint `sock_send_length` must have.
const CLASSIC_END: &[Field] =
    &[Field::TpSendSk, Field::TpSendFamily, Field::TpSendProtocol, Field::TpSendRet];

/// kprobe at entry, classic tracepoint at the return of the socket layer: loses nothing on
/// preemptible kernels.
const KPROBE: Source = Source {
    name: "kprobe",
    attachments: &[
        Attachment::new("send_kprobe", Hook::Kprobe("tcp_sendmsg")),
        Attachment::end("send_end_tracepoint", Hook::Tracepoint("sock", "sock_send_length")),
    ],
    extras: &[Extra {
        when: When::FunctionExists("tcp_sendpage"),
        alternatives: &[],
        lost: "sendfile and splice (tcp_sendpage)",
        counts: &[],
    }],
    fields: CLASSIC_END,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: false,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// One send call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket it was made on.
    pub flow: FlowId,
    /// Entry to return, in nanoseconds.
    pub latency_ns: u64,
    /// Bytes taken, or a negative errno.
    pub result: i64,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Flow(self.flow)
    }

    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        row.latency(SEND, self.latency_ns);
        row.count(turn::LOCAL_SEND, self.latency_ns);
        row.count(SENDS, 1);
        row.count(SEND_NS, self.latency_ns);
        match u64::try_from(self.result) {
            Ok(bytes) => row.count(BYTES, bytes),
            Err(_) => row.count(FAILED, 1),
        }
    }

    /// There are too many to tell of each.
    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn tell(&self, _past: &Past, _told: &mut impl FnMut(Told)) {}
}

/// Decodes a batch.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    for sample in batch::<Sample>(bytes)?.1 {
        emit(Event { flow: sample.flow, latency_ns: sample.latency_ns, result: sample.result });
    }
    Ok(())
}
