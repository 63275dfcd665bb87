//! Connections as the kernel begins and ends to track them, by the events of ctnetlink.
//!
//! Listening is not free. Where the module that tells (`nf_conntrack_netlink`) is not there the kernel loads
//! it, so callers make sure that it is. Every tracked connection costs its namespace two messages, and a
//! socket keeps its namespace alive. Of a connection that was tracked before somebody listened the kernel
//! does not tell the end (it makes no room for its events then; before 5.19 it always did).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    time::Duration,
};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force},
};

pub use self::message::{Message, Tuple, What};
use crate::node::{
    netlink::{self, DATAGRAM_BYTES, Flaws},
    netns::{self, Namespace},
};

pub(super) mod message;

/// `enum nfnetlink_groups` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// Room for what comes between two calls of [`Subscriptions::take`]: a message takes up about a kilobyte
/// with what the kernel keeps beside it, and the kernel doubles this.
const BUFFER_BYTES: usize = 8 << 20;

/// Datagrams that are taken of one namespace at most, so that a storm in one does not silence others.
const TAKEN: usize = 16_384;

/// A namespace is let go when it was not found so often in a row: looking through /proc is not atomic, and
/// what its socket holds would be lost.
const MISSES: u32 = 2;

/// What was told and cannot be handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Times that a buffer was full: at least so many messages were lost.
    pub overruns: u64,
    /// Messages that made no sense.
    pub malformed: u64,
}

/// Sockets that listen, one in each namespace.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// By inode number.
    open: BTreeMap<u32, Subscription>,
    /// Namespaces in which it was not possible, with how often it was tried.
    refused: BTreeMap<u32, u32>,
}

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Nothing was told in that time.
    InVain,
    /// Something may be there.
    ForMessages,
    /// The other end is closed, or there is nothing to wait by.
    ForTheEnd,
}

#[derive(Debug)]
struct Subscription {
    socket: Socket,
    /// Looks in a row that did not find its namespace.
    misses: u32,
}

impl Subscriptions {
    /// Listens in these namespaces from now on, and no longer in others, so that they can go. Returns one
    /// line for each where that is not possible, once.
    ///
    /// Those in `kept` are not let go although they are not among them.
    #[must_use]
    pub fn follow(&mut self, namespaces: &[Namespace], kept: &BTreeSet<u32>) -> Vec<String> {
        let found: BTreeSet<u32> =
            namespaces.iter().map(|one| one.inode).chain(kept.iter().copied()).collect();
        self.refused.retain(|inode, _| found.contains(inode));
        self.open.retain(|inode, subscription| {
            subscription.misses += 1;
            if found.contains(inode) {
                subscription.misses = 0;
            }
            subscription.misses < MISSES
        });
        if !super::is_there() {
            return Vec::new();
        }
        let is_new = |one: &&Namespace| !self.open.contains_key(&one.inode);
        let new: Vec<Namespace> = namespaces.iter().filter(is_new).cloned().collect();
        let mut problems = Vec::new();
        for (namespace, opened) in new.iter().zip(netns::enter_all(&new, |_| listen())) {
            let problem = match opened {
                Ok(Ok(socket)) => {
                    self.refused.remove(&namespace.inode);
                    self.open.insert(namespace.inode, Subscription { socket, misses: 0 });
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(problem) => problem,
            };
            // One that is on its way out is not found again.
            let times = self.refused.entry(namespace.inode).or_default();
            *times += 1;
            if *times == 2 {
                problems.push(format!(
                    "cannot listen to conntrack of network namespace {} ({problem}), so its connections \
                     are not told of as they come and go; it takes CAP_NET_ADMIN there",
                    namespace.describe()
                ));
            }
        }
        problems
    }

    /// Waits until something is told, for so long at most, or until the other end of a socket is closed.
    #[must_use]
    pub fn wait(&self, end: impl AsFd, at_most: Duration) -> Waited {
        let sockets = self.open.values().map(|subscription| subscription.socket.as_fd());
        let mut waits: Vec<_> = sockets
            .chain([end.as_fd()])
            .map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN))
            .collect();
        match poll(&mut waits, Timespec::try_from(at_most).ok().as_ref()) {
            Ok(0) => Waited::InVain,
            Ok(_) if waits.last().is_some_and(|end| end.revents().contains(PollFlags::HUP)) => {
                Waited::ForTheEnd
            }
            Ok(_) | Err(Errno::INTR) => Waited::ForMessages,
            Err(_) => Waited::ForTheEnd,
        }
    }

    /// Hands on what was told since the last call, without waiting for more.
    pub fn take(&mut self, mut each: impl FnMut(Message)) -> Losses {
        let mut losses = Losses::default();
        let readable = self.readable();
        if readable.is_empty() {
            return losses;
        }
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        for (netns, socket) in readable {
            for _ in 0..TAKEN {
                datagram.clear();
                match socket.recv(&mut datagram, libc::MSG_TRUNC) {
                    Ok(length) if length > datagram.len() => losses.malformed += 1,
                    Ok(_) => losses.malformed += read(&datagram, netns, &mut each),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        losses.overruns += 1;
                    }
                    // Nothing is there; what else there is would come again the next time.
                    Err(_) => break,
                }
            }
        }
        losses
    }

    /// Those with something to read; where that cannot be told, all.
    fn readable(&self) -> Vec<(u32, &Socket)> {
        let all = self.open.iter().map(|(netns, it)| (*netns, &it.socket)).collect::<Vec<_>>();
        let mut waits: Vec<_> = all
            .iter()
            .map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
            .collect();
        if poll(&mut waits, Some(&Timespec::default())).is_err() {
            return all;
        }
        let ready = waits.iter().map(|wait| !wait.revents().is_empty());
        all.iter().zip(ready).filter_map(|(one, ready)| ready.then_some(*one)).collect()
    }
}

/// Whether it is possible in the calling thread's namespace.
///
/// # Errors
/// Those of the socket; and its events are turned off.
pub fn probe() -> io::Result<()> {
    listen().map(drop)
}

/// A socket that hears of the calling thread's namespace.
fn listen() -> io::Result<Socket> {
    if super::sysctl("events") == Some(0) {
        return Err(io::Error::other("net.netfilter.nf_conntrack_events is 0"));
    }
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
