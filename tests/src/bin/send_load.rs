//! What netdiag adds to a send: one thread holds both ends of a loopback connection, sends one byte
//! and receives it, and counts its own CPU time, without netdiag and with it by turns.
//!
//! `send_load ROUNDS SENDS [NETDIAG-ARGUMENT]...` prints one JSON object: `loop_ns`, the time of one
//! instruction of a known loop, and per round the time of a send `before_ns`, `traced_ns` and
//! `after_ns`, in nanoseconds of the thread's CPU clock. In a machine that counts instructions those
//! are instructions.

use std::{
    arch::asm,
    env,
    io::{Read as _, Write as _},
};

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    namespace::Namespace,
    netdiag::Netdiag,
    outcome,
    traffic::{Connection, Family},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Sends before each measurement: caches fill, windows open, netdiag meets the socket.
const WARM_UP: u32 = 2_000;
/// Turns of the known loop, of two instructions each.
const TURNS: u64 = 50_000_000;

const USAGE: &str = "usage: send_load ROUNDS SENDS [NETDIAG-ARGUMENT]...";

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = || arguments.next()?.parse().ok().filter(|&number: &u32| number > 0);
    let (Some(rounds), Some(sends)) = (number(), number()) else { anyhow::bail!(USAGE) };
    let tracing: Vec<String> = arguments.collect();
    let tracing: Vec<&str> = tracing.iter().map(String::as_str).collect();

    let here = Namespace::new("load")?;
    let mut connection = Connection::open(&here, &here, Family::V4)?;
    let mut before_ns = send_ns(&mut connection, sends)?;
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let netdiag = Netdiag::live(&tracing)?;
        let traced_ns = send_ns(&mut connection, sends)?;
        let total = netdiag.stop()?;
        let flow = outcome::flow_of(total.total()?, &connection.client_end()?)?;
        let (seen, made) = (outcome::count(flow, "sends"), u64::from(WARM_UP + sends));
        ensure!(seen == Some(made), "netdiag counted {seen:?} of {made} sends");
        let after_ns = send_ns(&mut connection, sends)?;
        measured.push(json!({
            "before_ns": before_ns,
            "traced_ns": traced_ns,
            "after_ns": after_ns,
        }));
        before_ns = after_ns;
    }
    println!("{}", json!({ "loop_ns": loop_ns(), "sends": sends, "rounds": measured }));
    Ok(())
}

/// CPU time of sending one byte and receiving it, the mean of `sends` times.
fn send_ns(connection: &mut Connection, sends: u32) -> Result<f64> {
    exchange(connection, WARM_UP)?;
    let start_ns = cpu_ns();
    exchange(connection, sends)?;
    Ok((cpu_ns() - start_ns) as f64 / f64::from(sends))
}

fn exchange(connection: &mut Connection, times: u32) -> Result<()> {
    let mut byte = [b'x'];
    for _ in 0..times {
        connection.client.write_all(&byte).context("send")?;
        connection.server.read_exact(&mut byte).context("receive")?;
    }
    Ok(())
}

/// CPU time of one instruction of a loop that no compiler has changed.
fn loop_ns() -> f64 {
    let start_ns = cpu_ns();
    let mut left = TURNS;
    // SAFETY: counts a register down to zero.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("2: dec {0}", "jnz 2b", inout(reg) left, options(nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) left, options(nomem, nostack));
    }
    (cpu_ns() - start_ns) as f64 / (2 * (TURNS - left)) as f64
}

/// CPU time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
