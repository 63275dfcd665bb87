//! What netdiag costs a conversation: requests and answers of a client and a server over loopback, as
//! fast as they go, untraced and traced by turns, with all signals and with each alone.
//!
//! `turn_load ROUNDS TURNS` prints one JSON object: `turns`, and per set of signals and round the turns in a
//! second `before`, while it was `traced`, and `after`.

use std::{env, time::Instant};

use anyhow::{Result, bail};
use netdiag_common::signal::Signal;
use netdiag_tests::{
    interleaved::between,
    namespace::Namespace,
    netdiag::Netdiag,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use serde_json::json;

/// Bytes of a request, and of its answer.
const BYTES: usize = 100;
/// Turns before each measurement: caches fill, netdiag meets the socket.
const WARM_UP: usize = 500;

const USAGE: &str = "usage: turn_load ROUNDS TURNS";

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = || arguments.next()?.parse().ok().filter(|&number: &usize| number > 0);
    let (Some(rounds), Some(turns)) = (number(), number()) else { bail!(USAGE) };

    let here = Namespace::new("load")?;
    let connection = Connection::open(&here, &here, Family::V4)?;
    let mut sets: Vec<(&str, Vec<&str>)> = vec![("all", vec![])];
    sets.extend(Signal::ALL.iter().map(|signal| (signal.name(), vec!["--signals", signal.name()])));
    let names: Vec<_> = sets.iter().map(|(name, _)| *name).collect();
    // On any machine but an idle one throughput differs by more than what netdiag takes of it: more rounds help, not
    // measuring again.
    let measured = between(&names, rounds, f64::INFINITY, |traced| {
        let netdiag = traced.map(|at| Netdiag::live(&sets[at].1)).transpose()?;
        let found = per_second(&connection, turns)?;
        if let Some(netdiag) = netdiag {
            netdiag.stop()?;
        }
        Ok(found)
    })?;
    println!("{}", json!({ "turns": turns, "per_second": measured }));
    Ok(())
}

/// Requests that are answered in a second.
fn per_second(connection: &Connection, turns: usize) -> Result<f64> {
    let conversation = |sends| Exchange { sends, bytes: BYTES, echo: true };
    exchange([(connection, conversation(WARM_UP))])?;
    let start = Instant::now();
    exchange([(connection, conversation(turns))])?;
    Ok(turns as f64 / start.elapsed().as_secs_f64())
}
