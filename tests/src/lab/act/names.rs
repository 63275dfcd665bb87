//! A server of names and a resolver.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Pace, count, failed, took};

/// Flag of an answer, in the third byte.
const ANSWER: u8 = 0x80;
/// Flag of a server that recurses, in the fourth.
const RECURSES: u8 = 0x80;

/// What a server does with bad queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bad {
    /// Answers with this result code.
    Code(u8),
    /// Says nothing.
    Silence,
}

/// Answers queries for names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dns {
    /// Where it listens.
    pub at: SocketAddr,
    /// How long an answer takes.
    pub work: Duration,
    /// Queries in a thousand that it answers badly.
    pub bad: u64,
    /// How.
    pub how: Bad,
}

impl Dns {
    /// A quick one that fails at nothing.
    #[must_use]
    pub const fn at(at: SocketAddr) -> Self {
        Self { at, work: Duration::ZERO, bad: 0, how: Bad::Silence }
    }

    pub(super) fn begin(&self) -> Result<()> {
        let socket = UdpSocket::bind(self.at).with_context(|| format!("listen at {}", self.at))?;
        let this = self.clone();
        thread::spawn(move || {
            let mut room = [0; 512];
            for number in 0_u64.. {
                let Ok((length, from)) = socket.recv_from(&mut room) else { continue };
                let mut answer = room[..length].to_vec();
                if length < 4 {
                    continue;
                }
                answer[2] |= ANSWER;
                answer[3] = RECURSES;
                // Evenly among all, the first not: who asks but once asks well.
                let is_bad = (number + 1) * this.bad / 1000 > number * this.bad / 1000;
                match this.how {
                    Bad::Silence if is_bad => {
                        count("silent");
                        continue;
                    }
                    Bad::Code(code) if is_bad => answer[3] |= code,
                    _ => {}
                }
                count("answers");
                let (Ok(socket), work) = (socket.try_clone(), this.work) else { continue };
                thread::spawn(move || {
                    thread::sleep(work);
                    let _gone = socket.send_to(&answer, from);
                });
            }
        });
        Ok(())
    }
}

/// Asks for names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resolve {
    /// Whom.
    pub to: SocketAddr,
    /// Queries a second.
    pub per_second: f64,
    /// How long it waits for each answer.
    pub patience: Duration,
}

impl Resolve {
    pub(super) fn begin(&self) -> Result<()> {
        /// Each with a socket of its own, so that a slow answer delays only its own.
        const RESOLVERS: u32 = 8;
        for number in 0..RESOLVERS {
            let any: IpAddr = match self.to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(self.to)?;
            socket.set_read_timeout(Some(self.patience))?;
            let mut pace = Pace::new(self.per_second / f64::from(RESOLVERS));
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(7 * u64::from(number)));
                for id in 1_u16.. {
                    pace.wait();
                    let begun = Instant::now();
                    match ask(&socket, id) {
                        Ok(()) => took(begun),
                        Err(error) => failed(&error),
                    }
                }
            });
        }
        Ok(())
    }
}

/// Asks and waits for the answer to this very query.
fn ask(socket: &UdpSocket, id: u16) -> std::io::Result<()> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut query = [id, RECURSION_DESIRED, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    // `name.test`, type A, class IN.
    query.extend(b"\x04name\x04test\x00\x00\x01\x00\x01");
    count("queries");
    socket.send(&query)?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer)?;
        if length >= 4 && answer[..2] == id.to_be_bytes() {
            count(if answer[3] & 0xf == 0 { "answered" } else { "answered_badly" });
            return Ok(());
        }
    }
}
