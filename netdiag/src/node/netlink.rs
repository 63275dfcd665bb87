//! Asking the kernel by netlink (`netlink(7)`), and what the answers have in common, whatever they are
//! about. Nothing in their bytes is trusted: not the lengths, not the content.

use std::{io, time::Duration};

use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Largest datagram of a dump; the kernel's own limit is 32 KiB (`net/netlink/af_netlink.c`,
/// `netlink_recvmsg`).
pub(super) const DATAGRAM_BYTES: usize = 64 << 10;

/// The kernel answers at once; without an answer for so long none comes.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What was wrong with an answer that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flaws {
    /// Messages or rests of datagrams that made no sense.
    pub(super) malformed: u64,
    /// The kernel says that its table changed in a way that made the dump inconsistent.
    pub(super) interrupted: bool,
}

/// How a datagram ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More is to come.
    More,
    /// The dump is complete.
    Done,
}

/// Asks for a dump by the request with this sequence number. `each` gets the type and the payload of
/// every message of the answer, and returns whether they make sense.
///
/// The socket is one of its own: what is left of a broken dump goes with it.
///
/// # Errors
/// Those of the socket, a time-out, and the error that the kernel ended the dump with; an overrun is
/// ENOBUFS.
pub(super) fn dump(
    protocol: isize,
    request: &[u8],
    sequence: u32,
    each: impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<Flaws> {
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
    dump_by(&open(protocol)?, &mut datagram, request, sequence, each)
}

/// The same by a socket that is there; once all went well nothing is left of it there. `datagram` has room for the
/// largest one.
fn dump_by(
    socket: &Socket,
    datagram: &mut Vec<u8>,
    request: &[u8],
    sequence: u32,
    mut each: impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<Flaws> {
    socket.send(request, 0)?;
    let mut flaws = Flaws::default();
    loop {
        if !receive(socket, datagram)? {
            flaws.malformed += 1;
        }
        if read(datagram, sequence, &mut flaws, &mut each)? == End::Done {
            return Ok(flaws);
        }
    }
}

/// A socket by which one dump after the other is asked for in the namespace in which it was opened, and room for the
/// answers.
#[derive(Debug, Default)]
pub(super) struct Asker {
    socket: Option<Socket>,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Asker {
    /// As [`whole`]; of one protocol alone. After an error the next one has another socket.
    ///
    /// # Errors
    /// Those of [`whole`].
    pub(super) fn whole<T>(
        &mut self,
        protocol: isize,
        kind: u16,
        body: &[u8],
        new: impl Fn() -> T,
        mut take: impl FnMut(&mut T, u16, &[u8]) -> bool,
    ) -> io::Result<T> {
        repeated(|_| {
            let Self { socket, sequence, datagram } = self;
            let asked = socket.take().map_or_else(|| open(protocol), Ok)?;
            *sequence = sequence.wrapping_add(1);
            datagram.clear();
            datagram.reserve(DATAGRAM_BYTES);
            let mut all = new();
            let request = request(kind, NLM_F_DUMP, *sequence, body);
            let each = |kind, payload: &[u8]| take(&mut all, kind, payload);
            let flaws = dump_by(&asked, datagram, &request, *sequence, each)?;
            *socket = Some(asked);
            Ok((all, flaws))
        })
    }
}

/// Times a dump is begun when its table changes meanwhile: one that is left out would be new the next time, and
/// have counted from zero.
const ATTEMPTS: u32 = 4;

/// Asks for a dump by a request with this fixed part, again where its answer is not whole. `take` adds a message to
/// what `new` begins with, and returns whether it makes sense.
///
/// # Errors
/// Those of [`dump`], and `Interrupted` when the table changed all the time.
pub(super) fn whole<T>(
    protocol: isize,
    kind: u16,
    body: &[u8],
    new: impl Fn() -> T,
    mut take: impl FnMut(&mut T, u16, &[u8]) -> bool,
) -> io::Result<T> {
    repeated(|sequence| {
        let mut all = new();
        let request = request(kind, NLM_F_DUMP, sequence, body);
        let flaws =
            dump(protocol, &request, sequence, |kind, payload| take(&mut all, kind, payload))?;
        Ok((all, flaws))
    })
}

fn repeated<T>(mut ask: impl FnMut(u32) -> io::Result<(T, Flaws)>) -> io::Result<T> {
    for sequence in 1..=ATTEMPTS {
        let (answer, flaws) = ask(sequence)?;
        if flaws == Flaws::default() {
            return Ok(answer);
        }
    }
    let what = format!("they changed during each of {ATTEMPTS} dumps, or made no sense");
    Err(io::Error::new(io::ErrorKind::Interrupted, what))
}

/// A request with this fixed part.
pub(super) fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: usize = 16;
    let mut header = NetlinkHeader::default();
    header.length = (HEADER_BYTES + body.len()) as u32;
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; HEADER_BYTES];
    header.emit(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// A socket to ask the kernel by, which does not wait for ever.
pub(super) fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
    Ok(socket)
}

/// Receives one datagram; false when not all of it found room.
///
/// # Errors
/// Those of the socket, and a time-out.
pub(super) fn receive(socket: &Socket, datagram: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        datagram.clear();
        match socket.recv(datagram, libc::MSG_TRUNC) {
            Ok(length) => return Ok(length <= datagram.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {ANSWER_WITHIN:?}"),
                ));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads one datagram: the messages with this sequence number.
///
/// # Errors
/// The error that the kernel ended the dump with; an overrun is ENOBUFS.
pub(super) fn read(
    datagram: &[u8],
    sequence: u32,
    flaws: &mut Flaws,
    each: &mut impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<End> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else {
            flaws.malformed += 1;
            return Ok(End::More);
        };
        if message.sequence_number() == sequence {
            flaws.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            let payload = message.payload();
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_ERROR => return Err(error(payload)),
                NLMSG_DONE => {
                    return match status(payload) {
                        Some(negative @ ..0) => Err(from_kernel(negative)),
                        _ => Ok(End::Done),
                    };
                }
                NLMSG_OVERRUN => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                kind if each(kind, payload) => {}
                _ => flaws.malformed += 1,
            }
        }
        let length = (message.length() as usize).next_multiple_of(NLMSG_ALIGNTO.into());
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(End::More)
}

/// The string in an attribute, up to the NUL that ends it.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// `int error` at the start of NLMSG_ERROR, and of NLMSG_DONE where it may be left out.
fn status(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn error(payload: &[u8]) -> io::Error {
    match status(payload) {
        Some(negative @ ..0) => from_kernel(negative),
        _ => io::Error::new(io::ErrorKind::InvalidData, "the kernel's error message has no error"),
    }
}

fn from_kernel(negative: i32) -> io::Error {
    io::Error::from_raw_os_error(negative.checked_neg().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_is_not_whole_is_repeated_and_given_up_at_last() {
        let broken = Flaws { interrupted: true, ..Flaws::default() };
        let asked = |whole_at: u32| {
            repeated(|n| Ok((n, if n == whole_at { Flaws::default() } else { broken })))
        };
        assert_eq!(asked(3).expect("whole"), 3);
        let error = asked(ATTEMPTS + 1).expect_err("never whole");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        let refused = repeated::<u32>(|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn hostile_datagrams_are_survived() {
        let error = [&(-13_i32).to_ne_bytes()[..], &[0; 16]].concat();
        let payload = [0, 0, 1, 0, 8, 0, 1, 0, 7, 0, 0, 0];
        let message = |kind, body: &[u8]| request(kind, 0, 1, body);
        let sound = [
            [message(20, &payload), message(21, &payload), message(NLMSG_DONE, &[0; 4])].concat(),
            [message(20, &payload), message(NLMSG_ERROR, &error)].concat(),
            message(NLMSG_OVERRUN, &[]),
        ];
        crate::hostile::survived(&sound, |datagram| {
            let (mut flaws, mut bytes, mut messages) = (Flaws::default(), 0, 0);
            let _end = read(datagram, 1, &mut flaws, &mut |_, payload| {
                bytes += payload.len();
                messages += 1;
                messages % 2 == 0
            });
            // Each message has its own bytes.
            assert!(bytes + 16 * messages <= datagram.len());
            assert!(flaws.malformed <= 1 + messages as u64);
        });
    }
}
