//! Asking for single sockets, each found by its conversation in the kernel's hash: the cost is that of
//! the sockets asked for, not that of the table, which all namespaces share.

use std::{io, net::Ipv6Addr};

use netdiag_common::flow::FlowKey;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_sock_diag::{
    constants::{AF_INET, AF_INET6},
    inet::SocketId,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{Socket, message, one, reply};
use crate::node::netlink::{self, DATAGRAM_BYTES, Flaws};

/// Requests that one datagram carries: the answers to them fit into the smallest receive buffer that
/// the kernel gives.
const AT_ONCE: usize = 32;

/// Any cookie will do (`INET_DIAG_NOCOOKIE`, include/uapi/linux/inet_diag.h).
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Asks the calling thread's network namespace for these sockets, each with its cookie, 0 where that
/// is not known, and adds them to `found`. One that is gone is not among the answers; nor is one that
/// is bound to an interface (`SO_BINDTODEVICE`), which is found by that alone.
///
/// # Errors
/// Those of the socket, a time-out, and the first that the kernel answered with instead of a socket,
/// unless it was that there is none. What came besides is in `found`.
pub fn ask(wanted: &[(FlowKey, u64)], found: &mut Vec<Socket>) -> io::Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut result = Ok(());
    let socket = netlink::open(NETLINK_SOCK_DIAG)?;
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
    for (sequence, some) in (1..).zip(wanted.chunks(AT_ONCE)) {
        let requests: Vec<u8> =
            some.iter().flat_map(|(key, cookie)| request(key, *cookie, sequence)).collect();
        socket.send(&requests, 0)?;
        // Each is answered by a datagram of its own: the socket, or an error.
        for _ in some {
            netlink::receive(&socket, &mut datagram)?;
            let netns = some[0].0.netns;
            let mut each = |kind, payload: &[u8]| {
                let socket = reply::socket(kind, payload, netns);
                // Where there is no such socket, its listener may answer.
                found.extend(socket.filter(|s| some.iter().any(|(key, _)| *key == s.key)));
                true
            };
            match netlink::read(&datagram, sequence, &mut Flaws::default(), &mut each) {
                Err(error) if !is_gone(&error) && result.is_ok() => result = Err(error),
                _ => {}
            }
        }
    }
    result
}

/// Whether the kernel says that there is no such socket, or that another has its conversation
/// (`inet_diag_find_one_icsk`, net/ipv4/inet_diag.c). Where it has no socket dump it says the same: that
/// was told at the start.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

fn request(key: &FlowKey, cookie: u64, sequence: u32) -> Vec<u8> {
    let local = Ipv6Addr::from(key.local_addr).to_canonical();
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let id = SocketId {
        source_port: key.local_port,
        destination_port: key.peer_port,
        source_address: local,
        destination_address: Ipv6Addr::from(key.peer_addr).to_canonical(),
        interface_id: 0,
        cookie: if cookie == 0 { NO_COOKIE } else { words(cookie) },
    };
    message(one(family, id), NLM_F_REQUEST, sequence)
}

/// The two words of a cookie, the low one first.
fn words(cookie: u64) -> [u8; 8] {
    let [low, high] = [cookie as u32, (cookie >> 32) as u32].map(u32::to_ne_bytes);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&low);
    bytes[4..].copy_from_slice(&high);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use netdiag_common::flow::{TCP, mapped};

    use crate::node::netns;

    fn found(wanted: &[(FlowKey, u64)]) -> Vec<Socket> {
        let mut found = Vec::new();
        ask(wanted, &mut found).unwrap();
        found
    }

    /// The words lie as the kernel has them (`sock_diag_save_cookie`, net/core/sock_diag.c).
    #[test]
    fn a_cookie_is_two_words() {
        assert_eq!(words(0x1111_2222_3333_4444)[..4], 0x3333_4444u32.to_ne_bytes());
        assert_eq!(words(0x1111_2222_3333_4444)[4..], 0x1111_2222u32.to_ne_bytes());
    }

    #[test]
    fn sockets_of_this_namespace_are_found_by_their_conversation() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let key = FlowKey {
            local_addr: mapped(local.ip()),
            peer_addr: mapped(peer.ip()),
            local_port: local.port(),
            peer_port: peer.port(),
            netns: netns::own_inode().unwrap(),
            protocol: TCP,
            reserved: 0,
        };
        // The listener would answer for that one.
        let gone = FlowKey {
            local_addr: key.peer_addr,
            peer_addr: key.local_addr,
            local_port: key.peer_port,
            peer_port: 1,
            ..key
        };
        let wanted = vec![(key, 0), (gone, 0), (FlowKey { local_port: 1, ..key }, 0)];
        let found = found(&wanted);
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.key, one.tcp.is_some(), one.detail.is_some()), (key, true, true));
        assert_eq!(self::found(&[(key, one.cookie)]).len(), 1);
        assert_eq!(self::found(&[(key, one.cookie + 1)]), [], "another socket");
    }
}
