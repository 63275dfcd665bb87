//! `turn`: who waits for whom on a connection.

use netdiag_common::{
    batch::BATCH,
    field::Field,
    flow::FlowId,
    globals::duty,
    signal::{
        Signal,
        turn::{Sample, flag, kind},
    },
};

use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Malformed, Metric,
    MetricId, Rows, Shed, Source, Subject, When, batch, count_id, metric_id,
};
use self::split::Parts;
use crate::event::{Past, Told};

mod split;

const RESPONSE: MetricId = metric_id(Signal::Turn, 0);
const SERVICE: MetricId = metric_id(Signal::Turn, 1);
const READ_WAIT: MetricId = metric_id(Signal::Turn, 2);
const PROCESSING: MetricId = metric_id(Signal::Turn, 3);
const AMBIGUOUS: CountId = count_id(Signal::Turn, 0);
/// Nanoseconds of all that a flow waited for answers.
pub const RESPONSE_NS: CountId = count_id(Signal::Turn, 1);
/// Nanoseconds of all that its peer waited for this end, which had all that was asked.
pub const SERVICE_NS: CountId = count_id(Signal::Turn, 2);
/// Nanoseconds in which what came waited to be read.
pub const READ_WAIT_NS: CountId = count_id(Signal::Turn, 3);

/// Of [`Count`]s `spent_ns`: what this end's application took.
const LOCAL_APPLICATION: CountId = count_id(Signal::Turn, 4);
/// What send calls took.
pub(super) const LOCAL_SEND: CountId = count_id(Signal::Turn, 5);
const PATH: CountId = count_id(Signal::Turn, 6);
const QUEUEING: CountId = count_id(Signal::Turn, 7);
const STALLS: CountId = count_id(Signal::Turn, 8);
const PEER_APPLICATION: CountId = count_id(Signal::Turn, 9);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Turn,
    help: "turns of a conversation: who waits for whom",
    metrics: &[
        Metric::new(
            "response",
            "of a client, last byte of a request sent to first byte of the reply received: the path and \
             the peer's application",
        ),
        Metric::new(
            "service",
            "of a server, first byte of a request received to first byte of the reply sent: this \
             end's application, and what the request took to arrive",
        ),
        Metric::new(
            "read_wait",
            "data queued on the socket to read by the application, once for what one call reads",
        ),
        Metric::new(
            "processing",
            "of a server, a whole request read to first byte of the reply sent: this end's \
             application alone",
        ),
    ],
    counts: &[
        Count::new(
            "turns_ambiguous",
            "turns without a latency: requests and answers overlapped, or who asks is not known",
        ),
        Count::new("response_ns", "nanoseconds that all responses took").not_below(),
        Count::new(
            "service_ns",
            "nanoseconds from a request received and read to the first byte of the reply sent, all of \
             them",
        ).not_below(),
        Count::new("read_wait_ns", "nanoseconds in which data waited that was read then").not_below(),
        Count::new(
            "spent_ns.local_application",
            "nanoseconds in which this end's application had to answer or to read: service_ns and \
             read_wait_ns",
        )
        .without_column()
        .keyed("layer"),
        Count::new(
            "spent_ns.local_send",
            "nanoseconds in send calls: copying, and waiting for room in the send buffer",
        )
        .without_column()
        .keyed("layer")
        .needing(&[Signal::Send]),
        Count::new(
            "spent_ns.network_path",
            "nanoseconds of responses that the path takes at its best (rtt_min)",
        )
        .without_column()
        .keyed("layer")
        .pausing_with(&[Signal::Rtt]),
        Count::new(
            "spent_ns.network_queueing",
            "nanoseconds that it took beyond that, by round trips in the same turn that no delay of the \
             peer is part of",
        )
        .without_column()
        .keyed("layer")
        .needing(&[Signal::Rtt]),
        Count::new(
            "spent_ns.network_stalls",
            "nanoseconds of responses until some of the request was sent again for the last time",
        )
        .without_column()
        .keyed("layer")
        .needing(&[Signal::Retransmit])
        .pausing_with(&[Signal::Rtt]),
        Count::new(
            "spent_ns.peer_application",
            "the rest of responses: the peer's application, and what of the network was not seen",
        )
        .without_column()
        .keyed("layer")
        .pausing_with(&[Signal::Rtt]),
    ],
    cost: Cost::Segment,
    sources: &[FEXIT, TRACEPOINTS, KPROBE],
    samples: BATCH as u32,
    flush: Some("turn_flush"),
    rows: Rows::Flows,
    kinds: &[],
    shed: Some(Shed::at(1)),
};

/// What makes a turn.
const SEQUENCES: &[Field] =
    &[Field::TcpWriteSeq, Field::TcpSndUna, Field::TcpCopiedSeq, Field::TcpRcvNxt, Field::TcpMstamp];

const READ: Attachment = Attachment::new("turn_read_tp_btf", Hook::TpBtf("tcp_rcv_space_adjust"))
    .with_duty(duty::READERS);

/// Both ends of each send call under the socket's lock.
const FEXIT: Source = Source {
    name: "fexit",
    attachments: &[
        Attachment::new("turn_send_fentry", Hook::Fentry("tcp_sendmsg_locked")),
        Attachment::aside("turn_send_fexit", Hook::Fexit("tcp_sendmsg_locked")),
        Attachment::new("turn_ready_fentry", Hook::Fentry("tcp_data_ready")),
        Attachment::aside("turn_ready_second_fentry", Hook::Fentry("tcp_data_ready")),
        READ,
    ],
    extras: &[Extra {
        when: When::FunctionExists("do_tcp_sendpages"),
        alternatives: &[Alternative::programs(&[
            Attachment::new("turn_sendpage_fentry", Hook::Fentry("do_tcp_sendpages")),
            Attachment::aside("turn_sendpage_fexit", Hook::Fexit("do_tcp_sendpages")),
        ])],
        lost: "what sendfile and splice send (do_tcp_sendpages)",
        counts: &[],
    }],
    fields: SEQUENCES,
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// Tracepoints alone, of 6.16 and later.
const TRACEPOINTS: Source = Source {
    name: "tracepoints",
    attachments: &[
        Attachment::new("calls_begin_tp_btf", Hook::TpBtf("tcp_sendmsg_locked"))
            .with_duty(duty::TURN_BEGINS),
        Attachment::aside("calls_end_tp_btf", Hook::TpBtf("sock_send_length"))
            .with_duty(duty::TURN_ENDS),
        Attachment::aside("turn_ready_second_tp_btf", Hook::TpBtf("sk_data_ready")),
        Attachment::new("turn_ready_tp_btf", Hook::TpBtf("sk_data_ready")),
        READ,
    ],
    extras: &[],
    fields: SEQUENCES,
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: true,
    blind: &["data that comes below SO_RCVLOWAT, until there is enough"],
    module: None,
    when_preempted: None,
};

/// kprobes where a call begins and where data arrives.
const KPROBE: Source = Source {
    name: "kprobe",
    attachments: &[
        Attachment::new("turn_send_kprobe", Hook::Kprobe("tcp_sendmsg_locked")),
        Attachment::new("turn_ready_kprobe", Hook::Kprobe("tcp_data_ready")),
        Attachment::new("turn_read_raw_tp", Hook::RawTp("tcp_rcv_space_adjust"))
            .with_duty(duty::READERS),
    ],
    extras: &[
        Extra {
            when: When::Always,
            alternatives: &[Alternative::programs(&[Attachment::aside(
                "turn_sent_tracepoint",
                Hook::Tracepoint("sock", "sock_send_length"),
            )])],
            lost: "ends of send calls: response holds the time that the last one of a request took",
            counts: &[],
        },
        Extra {
            when: When::FunctionExists("do_tcp_sendpages"),
            alternatives: &[],
            lost: "what sendfile and splice send (do_tcp_sendpages)",
            counts: &[],
        },
    ],
    fields: SEQUENCES,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &["data that comes in a softirq which interrupts another program of a kprobe"],
    module: None,
    when_preempted: None,
};

/// What a sample tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The peer answered.
    Response {
        /// From the last byte of the request.
        latency_ns: u64,
        /// From its first one.
        since_first_ns: u64,
        /// From its last one to the last time that some of it was sent again; 0 where none was.
        stalled_ns: u64,
        /// A round trip since its last byte that no delay of the peer's ACK is part of; 0 where there was
        /// none. None where round trips were left out to keep the cost down.
        prompt_ns: Option<u64>,
    },
    /// This end answered.
    Service {
        /// From the first byte of the request.
        latency_ns: u64,
        /// From when this end had it whole and had read.
        since_read_ns: u64,
    },
    /// Data was read.
    ReadWait {
        /// From when it came.
        latency_ns: u64,
        /// From then, or from when data was read before.
        since_read_ns: u64,
    },
    /// A turn of the end that asks may have been several.
    Asked,
    /// Likewise, of the end that answers.
    Served,
    /// Both ends spoke at once.
    Overlap,
}

/// A turn that ended, or data that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket.
    pub flow: FlowId,
    /// What it tells.
    pub what: What,
    /// What the samples of the same kind add up to that were left out before it: nanoseconds of those
    /// that have some (`since_read_ns` where there is one), else how many.
    pub left_out: u64,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Flow(self.flow)
    }

    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    /// Who asks is known here for connections that are older than the programs, too.
    pub(super) fn fold(&self, row: &mut impl Fold) {
        let asks = row.asks();
        match self.what {
            What::ReadWait { latency_ns, since_read_ns } => {
                row.latency(READ_WAIT, latency_ns);
                row.count(READ_WAIT_NS, since_read_ns + self.left_out);
                row.count(LOCAL_APPLICATION, since_read_ns + self.left_out);
            }
            What::Response { latency_ns, stalled_ns, prompt_ns, .. } if asks == Some(true) => {
                row.latency(RESPONSE, latency_ns);
                let all_ns = latency_ns + self.left_out;
                row.count(RESPONSE_NS, all_ns);
                // Without it what the network takes would be the peer's.
                if let Some((rtt_min_ns, prompt_ns)) = row.rtt_min_ns().zip(prompt_ns) {
                    let parts = Parts::of(latency_ns, rtt_min_ns, stalled_ns, prompt_ns);
                    parts.scaled(latency_ns, all_ns).count(row);
                }
            }
            What::Service { latency_ns, since_read_ns } if asks == Some(false) => {
                row.latency(SERVICE, latency_ns);
                row.latency(PROCESSING, since_read_ns);
                row.count(SERVICE_NS, since_read_ns + self.left_out);
                row.count(LOCAL_APPLICATION, since_read_ns + self.left_out);
            }
            // What the other end takes to go on is not this one's.
            What::Response { .. } | What::Asked if asks == Some(false) => {}
            What::Service { .. } | What::Served if asks == Some(true) => {}
            What::Response { .. } | What::Service { .. } => row.count(AMBIGUOUS, 1),
            What::Asked | What::Served | What::Overlap => row.count(AMBIGUOUS, 1 + self.left_out),
        }
    }

    /// There are too many to tell of each.
    #[expect(clippy::unused_self, reason = "every signal's event answers it")]
    pub(super) const fn tell(&self, _past: &Past, _told: &mut impl FnMut(Told)) {}
}

/// Decodes a batch.
pub(super) fn decode(bytes: &[u8], emit: &mut impl FnMut(Event)) -> Result<(), Malformed> {
    let samples = batch::<Sample>(bytes)?.1;
    if samples.iter().any(|sample| sample.kind as usize >= kind::COUNT) {
        return Err(Malformed::Value("kind"));
    }
    for &Sample { flow, latency_ns, other_ns, left_out, kind, stalled_us, prompt_us, flags } in samples {
        let [stalled_ns, prompt_ns] = [stalled_us, prompt_us].map(|us| u64::from(us) * 1_000);
        let prompt_ns = Some(prompt_ns).filter(|_| flags & flag::NO_TRIPS == 0);
        let what = match kind {
            kind::RESPONSE => What::Response { latency_ns, since_first_ns: other_ns, stalled_ns, prompt_ns },
            kind::SERVICE => What::Service { latency_ns, since_read_ns: other_ns },
            kind::READ_WAIT => What::ReadWait { latency_ns, since_read_ns: other_ns },
            kind::ASKED => What::Asked,
            kind::SERVED => What::Served,
            _ => What::Overlap,
        };
        emit(Event { flow, what, left_out });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
