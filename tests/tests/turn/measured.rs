//! Turns with clocks of their own, at both ends.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use netdiag_tests::traffic::{Connection, read_bytes, send_once};

/// What a latency was, as far as the clocks of both ends can tell: between these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

/// How much longer than the calls of a request the server takes at least: those of one that is answered
/// sooner may be requests of their own.
const LONGER: u32 = 20;

/// What one turn must have been.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// What was set, or more where the machine held the calls of the request apart.
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
    let (asked, took) = mpsc::channel::<Duration>();
    thread::scope(move |scope| {
        let server = scope.spawn(move || -> Result<_> {
            let socket = &connection.server;
            let read = timed(|| read_bytes(socket, request.iter().sum()))?;
            let think = think.max(took.recv()? * LONGER);
            thread::sleep(think);
            let mut replies = Vec::new();
            for &bytes in reply {
                replies.push(timed(|| send_once(socket, &vec![b'a'; bytes]))?);
            }
            Ok((think, read, replies))
        });
        let mut requests = Vec::new();
        for &bytes in request {
            requests.push(timed(|| send_once(&connection.client, &vec![b'q'; bytes]))?);
        }
        let (first, last) = (requests[0], requests[requests.len() - 1]);
        asked.send(last.1 - first.0)?;
        let got = timed(|| read_bytes(&connection.client, 1))?;
        read_bytes(&connection.client, reply.iter().sum::<usize>() - 1)?;
        let (think, read, replies) =
            server.join().map_err(|_| anyhow!("the server panicked"))??;
        let answered = replies[0];
        Ok(Turn {
            think,
            passed: got.1 - first.0,
            response: Bounds { least: answered.0 - last.1, most: got.1 - last.0 },
            service: Bounds { least: answered.0 - read.1, most: answered.1 - first.0 },
        })
    })
}
