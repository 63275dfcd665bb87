//! What tracing adds to a send, or to what another signal tells of: here or in a machine that counts instructions,
//! beside other tracers or alone.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::{
    Args,
    baseline::Held,
    cost::{self, Measured, Unit},
    here,
    others::{self, Others},
    ratios::{NATIVE, Ratios},
    traced::Traced,
};
use crate::{
    setup,
    vm::{self, Counted},
};

/// The program that is traced.
const LOAD: &str = "cost_load";

/// What is run, and with which other tracers.
struct Plan {
    netdiag: PathBuf,
    load: PathBuf,
    /// Measured one after the other, in one machine.
    traced: Vec<Traced>,
    /// None where netdiag is measured alone.
    others: Option<Others>,
}

pub(super) fn main(args: &Args) -> Result<ExitCode> {
    if args.icount {
        setup::vm_tools()?;
    }
    let plan = Plan::new(args)?;
    let counted = if args.icount { plan.count(args) } else { plan.time(args) }?;
    let said: Vec<_> = counted.output.lines().collect();
    ensure!(said.len() == plan.traced.len(), "the load printed {:?}", counted.output);
    let mut worse = Vec::new();
    for (traced, said) in plan.traced.iter().zip(said) {
        worse.extend(plan.tell(args, &counted, traced, said)?);
    }
    if !worse.is_empty() {
        bail!("netdiag costs what benches/ does not allow: {}", worse.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let (netdiag, load) = here::programs(args, LOAD)?;
        let one = match (&args.signals, &args.source) {
            (Some(signals), _) => Traced::signals(signals, &args.arguments),
            (None, Some(source)) => Traced::sends(source, &args.arguments),
            (None, None) if args.icount => Traced::sends("fexit", &args.arguments),
            (None, None) => Traced::sends(&here::source(&netdiag)?, &args.arguments),
        };
        let others = if args.alone || args.every { None } else { Others::build(&one)? };
        let traced = match args.every {
            true => Traced::every(&vm::series(&args.kernel)?),
            false => vec![one],
        };
        Ok(Self { netdiag, load, traced, others })
    }

    /// Prints what a load measured, and says what of it is over its limit.
    fn tell(
        &self,
        args: &Args,
        Counted { series, build, .. }: &Counted,
        Traced { name, load, .. }: &Traced,
        said: &str,
    ) -> Result<Vec<String>> {
        let unit = if args.icount { Unit::Instructions } else { Unit::Nanoseconds };
        let measured = Measured::parse(said, unit)?;
        eprint!("bench: {series}, {name}: {}", measured.table(unit, load));
        let mut json = measured.json(unit);
        json["load"] = Value::from(*load);
        json["kernel"] = Value::from(series.as_str());
        json["build"] = Value::from(build.as_str());
        json["traced"] = Value::from(name.as_str());
        let mut worse = Vec::new();
        if self.others.is_some() {
            let ratios = Ratios::of(&measured, series, name)?;
            eprint!("{}", ratios.table());
            json["ratios"] = ratios.json();
            json["others"] = others::versions()?;
            worse.extend(ratios.over());
        }
        if args.icount && args.arguments.is_empty() {
            let held = Held::new(series, name, &cost::added(measured.netdiag()))?;
            eprintln!("bench: {}", held.line());
            json["held"] = held.json();
            // One that is chosen by hand may be looked at without being held to anything.
            worse.extend(held.worse().or_else(|| held.unheld().filter(|_| args.every)));
        }
        println!("{json}");
        Ok(worse.into_iter().map(|worse| format!("{name}: {worse}")).collect())
    }

    /// A load's arguments, with the other tracers' objects in a directory.
    fn load_arguments(&self, args: &Args, traced: &Traced, objects: &str) -> Vec<String> {
        let (rounds, times) = (args.rounds_of(traced).to_string(), args.times(traced).to_string());
        let options = ["--load", traced.load, "--rounds", &rounds, "--times", &times];
        let mut all = options.map(str::to_owned).to_vec();
        if let Some(others) = &self.others {
            if others.objects.is_some() {
                all.extend(["--objects", objects].map(str::to_owned));
            }
            all.extend(["--bpftrace", others.bpftrace].map(str::to_owned));
        }
        all.push("--".to_owned());
        all.extend_from_slice(&traced.arguments);
        all
    }

    /// Where the objects of other tracers are.
    fn objects(&self) -> Option<String> {
        Some(self.others.as_ref()?.objects.as_ref()?.display().to_string())
    }

    /// By the time of this machine.
    fn time(&self, args: &Args) -> Result<Counted> {
        let objects = self.objects().unwrap_or_default();
        let mut output = String::new();
        for traced in &self.traced {
            let arguments = self.load_arguments(args, traced, &objects);
            output += &here::run(&self.netdiag, &self.load, &arguments)?;
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Counted { series: NATIVE.to_owned(), build: release, output })
    }

    /// By the instructions of a guest.
    fn count(&self, args: &Args) -> Result<Counted> {
        let command = |traced| {
            let mut command = vec![format!("./{LOAD}")];
            command.extend(self.load_arguments(args, traced, "others"));
            command
        };
        let commands: Vec<_> = self.traced.iter().map(command).collect();
        let mut bring = vec![self.load.display().to_string()];
        bring.extend(self.objects().map(|objects| format!("{objects}=others")));
        let with = self.others.iter().map(|_| "bpftrace".to_owned()).collect();
        vm::count(&args.kernel, &self.netdiag, bring, with, &commands)
    }
}
