//! What tracers add to a send: one thread holds both ends of a loopback connection, sends one byte and
//! receives it, and counts its own CPU time, untraced and traced by turns: by netdiag, and by others where
//! they are named.
//!
//! Prints one JSON object: `loop_ns`, the time of one instruction of a known loop, and per tracer and
//! round the time of a send `before_ns`, `traced_ns` and `after_ns`, in nanoseconds of the thread's CPU
//! clock. In a machine that counts instructions those are instructions.

use std::{
    arch::asm,
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    mem,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use netdiag_tests::{
    beside::{Hooks, Tracer},
    namespace::Namespace,
    traffic::{Connection, Family},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Sends before each measurement: caches fill, windows open, netdiag meets the socket.
const WARM_UP: u32 = 2_000;
/// Sends that are timed at once: ten of netdiag's batches.
const STRETCH: u32 = 640;
/// Part of a send by which the untraced ones before and after may differ. Where they do by more, the machine has
/// become another between them: other work began on its cores, or ended.
const STEADY: f64 = 0.03;
/// Times that a measurement is tried until it is steady.
const TRIES: usize = 5;
/// Turns of the known loop, of two instructions each.
const TURNS: u64 = 50_000_000;

/// Measures what tracers add to a send.
#[derive(Parser)]
struct Args {
    /// Times that each tracer is measured, between two measurements without
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Sends in each measurement
    #[arg(long, default_value_t = 100_000)]
    sends: u32,

    /// Directory with `load` and objects NAME.o for it, tracers as well
    #[arg(long, value_name = "DIRECTORY")]
    objects: Option<PathBuf>,

    /// bpftrace as well, with its script on these hooks
    #[arg(long, value_name = "HOOKS")]
    bpftrace: Option<Hooks>,

    /// Arguments for `netdiag live`
    #[arg(last = true)]
    arguments: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut tracers = vec![("netdiag".to_owned(), Tracer::Netdiag(args.arguments))];
    if let Some(directory) = args.objects {
        tracers.extend(objects(&directory)?);
    }
    if let Some(hooks) = args.bpftrace {
        tracers.push(("bpftrace".to_owned(), Tracer::Bpftrace(hooks)));
    }

    // What reads netdiag's output is a thread, and the kernel counts references to the files of a process with
    // several: 90 instructions for each turn. So there are several untraced, too.
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    let here = Namespace::new("load")?;
    let mut connection = Connection::open(&here, &here, Family::V4)?;
    let mut measured: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let mut before_ns = send_ns(&mut connection, args.sends)?;
    for round in 0..args.rounds {
        // Each follows each other one some time.
        for at in 0..tracers.len() {
            let (name, tracer) = &tracers[(at + round) % tracers.len()];
            for tried in 1..=TRIES {
                let traced_ns =
                    traced_ns(tracer, &mut connection, args.sends).with_context(|| name.clone())?;
                let after_ns = send_ns(&mut connection, args.sends)?;
                let before_ns = mem::replace(&mut before_ns, after_ns);
                let steady = (after_ns - before_ns).abs() <= STEADY * after_ns.min(before_ns);
                if !steady && tried == TRIES {
                    eprintln!(
                        "{name}: untraced sends took {before_ns:.0} ns before and {after_ns:.0} ns after, at the \
                         last of {TRIES} tries as well: the machine was busy, this round says little"
                    );
                }
                if steady || tried == TRIES {
                    measured.entry(name).or_default().push(json!({
                        "before_ns": before_ns,
                        "traced_ns": traced_ns,
                        "after_ns": after_ns,
                    }));
                    break;
                }
            }
        }
    }
    println!("{}", json!({ "loop_ns": loop_ns(), "sends": args.sends, "tracers": measured }));
    Ok(())
}

/// The objects in a directory, as tracers by their names.
fn objects(directory: &Path) -> Result<Vec<(String, Tracer)>> {
    let mut tracers = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let object = entry?.path();
        if object.extension().is_some_and(|extension| extension == "o") {
            let name = object.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            tracers.push((name, Tracer::Object { loader: directory.join("load"), object }));
        }
    }
    tracers.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tracers)
}

/// [`send_ns`] while it is traced. One that has missed sends would seem cheaper than it is.
fn traced_ns(tracer: &Tracer, connection: &mut Connection, sends: u32) -> Result<f64> {
    let running = tracer.start()?;
    let traced_ns = send_ns(connection, sends)?;
    let (counted, made) =
        (running.stop(connection)?, u64::from(WARM_UP + sends / STRETCH * STRETCH));
    // What counts sends of the machine may have counted others' as well.
    let all = counted.is_none_or(|counted| match tracer {
        Tracer::Netdiag(_) => counted == made,
        Tracer::Bpftrace(_) | Tracer::Object { .. } => counted >= made,
    });
    ensure!(all, "it counted {counted:?} of {made} sends");
    Ok(traced_ns)
}

/// CPU time of sending one byte and receiving it, in the fastest of all stretches. What takes longer has been
/// interrupted, or shared its core.
fn send_ns(connection: &mut Connection, sends: u32) -> Result<f64> {
    exchange(connection, WARM_UP)?;
    let mut fastest_ns = None;
    for _ in 0..sends / STRETCH {
        let start_ns = cpu_ns();
        exchange(connection, STRETCH)?;
        let took_ns = cpu_ns() - start_ns;
        fastest_ns = Some(fastest_ns.map_or(took_ns, |fastest: u64| fastest.min(took_ns)));
    }
    let fastest_ns = fastest_ns.with_context(|| format!("fewer than {STRETCH} sends"))?;
    Ok(fastest_ns as f64 / f64::from(STRETCH))
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
