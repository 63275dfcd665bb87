//! How long tracers take from their `exec` to their first data, the first send that counts and the first line that
//! says so: netdiag with all signals, and by turns with it bpftrace where its script is named.
//!
//! Prints one JSON object: per tracer and round `first_event_ms` and `first_line_ms`.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use netdiag::snapshot::Account;
use netdiag_tests::{
    beside::{Script, Telling},
    interleaved::order,
    namespace::Namespace,
    netdiag::Netdiag,
    outcome,
    traffic::{Connection, Family, name_process},
};
use serde_json::{Value, json};

/// Between two sends: the first that counts may be late by as much.
const PAUSE: Duration = Duration::from_micros(500);
/// The name by which bpftrace knows who sends.
const NAME: &str = "start_load";

/// Measures how long tracers take to their first data.
#[derive(Parser)]
struct Args {
    /// Times that each is started
    rounds: usize,

    /// bpftrace as well, with this script; tracefs is mounted
    script: Option<Script>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    name_process(NAME)?;
    let here = Namespace::new("start")?;
    let mut connection = Connection::open(&here, &here, Family::V4)?;
    let mut tracers = vec![("netdiag", None)];
    tracers.extend(args.script.map(|script| ("bpftrace", Some(script))));
    let mut starts: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for round in 0..args.rounds {
        for at in order(round, tracers.len()) {
            let (name, script) = tracers[at];
            let start = start(script, &mut connection).context(name)?;
            starts.entry(name).or_default().push(start);
        }
    }
    println!("{}", json!({ "tracers": starts }));
    Ok(())
}

/// Starts a tracer while a thread sends all the time, and ends it as soon as it has told something.
fn start(script: Option<Script>, connection: &mut Connection) -> Result<Value> {
    let over = AtomicBool::new(false);
    let (told, began, line, sends) = thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&over, connection));
        let began = Instant::now();
        let told = Told::begin(script);
        let line = began.elapsed();
        // Whatever came of it, or nobody ends the sender.
        over.store(true, Relaxed);
        (told, began, line, sender.join().expect("the sender panicked"))
    });
    let (counted, sends) = (told?.stop(connection)?, sends?);
    // Those that it missed are the first ones.
    let missed = (sends.len() as u64).checked_sub(counted).context("it counted more than all")?;
    let first = sends.get(missed as usize).context("it counted nothing")?;
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let event = first.duration_since(began);
    Ok(json!({ "first_event_ms": ms(event), "first_line_ms": ms(line) }))
}

/// Sends a byte and reads it, again and again until it is over; when each send began.
fn send_until(over: &AtomicBool, connection: &mut Connection) -> Result<Vec<Instant>> {
    let mut began = Vec::new();
    let mut byte = [b'x'];
    while !over.load(Relaxed) {
        began.push(Instant::now());
        connection.client.write_all(&byte).context("send")?;
        connection.server.read_exact(&mut byte).context("receive")?;
        thread::sleep(PAUSE);
    }
    Ok(began)
}

/// A tracer that has told something.
enum Told {
    Netdiag(Netdiag),
    Bpftrace(Telling),
}

impl Told {
    /// Both tell ten times a second.
    fn begin(script: Option<Script>) -> Result<Self> {
        if let Some(script) = script {
            return Telling::begin(script, NAME).map(Self::Bpftrace);
        }
        let mut netdiag = Netdiag::begin(&["live", "-o", "json", "-i", "100ms", "-d", "10h"])?;
        netdiag.wait_lines_in_all(1)?;
        Ok(Self::Netdiag(netdiag))
    }

    /// Ends it and gives the sends that it has counted.
    fn stop(self, connection: &Connection) -> Result<u64> {
        let netdiag = match self {
            Self::Netdiag(netdiag) => netdiag,
            Self::Bpftrace(telling) => return telling.stop(),
        };
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        let lost = total.accounting.get("send").map_or(0, Account::lost);
        ensure!(lost == 0, "{lost} sends are lost: the first that counts is not known");
        let flow = outcome::flow_of(total, &connection.client_end()?)?;
        outcome::count(flow, "sends").context("sends are not counted")
    }
}
