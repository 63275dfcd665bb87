//! A server: a thread for each connection, an answer for each request.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{count, listen, took};
use crate::random::Random;

/// Bytes of a request that say how long it is and how long its answer shall be.
pub(super) const HEADER: usize = 8;

/// Answers requests, and says how long it worked on each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serve {
    /// Where it listens.
    pub at: Vec<SocketAddr>,
    /// What it works on each request at least.
    pub work: Duration,
    /// Up to how much longer, at random.
    pub spread: Duration,
    /// One of so many requests takes `long`; 0: none does.
    pub one_in: u64,
    /// See there.
    pub long: Duration,
    /// Works with the processor instead of waiting.
    pub burns: bool,
    /// Resets one of so many connections instead of an answer; 0: none.
    pub resets_one_in: u64,
    /// After this time it answers no more, and resets who asks.
    pub ends_after: Option<Duration>,
    /// Keeps its end when the client has closed: it leaks.
    pub leaks: bool,
    /// Connections that may wait for it.
    pub backlog: i32,
}

impl Serve {
    /// A quick server.
    #[must_use]
    pub const fn at(at: Vec<SocketAddr>) -> Self {
        Self {
            at,
            work: Duration::ZERO,
            spread: Duration::ZERO,
            one_in: 0,
            long: Duration::ZERO,
            burns: false,
            resets_one_in: 0,
            ends_after: None,
            leaks: false,
            backlog: 1024,
        }
    }

    pub(super) fn begin(&self) -> Result<()> {
        let begun = Instant::now();
        for &at in &self.at {
            let listener = listen(at, self.backlog, None)?;
            let this = self.clone();
            thread::spawn(move || {
                for (number, stream) in (1..).zip(listener.incoming()) {
                    let Ok(stream) = stream else { continue };
                    let this = this.clone();
                    thread::spawn(move || {
                        let resets = this.resets_one_in > 0 && number % this.resets_one_in == 0;
                        let _ended = this.answer(&stream, number, || {
                            resets || this.ends_after.is_some_and(|end| begun.elapsed() > end)
                        });
                        if this.leaks {
                            std::mem::forget(stream);
                        }
                    });
                }
            });
        }
        Ok(())
    }

    /// Answers a connection until it ends.
    fn answer(
        &self,
        mut stream: &TcpStream,
        number: u64,
        resets: impl Fn() -> bool,
    ) -> io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        let mut random = Random::of(number);
        loop {
            let mut header = [0; HEADER];
            stream.read_exact(&mut header)?;
            let [request, reply] = [&header[..4], &header[4..]]
                .map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
            stream.read_exact(&mut vec![0; request.saturating_sub(HEADER)])?;
            if resets() {
                count("resets");
                sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
                return Ok(());
            }
            let begun = Instant::now();
            self.work(&mut random);
            took(begun);
            stream.write_all(&vec![b'y'; reply])?;
            count("answers");
        }
    }

    fn work(&self, random: &mut Random) {
        let spread = random.below(self.spread.as_micros().max(1) as u64);
        let is_long = self.one_in > 0 && random.below(self.one_in) == 0;
        let least = if is_long { self.long } else { self.work };
        let work = least + Duration::from_micros(spread);
        if self.burns {
            // The work itself, however long that takes: turns of a loop, not time.
            let turns = 3 * work.as_nanos() as u64;
            std::hint::black_box(
                (0..turns).fold(0_u64, |sum, turn| std::hint::black_box(sum ^ turn)),
            );
        } else if work > Duration::ZERO {
            let until = Instant::now() + work;
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }
}
