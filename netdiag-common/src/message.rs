//! DNS messages (RFC 1035): what their headers say, and which bytes may be one.

/// Bytes of a message that a record has at most: the length that precedes it over TCP (RFC 1035 section 4.2.2), and its
/// header.
pub const HEAD: usize = 16;

/// Bytes of a header (RFC 1035 section 4.1.1).
pub const HEADER: u32 = 12;

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
