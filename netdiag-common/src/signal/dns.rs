//! DNS messages as they pass network devices.
//!
//! Kernel: tracepoints `net:net_dev_queue` (`net/core/dev.c`, `__dev_queue_xmit`: a packet is given to a
//! device) and `net:netif_receive_skb` (`__netif_receive_skb_core`: a device has one). A packet that is
//! forwarded passes several, and each is a record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{flow::FlowKey, header::Header};

/// Numbers of the lanes of this signal.
pub mod lane {
    /// A packet is given to a device.
    pub const OUT: usize = 0;
    /// A device has one.
    pub const IN: usize = 1;
}

/// The port of servers, over UDP and TCP.
pub const PORT: u16 = 53;

/// Bits of [`Record::flags`].
pub mod flag {
    /// The packet leaves by the device; else it came by it.
    pub const OUT: u32 = 1;
    /// It goes to the server; else it comes from there.
    pub const TO_SERVER: u32 = 2;
    /// Connection tracking has an entry for it.
    pub const TRACKED: u32 = 4;
    /// The packet follows the record, from its first byte to what [`super::Record::head`] is for: programs
    /// cannot read what lies in pages, and the kernel copies it.
    pub const PACKET: u32 = 8;
    /// Before it some were not told of, on the same CPU and way.
    pub const GAP: u32 = 16;
}

/// Messages that a CPU tells of in [`WINDOW_NS`] at most, in and out each.
pub const MOST: u64 = 5_000;
/// What [`MOST`] is for.
pub const WINDOW_NS: u64 = 100_000_000;

/// Bytes of a message that a record has: the length that precedes it over TCP (RFC 1035 section 4.2.2), and its
/// header.
pub const HEAD: usize = 16;

/// Bytes of a header (RFC 1035 section 4.1.1).
pub const HEADER: u32 = 12;

/// A packet that may begin with a message.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq,
    FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Record {
    /// `signal` is [`crate::signal::Signal::Dns`], `samples` 1, `time_ns` when the packet passed.
    pub header: Header,
    /// The conversation as the packet has it, who asks as this end, in the device's network namespace.
    pub key: FlowKey,
    /// Number of the device.
    pub ifindex: u32,
    /// As it began, by its entry in connection tracking: whom the server was asked for, before
    /// addresses were translated. Who asks is this end. All zero unless [`flag::TRACKED`].
    pub asked: FlowKey,
    /// Of [`flag`].
    pub flags: u32,
    /// Bytes behind the header of UDP or TCP.
    pub length: u32,
    /// The first of them; more than `length` means nothing.
    pub head: [u8; HEAD],
    /// Bytes of the packet before that.
    pub before: u32,
}

/// What the header of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Of the query, and of its answer.
    pub id: u16,
    /// Whether it is an answer.
    pub is_answer: bool,
    /// Response code without the bits that EDNS adds (RFC 6895 section 2.3); 0 of a query.
    pub rcode: u8,
}

/// Opcodes up to here are assigned (RFC 6895 section 2.2).
const OPCODES: u16 = 6;
const ANSWER: u16 = 1 << 15;
const RESERVED: u16 = 1 << 6;
const RCODE: u16 = 0xf;

impl Message {
    /// Reads what the payload of a packet begins with: `length` bytes, the first of them in `head`.
    ///
    /// Over UDP that is a message. Over TCP it is anything, most of all the middle of a long answer: only what
    /// a message could be is one. Its length may have come in a segment before.
    #[must_use]
    #[inline(always)]
    pub fn read(head: &[u8; HEAD], length: u32, to_server: bool, tcp: bool) -> Option<Self> {
        if !tcp {
            let message = Self::at(head, 0);
            return (length >= HEADER && message.is_answer != to_server).then_some(message);
        }
        let announced = u32::from(word(head, 0));
        let whole = announced + 2 <= length;
        // A query is in one segment, an answer need not be.
        let fits = announced >= HEADER && length >= HEADER + 2 && (whole || !to_server);
        if fits && Self::is_plausible(head, 2, to_server) {
            return Some(Self::at(head, 2));
        }
        let alone = length >= HEADER && Self::is_plausible(head, 0, to_server);
        alone.then(|| Self::at(head, 0))
    }

    #[inline(always)]
    fn at(head: &[u8; HEAD], at: usize) -> Self {
        let flags = word(head, at + 2);
        Self {
            id: word(head, at),
            is_answer: flags & ANSWER != 0,
            rcode: if flags & ANSWER != 0 { (flags & RCODE) as u8 } else { 0 },
        }
    }

    #[inline(always)]
    fn is_plausible(head: &[u8; HEAD], at: usize, to_server: bool) -> bool {
        let (flags, questions) = (word(head, at + 2), word(head, at + 4));
        let is_answer = flags & ANSWER != 0;
        // A server that refuses a query may not repeat the question.
        let asks = questions == 1 || is_answer && questions == 0 && flags & RCODE != 0;
        is_answer != to_server
            && flags & RESERVED == 0
            && flags >> 11 & 0xf <= OPCODES
            && (is_answer || flags & RCODE == 0)
            && asks
    }
}

/// The 16 bits at a place, in network order.
#[inline(always)]
fn word(head: &[u8; HEAD], at: usize) -> u16 {
    u16::from(head[at]) << 8 | u16::from(head[at + 1])
}
