//! What tracing adds to a send, or to what another signal tells of: here or in a machine that counts instructions,
//! beside other tracers or alone.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Args,
    baseline::Held,
    cost::{self, Measured, Unit},
    others::{self, Others},
    ratios::{NATIVE, Ratios},
    traced::Traced,
};
use crate::{
    build, process, setup,
    vm::{self, Counted},
    workspace,
};

/// The program that is traced.
const LOAD: &str = "cost_load";

/// What is run, and with which other tracers.
struct Plan {
    netdiag: PathBuf,
    load: PathBuf,
    traced: Traced,
    /// None where netdiag is measured alone.
    others: Option<Others>,
}

pub(super) fn main(args: &Args) -> Result<ExitCode> {
    if args.icount {
        setup::vm_tools()?;
    }
    let plan = Plan::new(args)?;
    let Counted { series, build, output } =
        if args.icount { plan.count(args) } else { plan.time(args) }?;
    let unit = if args.icount { Unit::Instructions } else { Unit::Nanoseconds };
    let measured = Measured::parse(&output, unit)?;
    let Traced { name: traced, load, .. } = &plan.traced;
    eprint!("bench: {series}, {traced}: {}", measured.table(unit, load));
    let mut json = measured.json(unit);
    json["load"] = Value::from(*load);
    json["kernel"] = Value::from(series.as_str());
    json["build"] = Value::from(build);
    json["traced"] = Value::from(traced.as_str());
    let mut worse = Vec::new();
    if plan.others.is_some() {
        let ratios = Ratios::of(&measured, &series, traced)?;
        eprint!("{}", ratios.table());
        json["ratios"] = ratios.json();
        json["others"] = others::versions()?;
        worse.extend(ratios.over());
    }
    if args.icount && args.arguments.is_empty() {
        let held = Held::new(&series, traced, cost::added(measured.netdiag()).median)?;
        eprintln!("bench: {}", held.line());
        json["held"] = held.json();
        worse.extend(held.worse());
    }
    println!("{json}");
    if !worse.is_empty() {
        bail!(
            "netdiag costs more than benches/ allows, make its programs cheaper: {}",
            worse.join("; ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let (netdiag, load) = if args.no_build {
            (workspace::netdiag("release"), workspace::host_target()?.join("debug").join(LOAD))
        } else {
            (build::netdiag(true)?, build::load(LOAD)?)
        };
        let traced = match (&args.signals, &args.source) {
            (Some(signals), _) => Traced::signals(signals, &args.arguments),
            (None, Some(source)) => Traced::sends(source, &args.arguments),
            (None, None) if args.icount => Traced::sends("fexit", &args.arguments),
            (None, None) => Traced::sends(&source_here(&netdiag)?, &args.arguments),
        };
        let others = if args.alone { None } else { Others::build(&traced)? };
        Ok(Self { netdiag, load, traced, others })
    }

    /// The load's arguments, with the other tracers' objects in a directory.
    fn load_arguments(&self, args: &Args, objects: &str) -> Vec<String> {
        let (rounds, times) = (args.rounds().to_string(), args.times(&self.traced).to_string());
        let options = ["--load", self.traced.load, "--rounds", &rounds, "--times", &times];
        let mut all = options.map(str::to_owned).to_vec();
        if let Some(others) = &self.others {
            if others.objects.is_some() {
                all.extend(["--objects", objects].map(str::to_owned));
            }
            all.extend(["--bpftrace", others.bpftrace].map(str::to_owned));
        }
        all.push("--".to_owned());
        all.extend_from_slice(&self.traced.arguments);
        all
    }

    /// Where the objects of other tracers are.
    fn objects(&self) -> Option<String> {
        Some(self.others.as_ref()?.objects.as_ref()?.display().to_string())
    }

    /// By the time of this machine.
    fn time(&self, args: &Args) -> Result<Counted> {
        let mut command = process::as_root("env")?;
        command.arg(format!("NETDIAG_BIN={}", self.netdiag.display())).arg(&self.load);
        command.args(self.load_arguments(args, &self.objects().unwrap_or_default()));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let output = process::output(command.stderr(Stdio::inherit()))?;
        Ok(Counted { series: NATIVE.to_owned(), build: release, output })
    }

    /// By the instructions of a guest.
    fn count(&self, args: &Args) -> Result<Counted> {
        let mut command = vec![format!("./{LOAD}")];
        command.extend(self.load_arguments(args, "others"));
        let mut bring = vec![self.load.display().to_string()];
        bring.extend(self.objects().map(|objects| format!("{objects}=others")));
        let with = self.others.iter().map(|_| "bpftrace".to_owned()).collect();
        vm::count(&args.kernel, &self.netdiag, bring, with, &command)
    }
}

/// The source of `send` that netdiag takes on this machine.
fn source_here(netdiag: &Path) -> Result<String> {
    let mut command = process::as_root(netdiag)?;
    command.args(["doctor", "--signals", "send", "-o", "json"]);
    let said: Value = serde_json::from_str(&process::output(&mut command)?)?;
    let signals = said["signals"].as_array().context("netdiag's doctor names no signals")?;
    let send = signals.iter().find(|signal| signal["signal"] == "send");
    let source = send.and_then(|send| send["source"].as_str());
    Ok(source.context("netdiag cannot trace sends on this kernel: see netdiag doctor")?.to_owned())
}
