//! `cargo xtask lab`: faults made on purpose, and what `netdiag diagnose` makes of them.

use std::{
    ffi::OsString,
    fs,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{build, process, setup, workspace};

/// Make faults and healthy workloads many times, and tell what netdiag made of each
#[derive(clap::Args)]
#[command(
    after_help = "Each scenario (tests/src/lab/scenario) plays in namespaces of its own, with parameters drawn from a
seed that is printed. The table says of each in how many runs the fault was really there, was named
first, and with the right scope, and what else was found. It fails when any run is not as it must be.

Examples:
  cargo xtask lab --runs 10                        all that this machine can have
  cargo xtask lab --runs 3 --only dns --seed 7     some, with the parameters of that seed
  cargo xtask lab --blind --no-twins               each fault with each signal switched off in turn
  cargo xtask lab --prove                          only whether the faults are there
  cargo xtask lab --kernel 6.12 --only softnet     in a virtual machine"
)]
pub(crate) struct Args {
    /// Runs of each scenario, each with other parameters
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: u64,

    /// Only scenarios whose name starts so
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Leave out the twins just below each threshold
    #[arg(long)]
    no_twins: bool,

    /// Only twins and healthy workloads, in which nothing must be found
    #[arg(long, conflicts_with_all = ["no_twins", "prove"])]
    no_faults: bool,

    /// What the parameters are drawn from; the time unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Seconds that each is watched
    #[arg(long, value_name = "N", default_value_t = 18)]
    seconds: u64,

    /// Scenarios side by side
    #[arg(long, value_name = "N", default_value_t = 6)]
    together: usize,

    /// Only prove the faults, without netdiag
    #[arg(long)]
    prove: bool,

    /// Beside it once without each signal: what depends on that one must be withheld, and nothing turn wrong
    #[arg(long, conflicts_with = "prove")]
    blind: bool,

    /// In a virtual machine with this kernel: 5.10, 6.1, 6.12, or the newest that Debian has
    #[arg(long, value_name = "SERIES")]
    kernel: Option<String>,
}

/// A machine's life in seconds: the lab ends by itself, so this ends only one that hangs.
const LONGEST_S: u32 = 4 * 60 * 60;

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let mut command = program("lab", args.kernel.as_deref(), LONGEST_S)?;
    command.args(args.for_lab());
    Ok(if command.status()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds a program of the tests and netdiag for it; the command runs it as root, here or in a virtual machine with this
/// kernel, which lives so many seconds at most.
pub(crate) fn program(name: &str, kernel: Option<&str>, longest_s: u32) -> Result<Command> {
    let netdiag = build::netdiag(true)?;
    let program = build::load(name)?;
    let Some(kernel) = kernel else {
        let mut command = process::as_root("env")?;
        command.arg(format!("NETDIAG_BIN={}", netdiag.display())).arg(program);
        return Ok(command);
    };
    setup::vm_tools()?;
    let directory = workspace::target().join("vm").join(name);
    fs::create_dir_all(&directory)?;
    process::strip(&program, &directory.join(name))?;
    let mut command = Command::new(workspace::xtask()?);
    command.args(["vm", "--no-build", "--memory", "2048", "--kernel", kernel]);
    command.args(["--timeout", &longest_s.to_string()]);
    command.arg(format!("--bring={}=/root/{name}", directory.display()));
    command.args(["--", &format!("/root/{name}/{name}")]);
    Ok(command)
}

impl Args {
    /// The same for the lab itself.
    fn for_lab(&self) -> Vec<OsString> {
        let mut all: Vec<String> = Vec::new();
        for (flag, number) in [
            ("--runs", Some(self.runs)),
            ("--seed", self.seed),
            ("--seconds", Some(self.seconds)),
            ("--together", Some(self.together as u64)),
        ] {
            all.extend(number.into_iter().flat_map(|number| [flag.to_owned(), number.to_string()]));
        }
        all.extend(self.only.iter().flat_map(|name| ["--only".to_owned(), name.clone()]));
        for (flag, is_set) in [
            ("--no-twins", self.no_twins),
            ("--no-faults", self.no_faults),
            ("--prove", self.prove),
            ("--blind", self.blind),
        ] {
            all.extend(is_set.then(|| flag.to_owned()));
        }
        all.into_iter().map(OsString::from).collect()
    }
}
