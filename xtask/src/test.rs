//! `cargo xtask test`: every check, the unit tests, and the kernel-facing tests natively and on
//! each supported kernel.

mod binaries;
mod blessed;
pub(crate) mod hostile;
mod machines;
mod runner;
mod steps;
mod tally;

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::Write as _,
    panic,
    process::{Command, ExitCode},
    sync::{Mutex, OnceLock, PoisonError},
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Result, bail, ensure};

use self::{
    binaries::Binary,
    machines::{MACHINES, Machine},
    steps::{Output, Steps},
    tally::Tally,
};
use crate::{build, ebpf, image, process, sbom, setup, workspace};

/// Run every check and test
#[derive(clap::Args)]
#[command(
    after_help = "Steps: format, unit, native, image, cost, ratios, hostile, lints, licences, object, and vm-NAME for each
machine: vm-5.10, vm-6.1, vm-6.12 and vm-newest, each also with -two (processors) and -counting, vm-5.10 and
vm-newest with -more, vm-5.10 with -programs, and vm-6.12 with -preempt, -containers, -lockdown and -integrity. The
steps set-up, build-ebpf, build and build-tests come first where others need them, then native, then unit, then the
machines. Beside these run, on what they leave of the processors, build-units, which unit and hostile need, and
image, hostile, licences, lints, cost, ratios, object and the machines named -counting.

Examples:
  cargo xtask test                             everything
  cargo xtask test --only unit --only native   two steps
  cargo xtask test --only vm                   all steps whose name starts with vm
  cargo xtask test --only vm-5.10 -- retransmit    only kernel-facing tests named so, on 5.10
  cargo xtask test --only vm --test verifier   only those of one file, on each machine that has them"
)]
pub(crate) struct Args {
    /// Only steps whose name starts so
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,

    /// Only kernel-facing tests of a file in tests/tests, without its ending; machines that have none are left out
    #[arg(long, value_name = "FILE")]
    test: Vec<String>,

    /// Virtual machines and checks at a time; the tests in a machine wait for a third of their time
    #[arg(long, value_name = "N", default_value_t = 3)]
    jobs: usize,

    /// Arguments for the kernel-facing tests' runner
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// A step that can run beside others.
type Job<'a> = (&'static str, Box<dyn FnOnce(&mut Output) -> Result<Tally> + Send + 'a>);

/// The steps by name, but for those that only prepare others and those in machines.
const STEPS: [&str; 10] = [
    "format", "unit", "native", "image", "cost", "ratios", "hostile", "lints", "licences", "object",
];

/// Those that need nothing built.
const BARE: [&str; 4] = ["format", "lints", "licences", "object"];

/// Those that need the unit tests, and nothing else.
const UNITS: [&str; 2] = ["unit", "hostile"];

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let names: Vec<_> =
        STEPS.into_iter().chain(MACHINES.iter().map(|machine| machine.name)).collect();
    for only in &args.only {
        if !names.iter().any(|name| name.starts_with(only.as_str())) {
            bail!("--only {only} names no step, nothing was run: choose from {}", names.join(", "));
        }
    }
    for test in &args.test {
        if !workspace::root().join(format!("tests/tests/{test}.rs")).is_file() {
            bail!("--test {test} names no file in tests/tests, nothing was run");
        }
    }
    let steps = Steps::new(&args.only);
    steps.run("format", |output| {
        setup::linters()?;
        runner::check(process::cargo().args(["fmt", "--all", "--check"]), output)
    });
    let needing = names.iter().filter(|name| !BARE.contains(name) && steps.wants(name));
    let (units, programs): (Vec<&str>, Vec<&str>) =
        needing.copied().partition(|name| UNITS.contains(name));
    let (has_units, has_programs) = (!units.is_empty(), !programs.is_empty());
    let is_needed = has_units || has_programs;
    let built = if is_needed { build(&steps, has_programs, &args.test) } else { None };
    let is_ready = built.is_some();
    let built = built.unwrap_or_default();
    let mut left_out: Vec<&str> = Vec::new();
    if !is_ready {
        left_out.extend(units);
    }
    if built.is_empty() {
        left_out.extend(programs);
    }
    if !left_out.is_empty() {
        eprintln!("test: left out, for not all that they need was built: {}", left_out.join(", "));
    }
    let kept: OnceLock<Vec<Binary>> = OnceLock::new();
    // Who needs them first builds them.
    let units = || -> Result<&[Binary]> {
        let built = kept.get_or_init(|| build_units(&steps));
        ensure!(!built.is_empty(), "the unit tests are not built");
        Ok(built)
    };
    let is_native = !built.is_empty() && steps.wants("native");
    let is_narrow = !args.arguments.is_empty() || !args.test.is_empty();
    // Those that take longest come first, behind a machine whose clock goes on when it stands still.
    let mut checks: Vec<Job<'_>> = Vec::new();
    let mut machines: Vec<Job<'_>> = Vec::new();
    if !built.is_empty() {
        checks.push(("image", Box::new(image)));
    }
    if is_ready {
        let hostile = |output: &mut Output| hostile::run(units()?, hostile::SECONDS, None, output);
        checks.push(("hostile", Box::new(hostile)));
    }
    checks.push(("licences", Box::new(licences)));
    checks.push(("lints", Box::new(|output| lints(is_native, output))));
    if !built.is_empty() {
        checks.push(("cost", Box::new(cost)));
        checks.push(("ratios", Box::new(ratios)));
    }
    let is_used = |machine: &&Machine| built.iter().any(|binary| machine.has(binary));
    for machine in MACHINES.iter().filter(is_used) {
        // CPU time there is a count of instructions, so idle priority does not change a result.
        let beside = machine.counts && steps.wants("native");
        let jobs = if beside { &mut checks } else { &mut machines };
        jobs.push((machine.name, Box::new(|output| machine.run(&built, &args.arguments, output))));
    }
    checks.push(("object", Box::new(|_| object())));
    let jobs = args.jobs.max(1);
    thread::scope(|scope| {
        // On what others leave of the processors, to the end: tests on this machine wait for most of their time, those in
        // machines for a part of it, and what they measure is not to be held up.
        scope.spawn(|| {
            if let Err(error) = process::give_way() {
                eprintln!("test: tests on this machine may be held up by others: {error:#}");
            }
            // First and with nothing beside it: it holds cargo's lock, which a native test that builds waits for. Its step
            // tells how it went.
            if is_ready && has_units {
                let _ = units();
            }
            run_all(&steps, checks, jobs);
        });
        // Of few native tests that one may be the first.
        if is_ready && has_units && is_narrow {
            let _ = units();
        }
        if !built.is_empty() {
            steps.run("native", |output| native(&built, &args.arguments, output));
        }
        if is_ready && steps.wants("unit") {
            let units = units();
            steps.run("unit", |output| unit(units?, output));
        }
        // Not on what the native tests leave: a machine that gets no more stands still for seconds, and its kernel takes
        // packets for lost.
        run_all(&steps, machines, jobs);
    });
    // A machine may have none of the tests that were asked for, but not all of them.
    let takes_arguments =
        |name: &str| name == "native" || MACHINES.iter().any(|machine| machine.name == name);
    let none = is_narrow && !steps.failed() && steps.ended(takes_arguments) == 0;
    let code = steps.report();
    if none {
        bail!(
            "{:?} {:?} names no kernel-facing test of the steps that ran: nothing was tested",
            args.test,
            args.arguments
        );
    }
    Ok(code)
}

/// Sets up what tests need and builds the eBPF object, and where `with_programs` netdiag and the kernel-facing tests: those of
/// these files, or all. Gives these, or none where they do not build; nothing where nothing can be built or run at all.
fn build(steps: &Steps<'_>, with_programs: bool, only: &[String]) -> Option<Vec<Binary>> {
    thread::scope(|scope| {
        // It waits for others for the most part, and nothing of it is what builds.
        let tools = scope.spawn(|| {
            steps.always("set-up", |_| {
                setup::test_tools()?;
                if steps.wants("ratios") {
                    setup::bench_tools()?;
                }
                Ok(Tally::default())
            })
        });
        let has_object = steps.always("build-ebpf", |_| build::object().map(|()| Tally::default()));
        let has_programs = has_object && with_programs;
        let built = if has_programs { build_programs(steps, only) } else { Vec::new() };
        (succeeded(tools) && has_object).then_some(built)
    })
}

/// netdiag and the kernel-facing tests; empty when that failed.
fn build_programs(steps: &Steps<'_>, only: &[String]) -> Vec<Binary> {
    let mut built = Vec::new();
    // Of another profile, in a directory of its own: neither waits for the other one, nor for all processors.
    let is_built = thread::scope(|scope| {
        let program = scope
            .spawn(|| steps.always("build", |_| build::binary(true).map(|_| Tally::default())));
        let has_tests = steps.always("build-tests", |_| {
            built = binaries::kernel_facing(only)?;
            Ok(Tally::default())
        });
        succeeded(program) && has_tests
    });
    if is_built { built } else { Vec::new() }
}

/// The unit tests; empty when that failed. Of all tests netdiag's take longest to build, as it does itself.
fn build_units(steps: &Steps<'_>) -> Vec<Binary> {
    let mut built = Vec::new();
    steps.always("build-units", |_| {
        built = binaries::units()?;
        Ok(Tally::default())
    });
    built
}

/// Whether the step of another thread succeeded.
fn succeeded(step: ScopedJoinHandle<'_, bool>) -> bool {
    step.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
}

/// Runs the jobs that were asked for, `workers` at a time, each with this thread's priority.
fn run_all(steps: &Steps<'_>, jobs: Vec<Job<'_>>, workers: usize) {
    let waiting = Mutex::new(VecDeque::from(jobs));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((name, job)) = next() {
                    steps.run(name, job);
                }
            });
        }
    });
}

fn unit(built: &[Binary], output: &mut Output) -> Result<Tally> {
    let mut tally = Tally::default();
    for binary in built {
        writeln!(output, "== {}", binary.name)?;
        tally += runner::tests(
            Command::new(&binary.path)
                .current_dir(&binary.directory)
                .env("CARGO_MANIFEST_DIR", &binary.directory)
                .arg("--show-output"),
            output,
        )?;
    }
    let workspace = ["test", "--workspace", "--exclude", "netdiag-ebpf", "--quiet", "--doc"];
    tally += runner::tests(binaries::cargo().args(workspace), output)?;
    Ok(tally)
}

/// The kernel-facing tests on this machine, with the binary that is shipped.
fn native(built: &[Binary], arguments: &[OsString], output: &mut Output) -> Result<Tally> {
    let netdiag = workspace::netdiag("release");
    let mut tally = Tally::default();
    for binary in built {
        eprintln!("test: native: {}", binary.name);
        writeln!(output, "== {}", binary.name)?;
        let mut command = process::as_root("env")?;
        command
            .current_dir(&binary.directory)
            .arg(format!("NETDIAG_BIN={}", netdiag.display()))
            .args(blessed::variable())
            .arg(&binary.path)
            .arg("--show-output")
            .args(arguments);
        let began = Instant::now();
        tally += runner::tests(&mut command, output)?;
        tally.took.push((binary.name.clone(), began.elapsed().as_secs()));
    }
    Ok(tally)
}

/// The image's root file system: its size, and that netdiag finds all it needs in it.
fn image(output: &mut Output) -> Result<Tally> {
    let (root, _) = image::root_file_system(&workspace::netdiag("release"))?;
    let mut command = Command::new(workspace::xtask()?);
    command.args(["vm", "--no-build", "--kernel", "6.12"]);
    command.args(["--timeout", &machines::SECONDS.to_string()]);
    command.arg(format!("--bring={}=/image", root.display()));
    runner::check(command.args(["--", "sh", "-c", image::DOCTOR]), output)
}

/// What a send costs, in instructions of each kernel, and on one of them what it costs by its other sources and what all
/// else costs.
fn cost(output: &mut Output) -> Result<Tally> {
    let benchmarks = [
        "--kernel 6.12 --every",
        "--alone --kernel newest --source fexit",
        "--alone --kernel 6.1 --source fexit",
        "--alone --kernel 5.10 --source fexit",
    ];
    counted(&benchmarks, output)
}

/// What a send costs of what it costs with other tracers, in instructions as well.
fn ratios(output: &mut Output) -> Result<Tally> {
    counted(&["--kernel 6.12 --source fexit", "--kernel 6.12 --source kprobe"], output)
}

/// Runs benchmarks in machines that count instructions, of which one round is as good as many.
fn counted(benchmarks: &[&str], output: &mut Output) -> Result<Tally> {
    let mut tally = Tally::default();
    for options in benchmarks {
        let mut command = Command::new(workspace::xtask()?);
        command.args(["bench", "--no-build", "--icount", "--rounds", "1"]);
        tally += runner::check(command.args(options.split(' ')), output)?;
    }
    Ok(tally)
}

/// Where `is_native`, one of the native tests builds meanwhile, for which cargo's lock is to be free: then they have a
/// directory of their own.
fn lints(is_native: bool, output: &mut Output) -> Result<Tally> {
    setup::linters()?;
    let mut command = binaries::cargo();
    if is_native {
        command.env("CARGO_TARGET_DIR", workspace::target().join("lints"));
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    runner::check(command.args(clippy), output)
}

/// Licences and sources of what netdiag is built from, and that it can be listed.
fn licences(output: &mut Output) -> Result<Tally> {
    let deny = setup::cargo_deny()?;
    let options = ["--log-level", "error", "--locked", "check", "licenses", "bans", "sources"];
    let tally =
        runner::check(Command::new(deny).current_dir(workspace::root()).args(options), output)?;
    sbom::write().map(|()| tally)
}

/// That the programs of the kernel can be built again, byte by byte.
fn object() -> Result<Tally> {
    ebpf::reproduce(&setup::build_tools()?).map(|()| Tally::default())
}
