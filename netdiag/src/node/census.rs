//! The TCP sockets of a network namespace, counted: by state, by conversation, by port.
//!
//! The dump is the short one of both families in one walk over the kernel's hash (`TCPDIAG_GETSOCK`,
//! `net/ipv4/inet_diag.c`, `inet_diag_dump_compat`): that hash is one for all namespaces, and each walk
//! costs as much as it is large. So it is walked only where there are sockets and anything happened to them
//! ([`Signs`]). Nothing is kept of a socket but what it adds to the counts.

use std::{io, net::IpAddr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{files, netlink};

mod count;
mod signs;
mod tell;

pub use self::{
    count::{Census, Range},
    signs::{Signs, When},
    tell::{Told, tell},
};

/// `TCPDIAG_GETSOCK` (`include/uapi/linux/inet_diag.h`).
const GET_SOCKET: u16 = 18;

/// States of TCP (`include/net/tcp_states.h`).
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const SYN_RECV: u8 = 3;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const TIME_WAIT: u8 = 6;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LAST_ACK: u8 = 9;
    pub(super) const LISTEN: u8 = 10;
    pub(super) const CLOSING: u8 = 11;
}

/// All but CLOSE.
const STATES: u32 = 0xffe & !(1 << 7);

/// `struct inet_diag_req`, without the identity of a single socket.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    family_to_extensions: [u8; 4],
    identity: [u8; 48],
    states: u32,
    dbs: u32,
}

/// `struct inet_diag_msg`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    local_port: [u8; 2],
    peer_port: [u8; 2],
    local: [u8; 16],
    peer: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

const _: () = assert!(size_of::<Request>() == 60 && size_of::<Message>() == 72);

/// A socket, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    state: u8,
    local: (IpAddr, u16),
    peer: (IpAddr, u16),
    inode: u64,
    /// Of a listener: connections that wait, and how many may.
    queue: (u32, u32),
}

/// Counts the sockets of the calling thread's namespace, which gave these signs just before, and was counted last
/// with that result; none where there are none.
///
/// # Errors
/// Those of netlink, and `Interrupted` when no dump was whole.
pub fn read(signs: Option<Signs>, last: Option<&Census>) -> io::Result<Option<Census>> {
    let sysctl = |name| files::text(format!("/proc/sys/net/ipv4/{name}")).ok();
    if signs.as_ref().is_some_and(Signs::are_empty) {
        return Ok(None);
    }
    let range = sysctl("ip_local_port_range");
    let reserved = sysctl("ip_local_reserved_ports");
    let request =
        Request { family_to_extensions: [0; 4], identity: [0; 48], states: STATES, dbs: 0 };
    let new = || Census::new(range.as_deref(), reserved.as_deref());
    let take = |census: &mut Census, kind, payload: &[u8]| {
        let socket = (kind == GET_SOCKET).then(|| parse(payload)).flatten();
        let makes_sense = socket.is_some();
        if let Some(socket) = socket {
            census.add(&socket);
        }
        makes_sense
    };
    let mut census = netlink::whole(NETLINK_SOCK_DIAG, GET_SOCKET, request.as_bytes(), new, take)?;
    census.rested = last.is_some_and(|last| last.followed(signs.as_ref()));
    census.signs = signs;
    Ok(Some(census))
}

/// One message; none when it makes no sense.
fn parse(payload: &[u8]) -> Option<Socket> {
    let (message, _) = Message::read_from_prefix(payload).ok()?;
    let address = |bytes: [u8; 16]| {
        let [a, b, c, d, ..] = bytes;
        match i32::from(message.family) {
            libc::AF_INET => Some(IpAddr::from([a, b, c, d])),
            libc::AF_INET6 => Some(IpAddr::from(bytes).to_canonical()),
            _ => None,
        }
    };
    Some(Socket {
        state: message.state,
        local: (address(message.local)?, u16::from_be_bytes(message.local_port)),
        peer: (address(message.peer)?, u16::from_be_bytes(message.peer_port)),
        inode: message.inode.into(),
        queue: (message.receive_queue, message.send_queue),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn message() -> Vec<u8> {
        let mut bytes = vec![2, state::LISTEN, 0, 0, 0, 80, 0, 0];
        bytes.extend([[10, 0, 0, 1], [0; 4], [0; 4], [0; 4]].concat());
        bytes.extend([0; 16]);
        for word in [0u32, 1, 2, 0, 6, 5, 0, 1234] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([5, 0, 8, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_message_is_read_and_a_short_one_is_none() {
        let whole = message();
        let expected = Socket {
            state: state::LISTEN,
            local: ([10, 0, 0, 1].into(), 80),
            peer: ([0, 0, 0, 0].into(), 0),
            inode: 1234,
            queue: (6, 5),
        };
        assert_eq!(parse(&whole), Some(expected));
        for end in 0..72 {
            assert_eq!(parse(&whole[..end]), None);
        }
        assert_eq!(parse(&[&[7], &whole[1..]].concat()), None, "a family nobody knows");
    }

    #[test]
    fn sockets_of_this_namespace_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let _streams = [(); 3].map(|()| TcpStream::connect(there).unwrap());
        let census = read(Signs::read(None), None).unwrap().unwrap();
        assert!(census.states.established >= 6, "{census:?}");
        assert!(census.states.listen >= 1);
        let queue = census.listeners.iter().find(|one| one.local.1 == there.port()).unwrap();
        assert_eq!(queue.queue, 3);
    }

    #[test]
    fn hostile_messages_are_survived() {
        crate::hostile::survived(&[message()], |bytes| {
            let _socket = parse(bytes);
        });
    }
}
