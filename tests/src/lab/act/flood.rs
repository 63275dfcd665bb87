//! Packets that no honest client sends.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Result, bail};
use rustix::thread::sched_setaffinity;
use serde::{Deserialize, Serialize};

use super::{Pace, count};
use crate::{
    dropping::raw::{self, Checksum},
    processor,
};

/// Asks for connections in the name of addresses that nobody has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Syns {
    /// The first of a hundred addresses.
    pub from: Ipv4Addr,
    /// The listener.
    pub to: SocketAddr,
    /// SYNs a second.
    pub per_second: f64,
}

impl Syns {
    pub(super) fn begin(&self) -> Result<()> {
        let SocketAddr::V4(to) = self.to else { bail!("{} is not IPv4", self.to) };
        let socket = raw::here()?;
        let (from, mut pace) = (u32::from(self.from), Pace::new(self.per_second));
        thread::spawn(move || {
            for number in 0_u32.. {
                pace.wait();
                let port = (20_000 + number % 40_000) as u16;
                let from = SocketAddrV4::new(Ipv4Addr::from(from + number % 100), port);
                let syn = raw::tcp_syn(from, to, Checksum::Right);
                count(if raw::send(&socket, &syn, 1).is_ok() { "sent" } else { "unsent" });
            }
        });
        Ok(())
    }
}

/// Two sockets on two addresses and one port send at the same time, on two processors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Races {
    /// The addresses.
    pub from: [Ipv4Addr; 2],
    /// Where to.
    pub to: SocketAddr,
    /// Races a second.
    pub per_second: f64,
}

impl Races {
    pub(super) fn begin(&self) -> Result<()> {
        let [here, there, ..] = processor::each()?[..] else {
            bail!("a race needs two processors")
        };
        let arrived = Arc::new(AtomicUsize::new(0));
        let (put, take) = mpsc::channel::<(usize, UdpSocket)>();
        let (other, to) = (Arc::clone(&arrived), self.to);
        thread::spawn(move || {
            let _pinned = sched_setaffinity(None, &there);
            for (number, socket) in take {
                send(&socket, to, &other, number);
            }
        });
        let (from, mut pace) = (self.from, Pace::new(self.per_second));
        thread::spawn(move || {
            let _pinned = sched_setaffinity(None, &here);
            for (number, port) in (1..).zip((20_000..60_000).cycle()) {
                pace.wait();
                let sockets = from.map(|address| UdpSocket::bind((address, port)));
                let [Ok(one), Ok(two)] = sockets else { continue };
                // The other thread is there as long as this one.
                if put.send((number, two)).is_err() {
                    return;
                }
                send(&one, to, &arrived, number);
            }
        });
        Ok(())
    }
}

/// Sends when the other is as far.
fn send(socket: &UdpSocket, to: SocketAddr, arrived: &AtomicUsize, number: usize) {
    arrived.fetch_add(1, Ordering::SeqCst);
    while arrived.load(Ordering::SeqCst) < 2 * number {
        std::hint::spin_loop();
    }
    count(if socket.send_to(b"netdiag", to).is_ok() { "sent" } else { "unsent" });
}
