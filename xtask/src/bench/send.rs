//! What tracing adds to a send: here or in a machine that counts instructions, beside other tracers or alone.

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
};
use crate::{
    build, process, setup,
    vm::{self, Counted},
    workspace,
};

/// What is run, and with which other tracers.
struct Plan {
    netdiag: PathBuf,
    load: PathBuf,
    /// What is traced: a source of the signal `send`, another signal, or `all`.
    traced: String,
    /// None where netdiag is measured alone.
    others: Option<Others>,
    /// Arguments for netdiag.
    arguments: Vec<String>,
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
    let traced = plan.traced.as_str();
    eprint!("bench: {series}, {traced}: {}", measured.table(unit));
    let mut json = measured.json(unit);
    json["kernel"] = Value::from(series.as_str());
    json["build"] = Value::from(build);
    json["traced"] = Value::from(traced);
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
        json["baseline"] = Value::from(held.baseline);
        worse.extend(held.worse());
    }
    println!("{json}");
    if !worse.is_empty() {
        bail!(
            "a send costs more than benches/ allows, make the programs cheaper: {}",
            worse.join("; ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let (netdiag, load) = if args.no_build {
            (workspace::netdiag("release"), workspace::host_target()?.join("debug/send_load"))
        } else {
            (build::netdiag(true)?, build::load("send_load")?)
        };
        let mut arguments = Vec::new();
        let mut alone = args.alone;
        let traced = match &args.signals {
            Some(signals) => {
                // Others trace sends alone.
                alone = true;
                if signals != "all" {
                    arguments.extend(["--signals", signals].map(str::to_owned));
                }
                signals.clone()
            }
            None => {
                let source = match &args.source {
                    Some(source) => source.clone(),
                    None if args.icount => "fexit".to_owned(),
                    None => source_here(&netdiag)?,
                };
                arguments.extend(["--source".to_owned(), format!("send={source}")]);
                if !args.arguments.iter().any(|argument| argument.starts_with("--signals")) {
                    // Other signals see the load's segments, too: that is their cost, not a send's.
                    arguments.extend(["--signals", "send"].map(str::to_owned));
                }
                source
            }
        };
        arguments.extend_from_slice(&args.arguments);
        let others = if alone { None } else { Some(Others::build(&traced)?) };
        Ok(Self { netdiag, load, traced, others, arguments })
    }

    /// The load's arguments, with the other tracers' objects in a directory.
    fn load_arguments(&self, args: &Args, objects: &str) -> Vec<String> {
        let mut all = vec!["--rounds".to_owned(), args.rounds().to_string()];
        all.extend(["--sends".to_owned(), args.sends().to_string()]);
        if let Some(others) = &self.others {
            all.extend(["--objects", objects, "--bpftrace", others.bpftrace].map(str::to_owned));
        }
        all.push("--".to_owned());
        all.extend_from_slice(&self.arguments);
        all
    }

    /// By the time of this machine.
    fn time(&self, args: &Args) -> Result<Counted> {
        let objects = self.others.as_ref().map(|others| others.directory.display().to_string());
        let mut command = process::as_root("env")?;
        command.arg(format!("NETDIAG_BIN={}", self.netdiag.display())).arg(&self.load);
        command.args(self.load_arguments(args, &objects.unwrap_or_default()));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let output = process::output(command.stderr(Stdio::inherit()))?;
        Ok(Counted { series: NATIVE.to_owned(), build: release, output })
    }

    /// By the instructions of a guest.
    fn count(&self, args: &Args) -> Result<Counted> {
        let mut command = vec!["./send_load".to_owned()];
        command.extend(self.load_arguments(args, "others"));
        let mut bring = vec![self.load.display().to_string()];
        let mut with = Vec::new();
        if let Some(others) = &self.others {
            bring.push(format!("{}=others", others.directory.display()));
            with.push("bpftrace".to_owned());
        }
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
