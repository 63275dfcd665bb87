//! Connections as the kernel begins and ends to track them, by the events of ctnetlink.
//!
//! Listening is not free: it loads the module that tells (`nf_conntrack_netlink`) where tracking itself is
//! there, every tracked connection costs its namespace a message, and a socket keeps its namespace alive.
//! Of a connection that was tracked before somebody listened the kernel does not tell the end (it makes no
//! room for its events then; before 5.19 it always did).

use std::{collections::BTreeMap, io};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};

pub use self::message::{Message, Tuple, What};
use crate::node::{
    netlink::{self, DATAGRAM_BYTES, Flaws},
    netns::{self, Namespace},
};

mod message;

/// `enum nfnetlink_groups` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// Room for what comes between two calls of [`Listeners::take`]: a message takes up about a kilobyte
/// with what the kernel keeps beside it.
const BUFFER_BYTES: usize = 8 << 20;

/// Datagrams that are taken of one namespace at most, so that a storm in one does not silence others.
const TAKEN: usize = 16_384;

/// What was told and cannot be handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overruns {
    /// Times that a buffer was full; how many messages were lost is not known.
    pub overruns: u64,
    /// Messages that made no sense.
    pub malformed: u64,
}

/// Listens in several namespaces.
#[derive(Debug, Default)]
pub struct Listeners {
    /// By inode number.
    sockets: BTreeMap<u32, Socket>,
}

impl Listeners {
    /// Listens in all these namespaces. Those where that is not possible are told of, one line each.
    #[must_use]
    pub fn open(namespaces: &[Namespace]) -> (Self, Vec<String>) {
        let mut listeners = Self::default();
        let problems = listeners.follow(namespaces);
        (listeners, problems)
    }

    /// Listens in these namespaces from now on, and no longer in others, so that they can go. Those where
    /// that is not possible are told of.
    #[must_use]
    pub fn follow(&mut self, namespaces: &[Namespace]) -> Vec<String> {
        self.sockets.retain(|inode, _| namespaces.iter().any(|one| one.inode == *inode));
        if !super::is_there() {
            return Vec::new();
        }
        let is_new = |one: &&Namespace| !self.sockets.contains_key(&one.inode);
        let new: Vec<Namespace> = namespaces.iter().filter(is_new).cloned().collect();
        let mut problems = Vec::new();
        for (namespace, opened) in new.iter().zip(netns::enter_all(&new, |_| listen())) {
            let opened = opened.and_then(|opened| {
                opened.map_err(|error| {
                    format!("cannot listen to conntrack of {}: {error}", namespace.describe())
                })
            });
            match opened {
                Ok(socket) => {
                    self.sockets.insert(namespace.inode, socket);
                }
                Err(problem) => problems.push(format!(
                    "{problem}: its connections are not told of as they come and go; listening takes \
                     CAP_NET_ADMIN in it"
                )),
            }
        }
        problems
    }

    /// Hands on what was told since the last call, without waiting for more.
    pub fn take(&mut self, mut each: impl FnMut(Message)) -> Overruns {
        let mut overruns = Overruns::default();
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        for (netns, socket) in &self.sockets {
            for _ in 0..TAKEN {
                datagram.clear();
                match socket.recv(&mut datagram, libc::MSG_TRUNC) {
                    Ok(length) if length > datagram.len() => overruns.malformed += 1,
                    Ok(_) => overruns.malformed += read(&datagram, *netns, &mut each),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        overruns.overruns += 1;
                    }
                    // Nothing is there; what else there is would come again the next time.
                    Err(_) => break,
                }
            }
        }
        overruns
    }
}

/// A socket that hears of the calling thread's namespace.
fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    // Beyond `net.core.rmem_max` only with privilege.
    set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
        .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER_BYTES))?;
    socket.bind_auto()?;
    socket.add_membership(NFNLGRP_CONNTRACK_NEW)?;
    socket.add_membership(NFNLGRP_CONNTRACK_DESTROY)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Reads one datagram; how many messages in it made no sense.
fn read(datagram: &[u8], netns: u32, each: &mut impl FnMut(Message)) -> u64 {
    /// Nobody asked for it.
    const SEQUENCE: u32 = 0;
    let mut flaws = Flaws::default();
    let ended = netlink::read(datagram, SEQUENCE, &mut flaws, &mut |kind, payload| {
        let message = message::parse(kind, payload, netns);
        let made_sense = message.is_some();
        message.into_iter().for_each(&mut *each);
        made_sense
    });
    flaws.malformed + u64::from(ended.is_err())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut messages = 0;
            let malformed = read(&bytes, 7, &mut |_| messages += 1);
            prop_assert!(bytes.is_empty() || messages + malformed <= bytes.len() as u64);
        }
    }
}
