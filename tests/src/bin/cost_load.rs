//! What tracers add to something that a thread does again and again: the thread counts its own CPU time, untraced and
//! traced by turns: by netdiag, and by others where they are named.
//!
//! Prints one JSON object: `loop_ns`, the time of one instruction of a known loop, and per tracer and
//! round what it takes once `before`, `traced` and `after`, in nanoseconds of the thread's CPU clock. In a
//! machine that counts instructions those are instructions.

use std::{
    arch::asm,
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use netdiag_tests::{
    beside::{Script, Tracer},
    interleaved::between,
    load::{Kind, Load},
    namespace::Namespace,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Part of what it takes by which the untraced ones before and after may differ.
const STEADY: f64 = 0.03;
/// Turns of the known loop, of two instructions each.
const TURNS: u64 = 50_000_000;

/// Measures what tracers add to what a thread does.
#[derive(Parser)]
struct Args {
    /// What it does
    #[arg(long, value_enum, default_value_t = Kind::Send)]
    load: Kind,

    /// Times that each tracer is measured, between two measurements without
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How often it is done in each measurement
    #[arg(long, default_value_t = 100_000)]
    times: u32,

    /// Directory with `load` and objects NAME.o for it, tracers as well
    #[arg(long, value_name = "DIRECTORY")]
    objects: Option<PathBuf>,

    /// bpftrace as well, with this script
    #[arg(long, value_name = "SCRIPT")]
    bpftrace: Option<Script>,

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
    if let Some(script) = args.bpftrace {
        tracers.push(("bpftrace".to_owned(), Tracer::Bpftrace(script)));
    }

    // What reads netdiag's output is a thread, and the kernel counts references to the files of a process with
    // several: 90 instructions for each turn. So there are several untraced, too.
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    let here = Namespace::new("load")?;
    let (kind, times) = (args.load, args.times);
    let mut bench = Bench { kind, load: kind.start(&here)?, here: &here, times };
    let names: Vec<_> = tracers.iter().map(|(name, _)| name.as_str()).collect();
    let measured = between(&names, args.rounds, STEADY, |traced| match traced {
        None => bench.once_ns(),
        Some(at) => {
            let (name, tracer) = &tracers[at];
            bench.traced_ns(tracer).with_context(|| name.clone())
        }
    });
    let measured = measured.with_context(|| format!("{kind:?}"))?;
    println!("{}", json!({ "loop_ns": loop_ns(), "times": times, "tracers": measured }));
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

/// A load, and how often it is run.
struct Bench<'a> {
    kind: Kind,
    load: Box<dyn Load + 'a>,
    here: &'a Namespace,
    times: u32,
}

impl Bench<'_> {
    /// How often in all of a measurement.
    fn made(&self) -> u64 {
        u64::from(self.kind.warm_up() + self.times / self.kind.stretch() * self.kind.stretch())
    }

    /// [`Self::once_ns`] while it is traced. A tracer that has missed some would seem cheaper than it is.
    fn traced_ns(&mut self, tracer: &Tracer) -> Result<f64> {
        let running = tracer.start()?;
        let traced_ns = self.once_ns()?;
        let (counted, made) = (running.stop(|total| self.load.told(total))?, self.made());
        // What counts events of the machine may have counted others' as well.
        let all = counted.is_none_or(|counted| match tracer {
            Tracer::Netdiag(_) => counted == made,
            Tracer::Bpftrace(_) | Tracer::Object { .. } => counted >= made,
        });
        ensure!(all, "it counted {counted:?} of {made} times");
        Ok(traced_ns)
    }

    /// CPU time of one, in the fastest of all stretches. What takes longer has been interrupted, or shared its core.
    fn once_ns(&mut self) -> Result<f64> {
        let (warm_up, stretch) = (self.kind.warm_up(), self.kind.stretch());
        let before = self.load.happened()?;
        let (load, stretches) = (&mut self.load, self.times / stretch);
        // Sockets are made where the thread is.
        let fastest_ns = self.here.run(|| -> Result<_> {
            load.run(warm_up)?;
            let mut fastest_ns = None;
            for _ in 0..stretches {
                let start_ns = cpu_ns();
                load.run(stretch)?;
                let took_ns = cpu_ns() - start_ns;
                fastest_ns = Some(fastest_ns.map_or(took_ns, |fastest: u64| fastest.min(took_ns)));
            }
            fastest_ns.with_context(|| format!("fewer than {stretch} times"))
        })?;
        if let (Some(before), Some(after)) = (before, self.load.happened()?) {
            let (happened, made) = (after - before, self.made());
            ensure!(happened == made, "the kernel counted {happened} of {made} times");
        }
        Ok(fastest_ns as f64 / f64::from(stretch))
    }
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
