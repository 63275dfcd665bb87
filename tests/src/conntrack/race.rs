//! Two packets that begin one conversation at the same time, on two processors.
//!
//! The kernel makes an entry for each when it arrives, and puts the entry into the table when the packet
//! leaves. Whoever comes second finds its place taken: a clash, which it resolves or which costs the
//! packet (`nf_ct_resolve_clash`, net/netfilter/nf_conntrack_core.c). Rules that take their time in
//! between make nearly every attempt a race.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::Result;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{full::is_refused, table::Statistics};
use crate::{
    fault,
    network::{LEFT_V4, Pair, RIGHT_V4},
    processor,
};

/// What is raced for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Race {
    /// Two queries from one socket to one server, as a resolver asks for A and AAAA: both are the same
    /// conversation, and the second packet joins the first's entry.
    OneSocket,
    /// The same, to a service that leads to one of two servers by turns: each packet has a server of its
    /// own, and the second entry lives for a second beside the first.
    TwoServers,
    /// Two sockets on two addresses that go out by one, with the same port: the answers could not be
    /// told apart, and the second packet is dropped.
    OneAddress,
}

/// All of them.
pub const RACES: [Race; 3] = [Race::OneSocket, Race::TwoServers, Race::OneAddress];

/// Port of the servers.
const DNS: u16 = 53;
/// Where [`Race::TwoServers`] sends to, and its second server.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const SECOND_RIGHT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 4);
/// The second address of [`Race::OneAddress`].
const SECOND_LEFT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

/// What the kernel says of races that were run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raced {
    /// Packets sent.
    pub sent: u64,
    /// Packets that the sender was told were not let out.
    pub refused: u64,
    /// Rise of `clash_resolve`.
    pub clashes: u64,
    /// Rise of `insert_failed`.
    pub failed: u64,
}

impl Race {
    /// Clashes of this kind that were resolved or not.
    #[must_use]
    pub const fn lost(self, raced: Raced) -> u64 {
        match self {
            Self::OneSocket | Self::TwoServers => raced.clashes,
            Self::OneAddress => raced.failed,
        }
    }

    /// Entries that got their place in the table by themselves. Each other that was made is one that a
    /// race lost.
    #[must_use]
    pub const fn undisputed(self, raced: Raced) -> u64 {
        match self {
            // The second packet finds the first's entry, or clashes with it.
            Self::OneSocket | Self::TwoServers => raced.sent / 2,
            Self::OneAddress => raced.sent - raced.failed,
        }
    }

    fn chain(self) -> String {
        let (hook, rule) = match self {
            Self::OneSocket => return String::new(),
            Self::TwoServers => (
                "output priority -100",
                format!(
                    "ip daddr {SERVICE} dnat ip to numgen inc mod 2 map \
                     {{ 0 : {RIGHT_V4}, 1 : {SECOND_RIGHT} }}"
                ),
            ),
            Self::OneAddress => {
                ("postrouting priority 100", format!("ip saddr {SECOND_LEFT} snat ip to {LEFT_V4}"))
            }
        };
        format!(" chain raced {{\n type nat hook {hook};\n {rule}\n }}\n")
    }

    /// A socket for each of the two packets, on a port that no race had before.
    fn sockets(self, pair: &Pair, port: u16) -> Result<[UdpSocket; 2]> {
        pair.left.run(|| match self {
            Self::OneSocket | Self::TwoServers => {
                let one = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
                Ok([one.try_clone()?, one])
            }
            Self::OneAddress => {
                let first = UdpSocket::bind((LEFT_V4, port))?;
                Ok([first, UdpSocket::bind((SECOND_LEFT, port))?])
            }
        })
    }

    /// Runs races on a pair whose left end tracks, once per pair, until at least `wanted` were lost.
    ///
    /// # Errors
    /// When `nft`, `ip` or a socket call fails, or hardly any race comes about.
    ///
    /// # Panics
    /// When a sending thread does.
    pub fn run(self, pair: &Pair, wanted: u64) -> Result<Raced> {
        const BATCH: u16 = 50;
        const PORTS: std::ops::Range<u16> = 20_000..22_000;
        pair.left.ip(&format!("addr add {SECOND_LEFT}/24 dev wire"))?;
        pair.right.ip(&format!("addr add {SECOND_RIGHT}/24 dev wire"))?;
        fault::load(&pair.left, &format!("table inet raced {{\n{}{} }}\n", self.chain(), slow()))?;
        // It is there, so that nobody answers that it is not.
        let _server = pair.right.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DNS)))?;
        let before = Statistics::read(&pair.left)?;
        let mut raced = Raced { sent: 0, refused: 0, clashes: 0, failed: 0 };
        for first in PORTS.step_by(BATCH.into()) {
            let sockets = (first..first + BATCH).map(|port| self.sockets(pair, port));
            let sockets: Vec<_> = sockets.collect::<Result<_>>()?;
            raced.sent += 2 * sockets.len() as u64;
            raced.refused += self.send(&sockets)?;
            let risen = Statistics::read(&pair.left)?.since(&before);
            raced.clashes = risen["clash_resolve"];
            raced.failed = risen["insert_failed"];
            if self.lost(raced) >= wanted {
                return Ok(raced);
            }
        }
        anyhow::bail!("{self:?}: hardly a race in {raced:?}")
    }

    /// Lets two threads send one packet of each pair at the same time. Returns how many were refused.
    fn send(self, sockets: &[[UdpSocket; 2]]) -> Result<u64> {
        let to: SocketAddr = match self {
            Self::TwoServers => (SERVICE, DNS).into(),
            Self::OneSocket | Self::OneAddress => (RIGHT_V4, DNS).into(),
        };
        let cpus = two_processors()?;
        let arrived = AtomicUsize::new(0);
        let arrived = &arrived;
        thread::scope(|scope| {
            let threads = [0, 1].map(|side| {
                let cpu = cpus[side];
                scope.spawn(move || -> Result<u64> {
                    let pinned = sched_setaffinity(None, &cpu);
                    let mut refused = Ok(0);
                    for (round, pair) in sockets.iter().enumerate() {
                        // Whatever comes of it, the other waits: it must not wait for ever.
                        arrived.fetch_add(1, Ordering::SeqCst);
                        while arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
                            std::hint::spin_loop();
                        }
                        let sent = is_refused(&pair[side], to);
                        refused = refused.and_then(|sum| Ok(sum + u64::from(sent?)));
                    }
                    pinned?;
                    refused
                })
            });
            let refused = threads.map(|thread| thread.join().expect("a sender panicked"));
            refused.into_iter().sum()
        })
    }
}

/// A processor for each of two threads.
fn two_processors() -> Result<[CpuSet; 2]> {
    match processor::each()?[..] {
        [first, second, ..] => Ok([first, second]),
        _ => anyhow::bail!("a race needs two processors"),
    }
}

/// Rules that match nothing and take their time, between the choice of an address (at 100) and the
/// table (last of all).
fn slow() -> String {
    const RULES: usize = 1000;
    let rules = " ip daddr 192.0.2.1\n".repeat(RULES);
    format!(" chain slow {{\n type filter hook postrouting priority 200;\n{rules} }}\n")
}
