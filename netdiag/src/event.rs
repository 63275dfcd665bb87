//! What is told of single events: their kinds, the fields of each, and what one event says in them.
//!
//! A signal defines its kinds in its own file. Flags, views, documents and the schema learn them from
//! there.

use std::{borrow::Cow, sync::Arc};

use netdiag_common::{flow::FlowKey, signal::conntrack::Tuple};

use crate::owner::Place;

mod counted;

pub use counted::Counted;

/// A kind of event that is told of one by one.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name in `--kind` and outputs.
    pub name: &'static str,
    /// What happened, one line.
    pub help: &'static str,
    /// What is said of it, in the order of the text; [`Told::values`] has as many.
    pub fields: &'static [Field],
    /// Whether programs can tell the kernel's stack.
    pub has_stack: bool,
    /// Whether it is of a packet, see [`Told::packet`].
    pub has_packet: bool,
    /// As what an event with a packet counts in snapshots: the first of these that has a name for it.
    pub counted: &'static [Counted],
}

/// Something that is said of an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Key in outputs, with its unit.
    pub name: &'static str,
    /// What it says, one line.
    pub help: &'static str,
    /// What values it has.
    pub form: Form,
    /// How it stands in a line of text.
    pub shown: Shown,
}

impl Field {
    /// A field.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str, form: Form, shown: Shown) -> Self {
        Self { name, help, form, shown }
    }
}

/// What values a field has; each may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A number, not negative.
    Number,
    /// A name.
    Text,
    /// Yes or no.
    Flag,
    /// A process.
    Owner,
    /// An address and a port.
    Endpoint,
    /// One direction of a conversation.
    Tuple,
    /// All that the flow counted in the run, as in its row.
    Counts,
}

/// How a field stands in a line of text, where its value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The value alone.
    Bare,
    /// Behind its name.
    Named,
    /// Behind its name, unless it is 1.
    UnlessOne,
    /// Not at all: in JSON only.
    No,
}

/// What an event says in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is not known.
    Unknown,
    /// For [`Form::Number`].
    Number(u64),
    /// For [`Form::Text`].
    Text(Cow<'static, str>),
    /// For [`Form::Text`]: `enum skb_drop_reason`, the subsystem in the upper 16 bits.
    Reason(u32),
    /// For [`Form::Text`]: `enum sk_rst_reason`.
    ResetReason(u32),
    /// For [`Form::Text`]: an address in the kernel's code.
    Place(u64),
    /// For [`Form::Text`]: a protocol by its number (IANA), 0 when unknown.
    Protocol(u16),
    /// For [`Form::Flag`].
    Flag(bool),
    /// For [`Form::Owner`].
    Owner {
        /// Process id (tgid).
        pid: u32,
        /// Name of the process.
        comm: String,
        /// Where it lives, where that is known.
        place: Option<Arc<Place>>,
    },
    /// For [`Form::Tuple`].
    Tuple(Tuple),
    /// For [`Form::Counts`]: the flow has them.
    Counts,
}

impl Value {
    /// A number, where it is known.
    #[must_use]
    pub fn number(value: Option<impl Into<u64>>) -> Self {
        value.map_or(Self::Unknown, |value| Self::Number(value.into()))
    }

    /// A name that is known beforehand.
    #[must_use]
    pub const fn name(name: &'static str) -> Self {
        Self::Text(Cow::Borrowed(name))
    }

    /// An errno, by its name where it is one that connections have.
    #[must_use]
    pub fn errno(number: i32) -> Self {
        Self::Text(errno_name(number))
    }
}

/// What stands for an errno where the process itself gave up.
pub const GIVEN_UP: &str = "closed";

/// The name of an errno that connections have, else its number.
#[must_use]
pub fn errno_name(number: i32) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTDOWN => "EHOSTDOWN",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EPIPE => "EPIPE",
        libc::ENOBUFS => "ENOBUFS",
        libc::ENOMEM => "ENOMEM",
        libc::EAGAIN => "EAGAIN",
        libc::EINVAL => "EINVAL",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        _ => return Cow::Owned(format!("errno {number}")),
    })
}

/// What is told of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its kind.
    pub kind: &'static Kind,
    /// When it happened, `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Events that it stands for.
    pub events: u64,
    /// By [`Kind::fields`].
    pub values: Vec<Value>,
    /// Where in the kernel.
    pub stack: Stack,
    /// The packet that it is of; none where not even its ends are known.
    pub packet: Option<Packet>,
}

/// What is known of the headers of an event's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its conversation, one end first.
    pub key: FlowKey,
    /// Which way it went, seen from that end.
    pub way: Option<Way>,
    /// What TCP's header says.
    pub tcp: Segment,
    /// Bytes of the packet as the place saw it that the event is of, with the headers that were there.
    pub bytes: Option<u64>,
}

impl Packet {
    /// A packet of which nothing is known but its conversation; none where that is not known either.
    #[must_use]
    pub fn of(key: FlowKey) -> Option<Self> {
        let known = key.local_addr != [0; 16] || key.peer_addr != [0; 16];
        known.then_some(Self { key, way: None, tcp: Segment::default(), bytes: None })
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first end.
    Out,
    /// To it.
    In,
}

/// What is known of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its flags, [`flags`] of RFC 9293.
    pub flags: Option<u8>,
    /// Sequence number of the first byte.
    pub seq: Option<u32>,
    /// Payload bytes.
    pub payload: Option<u32>,
}

/// Flags of TCP (RFC 9293 section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// The kernel's stack of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Nobody asked for it, or nothing can tell it.
    None,
    /// It could not be taken.
    NotTaken,
    /// Its number in the programs' map.
    Id(u32),
}

impl Stack {
    /// What a record says of it.
    #[must_use]
    pub const fn of(record: u32) -> Self {
        use netdiag_common::stack;
        match (stack::id(record), record) {
            (Some(id), _) => Self::Id(id),
            (None, stack::NOT_ASKED) => Self::None,
            (None, _) => Self::NotTaken,
        }
    }
}

/// What is known of an event's flow, or entry of the connection tracking table, from earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// When it was seen to connect or to be accepted.
    pub opened_ns: Option<u64>,
    /// When connect was called.
    pub connecting_ns: Option<u64>,
    /// How long an entry that is gone had been in the table.
    pub lived_ns: Option<u64>,
}

#[cfg(test)]
mod tests {
    use netdiag_common::stack;

    use super::*;

    #[test]
    fn errors_have_the_kernels_names() {
        assert_eq!(Value::errno(111), Value::name("ECONNREFUSED"));
        assert_eq!(Value::errno(110), Value::name("ETIMEDOUT"));
        assert_eq!(Value::errno(9999), Value::Text(Cow::Owned("errno 9999".to_owned())));
    }

    #[test]
    fn a_stack_is_told_from_none() {
        for (record, expected) in [
            (stack::NOT_ASKED, Stack::None),
            (stack::NOT_TAKEN, Stack::NotTaken),
            (stack::of(0), Stack::Id(0)),
            (stack::of(4095), Stack::Id(4095)),
        ] {
            assert_eq!(Stack::of(record), expected, "{record}");
        }
    }
}
