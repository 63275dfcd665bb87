//! The kernel's TCP sockets, from its socket dump (`sock_diag(7)`, `net/ipv4/inet_diag.c`).
//!
//! A dump answers for the network namespace that asks. It is not atomic: the kernel walks its hash
//! table while sockets come and go, so a socket that opens or closes meanwhile may be in it or not,
//! and one that moves may be in it twice (dropped here, by cookie).

use std::{
    collections::{BTreeMap, HashSet},
    io,
};

use netdiag_common::flow::{FlowKey, TcpCounters, TcpDetail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, SocketId},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

pub use netlink_packet_sock_diag::inet::StateFlags;

use super::{
    netlink::{self, Flaws},
    netns::{self, Namespace},
};

mod ask;
mod reply;

pub use ask::ask;

/// States of sockets that a process holds or that still drain: all but connection requests
/// (`SYN_RECV`) and `TIME_WAIT`, which are no full sockets and have no counters.
pub const FULL: StateFlags =
    StateFlags::all().difference(StateFlags::SYN_RECV).difference(StateFlags::TIME_WAIT);

/// A TCP socket as the kernel dumped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The conversation; a listener's peer is all zero.
    pub key: FlowKey,
    /// The kernel's socket cookie: unique on the node since boot.
    pub cookie: u64,
    /// TCP state (`include/net/tcp_states.h`).
    pub state: u8,
    /// Inode number in sockfs, the one in `/proc/PID/fd/N -> socket:[INODE]`; 0 when no descriptor
    /// refers to it.
    pub inode: u64,
    /// User id of its owner as the asking user namespace sees it.
    pub uid: u32,
    /// Its counters; none for listeners and for what is no full socket.
    pub tcp: Option<TcpCounters>,
    /// What else the kernel tells of it, likewise.
    pub detail: Option<TcpDetail>,
    /// What a listener says of itself.
    pub listening: Option<Listening>,
}

/// A listener's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Connection requests that it dropped (`sk_drops`).
    pub drops: u32,
    /// Connections that wait to be accepted (`sk_ack_backlog`).
    pub queue: u32,
    /// How many may (`sk_max_ack_backlog`); one more is let in.
    pub queue_limit: u32,
}

/// The TCP sockets of one namespace, or of several.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Conversations.
    pub sockets: Vec<Socket>,
    /// Listeners.
    pub listeners: Vec<Socket>,
    /// What could not be had, one line each.
    pub problems: Vec<String>,
    /// Namespaces of which not all was had, with one of the lines.
    pub unread: BTreeMap<u32, String>,
}

/// What was read of one family.
struct Batch {
    /// In the order of the kernel.
    sockets: Vec<Socket>,
    flaws: Flaws,
}

/// What it means to those who ask for the first time that not all sockets are told.
const OLDER_UNKNOWN: &str = "sockets older than the start may be unknown until they are used";

/// Times a dump is begun when the kernel breaks it off.
const ATTEMPTS: u32 = 4;

/// Dumps the TCP sockets of all these namespaces, IPv4 and IPv6, on a thread that ends with it.
#[must_use]
pub fn dump_all(namespaces: &[Namespace], states: &StateFlags) -> Dump {
    dump_in(namespaces, states, OLDER_UNKNOWN)
}

/// The same, where `consequence` is what it means that sockets are not told.
#[must_use]
pub fn dump_in(namespaces: &[Namespace], states: &StateFlags, consequence: &str) -> Dump {
    let mut all = Dump::default();
    let dumps =
        netns::enter_all(namespaces, |namespace| dump(namespace.inode, states, consequence));
    for (namespace, dumped) in namespaces.iter().zip(dumps) {
        match dumped {
            Ok(mut one) => {
                let problem = one.problems.first().cloned();
                all.unread.extend(problem.map(|problem| (namespace.inode, problem)));
                all.sockets.append(&mut one.sockets);
                all.listeners.append(&mut one.listeners);
                all.problems.append(&mut one.problems);
            }
            Err(problem) => {
                let problem = format!("{problem}: {consequence}");
                all.unread.insert(namespace.inode, problem.clone());
                all.problems.push(problem);
            }
        }
    }
    // What the kernel lacks, it lacks in every namespace.
    let mut said = HashSet::new();
    all.problems.retain(|problem| said.insert(problem.clone()));
    all
}

/// Dumps the TCP sockets of the calling thread's network namespace, whose inode number is `netns`.
/// Problems end with what it means that sockets are not told.
#[must_use]
pub fn dump(netns: u32, states: &StateFlags, consequence: &str) -> Dump {
    let mut dump = Dump::default();
    let mut seen = HashSet::new();
    for family in [AF_INET, AF_INET6] {
        let name = if family == AF_INET { "IPv4" } else { "IPv6" };
        match dump_family(family, netns, states) {
            Ok(batch) => {
                if batch.flaws.interrupted {
                    dump.problems.push(format!(
                        "the {name} socket table of namespace {netns} changed during each of \
                         {ATTEMPTS} dumps: {consequence}"
                    ));
                }
                if batch.flaws.malformed > 0 {
                    dump.problems.push(format!(
                        "{} messages of the {name} socket dump of namespace {netns} made no sense: \
                         {consequence}",
                        batch.flaws.malformed
                    ));
                }
                for socket in batch.sockets {
                    if socket.cookie != 0 && !seen.insert(socket.cookie) {
                        continue;
                    }
                    let list = if socket.state == TCP_LISTEN {
                        &mut dump.listeners
                    } else {
                        &mut dump.sockets
                    };
                    list.push(socket);
                }
            }
            Err(error) => {
                let line = problem(&error, name, netns, consequence);
                if !dump.problems.contains(&line) {
                    dump.problems.push(line);
                }
            }
        }
    }
    dump
}

fn problem(error: &io::Error, family: &str, netns: u32, consequence: &str) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            format!(
                "the kernel has no TCP socket dump (inet_diag, tcp_diag): {consequence}; run \
                 `modprobe tcp_diag`"
            )
        }
        _ => {
            format!(
                "the {family} socket dump of namespace {netns} failed: {error}: {consequence}; see \
                 whether `ss -ta` answers there"
            )
        }
    }
}

/// Dumps one family, again when the kernel says that the dump is of no use.
fn dump_family(family: u8, netns: u32, states: &StateFlags) -> io::Result<Batch> {
    let mut attempt = 1;
    loop {
        let result = dump_once(family, netns, states, attempt);
        let again = match &result {
            Ok(batch) => batch.flaws.interrupted,
            Err(error) => error.raw_os_error() == Some(libc::ENOBUFS),
        };
        if !again || attempt == ATTEMPTS {
            return result;
        }
        attempt += 1;
    }
}

fn dump_once(family: u8, netns: u32, states: &StateFlags, sequence: u32) -> io::Result<Batch> {
    let mut sockets = Vec::new();
    let request = message(
        InetRequest { states: states.clone(), ..one(family, SocketId::new_v4()) },
        NLM_F_REQUEST | NLM_F_DUMP,
        sequence,
    );
    let flaws = netlink::dump(NETLINK_SOCK_DIAG, &request, sequence, |kind, payload| {
        let socket = reply::socket(kind, payload, netns);
        sockets.extend(socket);
        socket.is_some()
    })?;
    Ok(Batch { sockets, flaws })
}

/// Asks for one socket, and for all that is read of each.
fn one(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO,
        states: StateFlags::all(),
        socket_id,
    }
}

fn message(request: InetRequest, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_dump_is_named_once_for_all() {
        let lines: HashSet<String> = [libc::ENOENT, libc::EPROTONOSUPPORT]
            .into_iter()
            .flat_map(|errno| [("IPv4", 1, errno), ("IPv6", 2, errno)])
            .map(|(family, netns, errno)| {
                problem(&io::Error::from_raw_os_error(errno), family, netns, OLDER_UNKNOWN)
            })
            .collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("modprobe tcp_diag")));
    }

    #[test]
    fn another_failure_names_family_and_namespace() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let line = problem(&error, "IPv6", 42, OLDER_UNKNOWN);
        assert!(line.contains("IPv6") && line.contains("42") && line.contains("os error 1"));
    }

    /// `struct nlmsghdr` and `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
    #[test]
    fn the_request_is_what_the_kernel_expects() {
        let request = InetRequest { states: FULL, ..one(AF_INET6, SocketId::new_v4()) };
        let bytes = message(request, NLM_F_REQUEST | NLM_F_DUMP, 9);
        assert_eq!(bytes.len(), 16 + 56);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 20u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x301u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 9u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [10, 6, 2 | 1 << 6, 0]);
        assert_eq!(bytes[20..24], (0xffe & !(1u32 << 3) & !(1 << 6)).to_ne_bytes());
    }
}
