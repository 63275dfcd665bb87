//! What tracers take while there is nothing to see: netdiag with all signals, and by turns with it bpftrace where its
//! script is named.
//!
//! Prints one JSON object: per tracer and round `cpu_percent` of one processor, `resident_mb`, and `machine_percent`,
//! the part of all processors that worked meanwhile, whoever for: on a busy machine there is something to see.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use netdiag_tests::{
    beside::{Script, Tracer},
    interleaved::order,
    processor::Work,
    usage,
};
use serde_json::{Value, json};

/// What is done once is done by then, and what was needed for it given back.
const SETTLING: Duration = Duration::from_secs(10);
/// Bytes.
const MB: f64 = 1_000_000.0;

/// Measures what tracers take while there is nothing to see.
#[derive(Parser)]
struct Args {
    /// Times that each is measured
    rounds: usize,

    /// Seconds of each measurement
    seconds: u64,

    /// bpftrace as well, with this script
    script: Option<Script>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let time = Duration::from_secs(args.seconds);
    let mut tracers = vec![("netdiag", Tracer::Netdiag(Vec::new()))];
    tracers.extend(args.script.map(|script| ("bpftrace", Tracer::Bpftrace(script))));
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for round in 0..args.rounds {
        for at in order(round, tracers.len()) {
            let (name, tracer) = &tracers[at];
            all.entry(name).or_default().push(taken(tracer, time).context(*name)?);
        }
    }
    println!("{}", json!({ "tracers": all }));
    Ok(())
}

/// What a tracer takes in that time.
fn taken(tracer: &Tracer, time: Duration) -> Result<Value> {
    let running = tracer.start()?;
    thread::sleep(SETTLING);
    let (began, work) = (Instant::now(), Work::so_far()?);
    let before = usage::cpu_time(running.pid())?;
    thread::sleep(time);
    let took = usage::cpu_time(running.pid())?.saturating_sub(before);
    let cpu = took.as_secs_f64() / began.elapsed().as_secs_f64();
    let machine = Work::so_far()?.share_since(work);
    let memory = usage::memory(running.pid())?;
    Ok(json!({
        "cpu_percent": 100.0 * cpu,
        "resident_mb": memory.resident_bytes as f64 / MB,
        "machine_percent": 100.0 * machine,
    }))
}
