//! Turns with clocks of their own, at both ends.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow};
use netdiag_tests::{
    machine,
    traffic::{Connection, read_bytes, send_once},
};

/// Numbers that differ from run to run, unless `NETDIAG_SEED` says otherwise (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// Says with what it begins.
    pub(crate) fn new() -> Self {
        let given = std::env::var("NETDIAG_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |it| it.as_secs());
        let seed = given.unwrap_or_else(clock);
        eprintln!("NETDIAG_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Over a range of ten times its least.
    pub(crate) fn pause(&mut self) -> Duration {
        let least = machine::amount(3_000, 80_000);
        Duration::from_micros(least + self.below(9 * least))
    }
}

/// What a latency was, as far as the clocks of both ends can tell: between these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

/// What one turn must have been.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// What was set.
    pub(crate) think: Duration,
    /// What passed from before the request to behind the reply.
    pub(crate) passed: Duration,
    pub(crate) response: Bounds,
    pub(crate) service: Bounds,
}

/// How a request goes to the server and the reply back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes of the calls that make a request.
    pub(crate) request: &'static [usize],
    /// And of those that make a reply.
    pub(crate) reply: &'static [usize],
    /// How long the server takes.
    pub(crate) think: Duration,
}

/// When a call began and when it returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call(pub(crate) Instant, pub(crate) Instant);

pub(crate) fn timed(run: impl FnOnce() -> Result<()>) -> Result<Call> {
    let began = Instant::now();
    run()?;
    Ok(Call(began, Instant::now()))
}

/// One request and its reply, both ends with clocks of their own around every call.
pub(crate) fn turn(connection: &Connection, plan: Plan) -> Result<Turn> {
    let Plan { request, reply, think } = plan;
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<_> {
            let socket = &connection.server;
            let read = timed(|| read_bytes(socket, request.iter().sum()))?;
            thread::sleep(think);
            let mut replies = Vec::new();
            for &bytes in reply {
                replies.push(timed(|| send_once(socket, &vec![b'a'; bytes]))?);
            }
            Ok((read, replies))
        });
        let mut requests = Vec::new();
        for &bytes in request {
            requests.push(timed(|| send_once(&connection.client, &vec![b'q'; bytes]))?);
        }
        let got = timed(|| read_bytes(&connection.client, 1))?;
        read_bytes(&connection.client, reply.iter().sum::<usize>() - 1)?;
        let (read, replies) = server.join().map_err(|_| anyhow!("the server panicked"))??;
        let (first, last) = (requests[0], requests[requests.len() - 1]);
        let answered = replies[0];
        Ok(Turn {
            think,
            passed: got.1 - first.0,
            response: Bounds { least: answered.0 - last.1, most: got.1 - last.0 },
            service: Bounds { least: answered.0 - read.1, most: answered.1 - first.0 },
        })
    })
}
