//! `socket`: which sockets there are, whose they are, and what the kernel counts for them.

use std::{num::NonZeroU64, sync::Arc};

use netdiag_common::{
    field::Field,
    flow::{SocketRef, TcpCounters, TcpDetail},
    globals::duty,
    signal::{
        Signal,
        socket::{Record, what},
    },
};
use zerocopy::FromBytes;

mod kernel;

use self::kernel::{CONNECTS_FAILED, COUNTS};
pub use self::kernel::{GAUGES, LIFETIME, READINGS, gauge_id, reading_id};
use super::{
    Alternative, Attachment, Cost, Count, CountId, Definition, Extra, Fold, Hook, Label, Malformed,
    Metric, MetricId, Rows, Source, Subject, When, count_id, metric_id, retransmit,
};
use crate::{
    event::{Field as Said, Form, GIVEN_UP, Kind, Past, Shown, Stack, Told, Value},
    owner::Place,
};

/// Metric of connections that were established: since `connect` was called.
pub const CONNECT_LATENCY: MetricId = metric_id(Signal::Socket, 0);
/// Metric of connections that accept returned: since their handshake was done.
const ACCEPT_WAIT: MetricId = metric_id(Signal::Socket, 1);

/// Count of [`TcpCounters::bytes_sent`].
pub const BYTES_SENT: CountId = reading_id(0);
/// Count of [`TcpCounters::segs_out`].
pub const SEGMENTS_SENT: CountId = reading_id(2);

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Socket,
    help: "sockets as they open, connect, change hands and are destroyed",
    metrics: &[
        Metric::new(
            "connect",
            "connect called to connection established: the handshake; whole seconds are lost SYNs",
        ),
        Metric::new(
            "accept_wait",
            "handshake done to accept returned: this end's application accepts late",
        ),
    ],
    counts: &COUNTS,
    cost: Cost::Connection,
    sources: &[TP_BTF, RAW_TP, KPROBE, TRACEPOINT],
    samples: 1,
    flush: None,
    rows: Rows::Flows,
    kinds: &[&CONNECT, &CLOSE],
    shed: None,
};

const CONNECT: Kind = Kind {
    name: "connect",
    help: "a connection that this end asked for is established, or failed",
    fields: &[
        Said::new(
            "latency_ns",
            "connect called to established or failed",
            Form::Number,
            Shown::Bare,
        ),
        Said::new(
            "error",
            "the errno with which it failed, `closed` where the process gave up",
            Form::Text,
            Shown::Bare,
        ),
    ],
    has_stack: false,
    has_packet: false,
    counted: &[],
};

const CLOSE: Kind = Kind {
    name: "close",
    help: "a TCP socket is gone",
    fields: &[
        Said::new("lifetime_ns", "since it connected or was accepted", Form::Number, Shown::Bare),
        Said::new("counts", "what the flow counted in the run", Form::Counts, Shown::Bare),
    ],
    has_stack: false,
    has_packet: false,
    counted: &[],
};

/// What the programs of every signal read of a socket beside its identity.
const COUNTERS: &[Field] = &[
    Field::SkDrops,
    Field::TcpBytesSent,
    Field::TcpBytesReceived,
    Field::TcpBytesAcked,
    Field::TcpBytesRetrans,
    Field::TcpSegsOut,
    Field::TcpSegsIn,
    Field::TcpTotalRetrans,
    Field::TcpSrtt,
    Field::TcpCwnd,
];

const TP_BTF: Source = Source {
    name: "tp_btf",
    attachments: &[
        Attachment::new("socket_state_tp_btf", Hook::TpBtf("inet_sock_set_state")),
        Attachment::new("socket_destroy_tp_btf", Hook::TpBtf("tcp_destroy_sock")),
    ],
    extras: &[ACCEPT],
    fields: COUNTERS,
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
        Attachment::new("socket_state_raw_tp", Hook::RawTp("inet_sock_set_state")),
        Attachment::new("socket_destroy_raw_tp", Hook::RawTp("tcp_destroy_sock")),
    ],
    extras: &[ACCEPT],
    fields: COUNTERS,
    places: &[],
    typed: false,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// The way that is chosen last among those below, by itself.
const KPROBE: Source = Source {
    name: "kprobe",
    attachments: &[
        Attachment::new("socket_state_tp_btf", Hook::TpBtf("inet_sock_set_state")),
        Attachment::new("socket_destroy_tp_btf", Hook::TpBtf("tcp_destroy_sock")),
        ACCEPT_KPROBE,
    ],
    extras: &[RECEIVE],
    reads_memory: true,
    ..TP_BTF
};

/// Likewise.
const TRACEPOINT: Source = Source {
    name: "tracepoint",
    attachments: &[
        Attachment::new("socket_state_tp_btf", Hook::TpBtf("inet_sock_set_state")),
        Attachment::new("socket_destroy_tp_btf", Hook::TpBtf("tcp_destroy_sock")),
        ACCEPT_EXIT,
        ACCEPT4_EXIT,
    ],
    extras: &[RECEIVE],
    fields: &COUNTERS_AND_DESCRIPTOR,
    reads_memory: true,
    blind: &[NOT_BY_CALL],
    ..TP_BTF
};

const ACCEPT_KPROBE: Attachment =
    Attachment::new("socket_accept_kprobe", Hook::Kprobe("security_sock_graft"));
const ACCEPT_EXIT: Attachment =
    Attachment::new("socket_accept_tp", Hook::Tracepoint("syscalls", "sys_exit_accept"))
        .costing(Cost::SystemCall);
const ACCEPT4_EXIT: Attachment =
    Attachment::new("socket_accept_tp", Hook::Tracepoint("syscalls", "sys_exit_accept4"))
        .costing(Cost::SystemCall);
const FIRST_RECEIVE: Attachment =
    Attachment::new("socket_recv_tp_btf", Hook::TpBtf("sock_recv_length")).costing(Cost::Call);
/// Beside programs that see accept: after that it is enough to know who reads data.
const RECEIVE_LATER: Attachment = FIRST_RECEIVE.relieved_by(duty::READERS);

const NOT_BY_CALL: &str = "accept_wait of connections accepted by io_uring or a 32-bit program";

/// From a file descriptor to its socket.
const DESCRIPTOR: &[Field] = &[
    Field::TpExitRet,
    Field::TaskFiles,
    Field::FilesTable,
    Field::TableSize,
    Field::TableFiles,
    Field::FileInode,
    Field::FilePrivate,
    Field::InodeMode,
    Field::SocketSk,
];

const COUNTERS_AND_DESCRIPTOR: [Field; COUNTERS.len() + DESCRIPTOR.len()] = {
    let mut all = [Field::TpExitRet; COUNTERS.len() + DESCRIPTOR.len()];
    let (counters, descriptor) = all.split_at_mut(COUNTERS.len());
    counters.copy_from_slice(COUNTERS);
    descriptor.copy_from_slice(DESCRIPTOR);
    all
};

/// Who accepted a connection, and how long that waited: the task that accept(2) hands it to, else the
/// first that receives on it.
const ACCEPT: Extra = Extra {
    when: When::Always,
    alternatives: &[
        Alternative::programs(&[Attachment::new(
            "socket_accept_fentry",
            Hook::Fentry("security_sock_graft"),
        )]),
        Alternative::programs(&[Attachment::new(
            "socket_accept_fexit",
            Hook::FexitWith("inet_csk_accept", 2),
        )]),
        Alternative::programs(&[Attachment::new(
            "socket_accept_fexit_4",
            Hook::FexitWith("inet_csk_accept", 4),
        )]),
        Alternative::programs(&[ACCEPT_KPROBE, RECEIVE_LATER]),
        Alternative::programs(&[ACCEPT_KPROBE]),
        Alternative::programs(&[ACCEPT_EXIT, ACCEPT4_EXIT, RECEIVE_LATER])
            .reading(DESCRIPTOR)
            .blind_to(&[NOT_BY_CALL]),
        Alternative::programs(&[ACCEPT_EXIT, ACCEPT4_EXIT])
            .reading(DESCRIPTOR)
            .blind_to(&[NOT_BY_CALL]),
        Alternative::programs(&[FIRST_RECEIVE]).blind_to(&[
            "accept_wait",
            "owner of an accepted socket before it first receives or sends",
        ]),
    ],
    lost: "accept_wait, and the owner of an accepted socket before it first sends",
    counts: &[],
};

/// Who a connection belongs to, for programs that do not reach what is remembered of it.
const RECEIVE: Extra = Extra {
    when: When::TracepointExists("sock_recv_length"),
    alternatives: &[Alternative::programs(&[RECEIVE_LATER])],
    lost: "under filters by owner, what an accepted socket did before it first sent",
    counts: &[],
};

/// Why an event was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// First sight of the socket: it may be much older.
    Seen,
    /// `connect` was called: the socket is new and this end is the client.
    Connect,
    /// Handshake done on a child of a listener: new, and this end is the server.
    Accept,
    /// accept returned it; its handshake may have been done long before.
    Taken,
    /// Another process uses the socket than before.
    Owner,
    /// The counters moved on.
    Counters,
    /// The socket is destroyed.
    Close,
    /// The handshake of a socket that connects is done.
    Established,
    /// The same, and first sight of it.
    Connected,
    /// A socket that connects gives up, with an errno unless the process wanted it so.
    Failed(Option<i32>),
}

/// Name of a TCP state (`include/net/tcp_states.h`).
pub(super) fn state_name(state: u32) -> Option<&'static str> {
    const NAMES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    NAMES.get(usize::try_from(state).ok()?.checked_sub(1)?).copied()
}

/// What is known of a socket at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Why it was sent.
    pub what: What,
    /// The socket.
    pub socket: SocketRef,
    /// Process id of the owner where known.
    pub pid: Option<u32>,
    /// Thread that `comm` names.
    pub tid: Option<u32>,
    /// Name of that thread.
    pub comm: Option<String>,
    /// Id of its cgroup: the inode number of the directory.
    pub cgroup: Option<NonZeroU64>,
    /// Where the owner lives; filled in by who reads the rings.
    pub place: Option<Arc<Place>>,
    /// The kernel's counters of the socket, where they could be read.
    pub tcp: Option<TcpCounters>,
    /// What else it tells of the socket, likewise; apart, since events of bulk samples are as large.
    pub detail: Option<Box<TcpDetail>>,
    /// How long the connection waited, where accept returned it now.
    pub accept_wait_ns: Option<NonZeroU64>,
}

impl Event {
    /// Whether connect has just been called: a record of that may also come later, for want of room in
    /// the ring, and has another state then.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        const CLOSE: u32 = 7;
        self.what == What::Connect && self.socket.state == CLOSE
    }

    /// Whether connect was given no local port: there is no conversation then, but it is known whose it was to be.
    #[must_use]
    pub fn found_no_port(&self) -> bool {
        let SocketRef { key, .. } = &self.socket;
        let failed = self.what == What::Failed(Some(libc::EADDRNOTAVAIL));
        failed && key.local_port == 0 && key.peer_port != 0
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Socket(&self.socket)
    }

    pub(super) fn unseen(&self) -> Option<(Signal, u64)> {
        self.tcp.as_ref().map(retransmit::unseen)
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        row.socket(self);
        if let What::Failed(error) = self.what {
            row.labelled(CONNECTS_FAILED, error.map_or(Label::GivenUp, Label::Errno), 1);
        }
        if let Some(nanoseconds) = self.accept_wait_ns {
            row.latency(ACCEPT_WAIT, nanoseconds.get());
        }
        if let Some(tcp) = &self.tcp {
            retransmit::fold_unseen(tcp, row);
        }
    }

    pub(super) fn tell(&self, past: &Past, told: &mut impl FnMut(Told)) {
        if let Some(tcp) = &self.tcp {
            retransmit::tell_unseen(tcp, self.time_ns, told);
        }
        let since = |began: Option<u64>| {
            Value::number(began.and_then(|began| self.time_ns.checked_sub(began)))
        };
        let (kind, values) = match self.what {
            What::Established => (&CONNECT, vec![since(past.connecting_ns), Value::Unknown]),
            What::Connected => (&CONNECT, vec![Value::Unknown, Value::Unknown]),
            What::Failed(error) => {
                let error = error.map_or(Value::name(GIVEN_UP), Value::errno);
                (&CONNECT, vec![since(past.connecting_ns), error])
            }
            What::Close => (&CLOSE, vec![since(past.opened_ns), Value::Counts]),
            What::Seen
            | What::Connect
            | What::Accept
            | What::Taken
            | What::Owner
            | What::Counters => return,
        };
        told(Told {
            kind,
            time_ns: self.time_ns,
            events: 1,
            values,
            stack: Stack::None,
            packet: None,
        });
    }
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
    let what = match record.what {
        what::SEEN => What::Seen,
        what::CONNECT => What::Connect,
        what::ACCEPT => What::Accept,
        what::TAKEN => What::Taken,
        what::OWNER => What::Owner,
        what::COUNTERS => What::Counters,
        what::CLOSE => What::Close,
        what::ESTABLISHED => What::Established,
        what::CONNECTED => What::Connected,
        what::FAILED => What::Failed(match record.error {
            // It never got a port: `inet_hash_connect` found none that is free, and left the telling
            // to connect(2) (`tcp_v4_connect`, net/ipv4/tcp_ipv4.c).
            0 if record.socket.key.local_port == 0 => Some(libc::EADDRNOTAVAIL),
            0 => None,
            error => Some(error),
        }),
        _ => return Err(Malformed::Value("reason of a socket record")),
    };
    let comm = record.comm.split(|&byte| byte == 0).next().unwrap_or_default();
    emit(Event {
        time_ns: record.header.time_ns,
        what,
        socket: record.socket,
        pid: (record.pid != 0).then_some(record.pid),
        tid: (record.tid != 0).then_some(record.tid),
        comm: (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned()),
        cgroup: NonZeroU64::new(record.cgroup),
        place: None,
        tcp: (record.has_tcp != 0).then_some(record.tcp),
        detail: (record.has_tcp != 0).then(|| Box::new(record.detail)),
        accept_wait_ns: NonZeroU64::new(record.accept_wait_ns),
    });
    Ok(())
}
