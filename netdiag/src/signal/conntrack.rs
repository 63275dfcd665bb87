//! `conntrack`: entries of the connection tracking table as they come and go, and those that could not.

use std::sync::Arc;

use netdiag_common::{
    field::Field,
    flow::FlowKey,
    signal::{
        Signal,
        conntrack::{Record, SAMPLES, has_ports, what},
    },
};
use zerocopy::FromBytes;

pub use netdiag_common::signal::conntrack::Tuple;

use super::{
    Alternative, Attachment, By, Cost, Count, CountId, Definition, Extra, Fold, Hook, Malformed, Rows,
    Source, Subject, When, count_id,
};
use crate::{
    event::{Field as Said, Form, Kind, Past, Shown, Stack, Told, Value},
    owner::Place,
};

/// Entries made.
pub const NEW: CountId = count_id(Signal::Conntrack, what::NEW as u16);
/// Entries put into the table: their age begins.
pub const CONFIRMED: CountId = count_id(Signal::Conntrack, what::CONFIRMED as u16);
/// Entries that could not be made.
pub const TABLE_FULL: CountId = count_id(Signal::Conntrack, what::TABLE_FULL as u16);
/// Entries freed: their age ends.
pub const DESTROYED: CountId = count_id(Signal::Conntrack, what::DESTROYED as u16);

/// Where netfilter drops what one of its hooks says is to be dropped.
pub const NETFILTER_HOOKS: &str = "nf_hook_slow";

/// What the rest of netdiag knows of it.
pub const DEFINITION: Definition = Definition {
    signal: Signal::Conntrack,
    help: "entries of the connection tracking table, and those that could not be made",
    metrics: &[],
    // In the order of `netdiag_common::signal::conntrack::what`.
    counts: &[
        Count::new("new", "entries made for the first packet of a conversation"),
        Count::new("confirmed", "entries put into the table, as that packet left"),
        Count::new("insert_failed", "entries that could not be, their packets dropped"),
        Count::new("clash", "entries reconciled with another one for the same conversation"),
        Count::new("table_full", "entries not made for want of room, their packets dropped"),
        Count::new("early_drop", "entries without reply evicted to make room"),
        Count::new("destroyed", "entries freed that were in the table"),
    ],
    cost: Cost::Connection,
    sources: &[KPROBE, PACKETS, CTNETLINK],
    samples: SAMPLES,
    flush: Some("conntrack_flush"),
    rows: Rows::Entries,
    kinds: &[&CONNTRACK],
    shed: None,
};

const CONNTRACK: Kind = Kind {
    name: "conntrack",
    help: "something happened to an entry of the connection tracking table, or to many in a flood",
    fields: &[
        Said::new(
            "what",
            "new, confirmed, insert_failed, clash, table_full, early_drop or destroyed",
            Form::Text,
            Shown::Bare,
        ),
        Said::new("times", "how often, where it stands for many", Form::Number, Shown::UnlessOne),
        Said::new(
            "lifetime_ns",
            "how long an entry that is destroyed had been in the table",
            Form::Number,
            Shown::Named,
        ),
        Said::new("creator", "the process whose packet made the entry", Form::Owner, Shown::Named),
        Said::new("netns", "namespace of the table, by inode", Form::Number, Shown::No),
        Said::new("zone", "conntrack zone", Form::Number, Shown::No),
        Said::new("protocol", "as in an entry of the snapshot", Form::Text, Shown::No),
        Said::new("original", "the conversation as it began", Form::Tuple, Shown::No),
        Said::new("reply", "as its answers come back", Form::Tuple, Shown::No),
    ],
    has_stack: false,
    has_packet: false,
    counted: &[],
};

const KPROBE: Source = Source {
    name: "kprobe",
    attachments: &[
        Attachment::new("conntrack_alloc_kprobe", Hook::Kprobe("__nf_conntrack_alloc")),
        Attachment::aside("conntrack_alloc_kretprobe", Hook::Kretprobe("__nf_conntrack_alloc")),
        Attachment::new("conntrack_confirm_kprobe", Hook::Kprobe("__nf_conntrack_confirm")),
        Attachment::aside("conntrack_confirm_kretprobe", Hook::Kretprobe("__nf_conntrack_confirm")),
        Attachment::new("conntrack_early_drop_kprobe", Hook::Kprobe("early_drop")),
        Attachment::aside("conntrack_early_drop_kretprobe", Hook::Kretprobe("early_drop")),
        Attachment::new("conntrack_free_kprobe", Hook::Kprobe("nf_conntrack_free")),
    ],
    extras: &[],
    fields: &[
        Field::SkbNfct,
        Field::CtTuples,
        Field::CtTuple,
        Field::CtStatus,
        Field::CtNet,
        Field::TupleSource,
        Field::TupleSourcePort,
        Field::TupleFamily,
        Field::TupleDestination,
        Field::TupleDestinationPort,
        Field::TupleProtocol,
        Field::RegsSp,
        Field::TaskStack,
        Field::TaskFlags,
        Field::TaskLeader,
        Field::TaskComm,
    ],
    // It needs nothing of what is remembered of a socket.
    places: &[],
    typed: true,
    reads_memory: true,
    skips_when_preempted: false,
    blind: &[],
    module: Some("nf_conntrack"),
    when_preempted: None,
};

/// Without kprobes: what the packets tell that netfilter drops.
const PACKETS: Source = Source {
    name: "packets",
    attachments: &[Attachment::new("conntrack_packets_raw_tp", Hook::RawTpWith("kfree_skb", 3))],
    extras: &[TOLD, UNSEEN],
    fields: &[
        Field::SkbSk,
        Field::SkbDev,
        Field::SkbHead,
        Field::SkbNetworkHeader,
        Field::SkbNfct,
        Field::DevNet,
        Field::CtTuples,
        Field::CtTuple,
        Field::CtStatus,
        Field::CtNet,
        Field::TupleSource,
        Field::TupleSourcePort,
        Field::TupleFamily,
        Field::TupleDestination,
        Field::TupleDestinationPort,
        Field::TupleProtocol,
        Field::Retransmits,
        Field::TaskFlags,
        Field::TaskLeader,
        Field::TaskComm,
    ],
    places: &[NETFILTER_HOOKS],
    typed: true,
    reads_memory: true,
    skips_when_preempted: true,
    blind: &[
        "what dropped a packet: one without an entry counts as table_full, one with a new entry as \
         insert_failed, also where a rule of iptables-legacy did it (node.conntrack has the kernel's \
         own count)",
    ],
    module: None,
    when_preempted: None,
};

/// Where no program can tell: the kernel's own word alone.
const CTNETLINK: Source = Source {
    name: "ctnetlink",
    attachments: &[],
    extras: &[TOLD, FAILURES, UNSEEN],
    fields: &[],
    places: &[],
    typed: true,
    reads_memory: false,
    skips_when_preempted: false,
    blind: &[],
    module: None,
    when_preempted: None,
};

/// What ctnetlink does not tell.
const FAILURES: Extra = Extra {
    when: When::Always,
    alternatives: &[],
    lost: "packets that were dropped for want of room or could not be put into the table \
           (node.conntrack counts those)",
    counts: &["insert_failed", "table_full"],
};

/// What no packet tells, and the kernel does as it is.
const TOLD: Extra = Extra {
    when: When::Always,
    alternatives: &[Alternative {
        by: By::Ctnetlink,
        fields: &[],
        blind: &[
            "the end of entries that were made before netdiag began to listen, or that go with their \
             namespace, and the first second of a new namespace",
        ],
    }],
    lost: "entries that are put into the table or destroyed",
    counts: &["confirmed", "destroyed"],
};

/// What nobody tells.
const UNSEEN: Extra = Extra {
    when: When::Always,
    alternatives: &[],
    lost: "entries that never come into the table, are reconciled or evicted (node.conntrack counts \
           those)",
    counts: &["new", "clash", "early_drop"],
};

/// An entry of the table, as far as an event tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Inode number of the network namespace, 0 when unknown.
    pub netns: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// `IPPROTO_TCP` and so on; 0 when unknown.
    pub protocol: u16,
    /// The conversation as it began. Without the source it stands for all to that destination, without
    /// both for all.
    pub original: Tuple,
}

impl Entry {
    /// The end that a tuple's packets come from.
    #[must_use]
    pub const fn key(&self, tuple: &Tuple) -> FlowKey {
        FlowKey {
            local_addr: tuple.source,
            peer_addr: tuple.destination,
            local_port: tuple.source_port,
            peer_port: tuple.destination_port,
            netns: self.netns,
            protocol: self.protocol,
            reserved: 0,
        }
    }

    /// Whether it is one, and not many that are summed up.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.original.source != [0; 16]
    }

    /// Whether its tuple is that of no other at the same time: numbers of protocols without ports are not
    /// known.
    #[must_use]
    pub fn is_known_apart(&self) -> bool {
        self.is_one() && has_ports(self.protocol)
    }

    /// What it is where all to its destination are summed up.
    #[must_use]
    pub const fn summed_up(&self) -> Self {
        let original = Tuple { source: [0; 16], source_port: 0, ..self.original };
        Self { original, ..*self }
    }
}

/// The process whose packet made an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Process id (tgid).
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Where it lives; filled in by who reads the rings.
    pub place: Option<Arc<Place>>,
}

/// What happened to an entry, so many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it last happened, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Which entry.
    pub entry: Entry,
    /// The conversation as its answers come back; none where it is one of many.
    pub reply: Option<Tuple>,
    /// Who made it, where that is known.
    pub creator: Option<Creator>,
    /// What happened: the count that it adds to.
    pub what: CountId,
    /// How often.
    pub times: u32,
}

impl Event {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::Entry(&self.entry)
    }

    pub(super) fn unseen(&self) -> Option<(Signal, u64)> {
        None
    }

    pub(super) fn fold(&self, row: &mut impl Fold) {
        row.count(self.what, u64::from(self.times));
        row.entry(self);
    }

    pub(super) fn tell(&self, past: &Past, told: &mut impl FnMut(Told)) {
        let first = DEFINITION
            .counts
            .iter()
            .zip(0..)
            .find(|&(_, nth)| count_id(Signal::Conntrack, nth) == self.what);
        let by = |by: &Creator| Value::Owner {
            pid: by.pid,
            comm: by.comm.clone(),
            place: by.place.clone(),
        };
        let lifetime_ns = past.lived_ns.filter(|_| self.what == DESTROYED && self.times == 1);
        told(Told {
            kind: &CONNTRACK,
            time_ns: self.time_ns,
            events: u64::from(self.times),
            values: vec![
                first.map_or(Value::Unknown, |(count, _)| Value::name(count.name)),
                Value::Number(u64::from(self.times)),
                Value::number(lifetime_ns),
                self.creator.as_ref().map_or(Value::Unknown, by),
                Value::number((self.entry.netns != 0).then_some(self.entry.netns)),
                Value::Number(u64::from(self.entry.zone)),
                Value::Protocol(self.entry.protocol),
                Value::Tuple(self.entry.original),
                self.reply.map_or(Value::Unknown, Value::Tuple),
            ],
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
    if record.header.samples == 0 || record.header.samples > SAMPLES {
        return Err(Malformed::Value("number of events"));
    }
    if record.what >= what::COUNT {
        return Err(Malformed::Value("conntrack event"));
    }
    let comm = record.comm.split(|&byte| byte == 0).next().unwrap_or_default();
    let comm = String::from_utf8_lossy(comm).into_owned();
    emit(Event {
        time_ns: record.header.time_ns,
        entry: Entry {
            netns: record.netns,
            zone: record.zone,
            protocol: record.protocol,
            original: record.original,
        },
        reply: (record.reply != Tuple::default()).then_some(record.reply),
        creator: (record.pid != 0).then_some(Creator { pid: record.pid, comm, place: None }),
        what: count_id(Signal::Conntrack, record.what as u16),
        times: record.header.samples,
    });
    Ok(())
}

const _: () = assert!(DEFINITION.counts.len() == what::COUNT as usize);
