//! `cargo xtask`: builds, runs and tests netdiag, and installs what that needs.
//!
//! One file per subcommand; the pure parts (versions, apt sources, `ldd` output) stand apart from
//! the parts that run programs.

mod bench;
mod build;
mod ebpf;
mod image;
mod lab;
mod packages;
mod process;
mod run;
mod sbom;
mod setup;
mod soak;
mod test;
mod toolchain;
mod version;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests netdiag. Installs what is missing, saying what and why first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Vm(vm::Args),
    Image(image::Args),
    Bench(bench::Args),
    Lab(lab::Args),
    Soak(soak::Args),
    Hostile(test::hostile::Args),
    Sbom(sbom::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::main(&args),
        Command::Build(args) => build::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Image(args) => image::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Lab(args) => lab::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Hostile(args) => test::hostile::main(&args),
        Command::Sbom(args) => sbom::main(&args),
    }
}
