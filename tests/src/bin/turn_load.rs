//! What netdiag costs a conversation: requests and answers of a client and a server over loopback, as
//! fast as they go, untraced and traced by turns, with all signals and with each alone.
//!
//! `turn_load ROUNDS TURNS` prints one JSON object: `turns`, and per set of signals the throughput
//! while it was traced by that of the untraced turns before and after, one ratio for each round.

use std::{env, time::Instant};

use anyhow::{Result, bail};
use netdiag_common::signal::Signal;
use netdiag_tests::{
    namespace::Namespace,
    netdiag::Netdiag,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};
use serde_json::{Map, json};

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
    let mut ratios = vec![Vec::new(); sets.len()];
    let mut before = per_second(&connection, turns)?;
    for _ in 0..rounds {
        for ((_, arguments), ratios) in sets.iter().zip(&mut ratios) {
            let netdiag = Netdiag::live(arguments)?;
            let traced = per_second(&connection, turns)?;
            netdiag.stop()?;
            let after = per_second(&connection, turns)?;
            ratios.push(2.0 * traced / (before + after));
            before = after;
        }
    }
    let ratios: Map<_, _> = sets
        .iter()
        .zip(ratios)
        .map(|((name, _), ratios)| ((*name).to_owned(), json!(ratios)))
        .collect();
    println!("{}", json!({ "turns": turns, "untraced_per_second": before, "ratios": ratios }));
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
