//! `cargo xtask setup`: installs what building and testing need. Every other subcommand calls the
//! part it needs itself; what is there already costs milliseconds.

mod linker;
mod test;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use crate::{
    packages, process,
    toolchain::{self, BPF_LINKER, Toolchain},
    version,
    vm::{Emulator, Wanted},
    workspace,
};

/// Install what is missing, saying what and why first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask setup               everything
  cargo xtask setup --for build   only what `build` and `run` need")]
pub(crate) struct Args {
    /// What to set up for
    #[arg(long = "for", value_enum, default_value = "test")]
    layer: Layer,
}

/// What is set up for; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Layer {
    /// A Rust toolchain for BPF and bpf-linker
    Build,
    /// qemu and the guest's tools
    Vm,
    /// Linters, other tracers, programs that converse, Prometheus, readers of histogram logs in
    /// other languages
    Test,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let ebpf = build_tools()?;
    eprintln!("setup: eBPF is built by {ebpf}");
    match args.layer {
        Layer::Build => {}
        Layer::Vm => vm_tools()?,
        Layer::Test => {
            test_tools()?;
            bench_tools()?;
            linters()?;
            cargo_deny()?;
            cargo_cyclonedx()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What builds eBPF.
pub(crate) struct EbpfTools {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: PathBuf,
}

impl std::fmt::Display for EbpfTools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Toolchain { rustc, release, llvm, .. } = &self.toolchain;
        let (rustc, linker) = (rustc.display(), self.linker.display());
        write!(f, "{rustc} ({release}, LLVM {llvm}) and {linker} ({BPF_LINKER})")
    }
}

/// Installs what runs virtual machines and what their root file system is made of.
pub(crate) fn vm_tools() -> Result<()> {
    const TOOLS: [(&str, &str); 11] = [
        ("busybox", "busybox-static"),
        ("depmod", "kmod"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
        ("nft", "nftables"),
        ("conntrack", "conntrack"),
        ("ip", "iproute2"),
        ("ping", "iputils-ping"),
        ("sysctl", "procps"),
        ("bpftool", "bpftool"),
        ("runc", "runc"),
    ];
    programs(&TOOLS, "virtual machines to test on other kernels")?;
    Emulator::get(Wanted::Quickest)?;
    Emulator::get(Wanted::OfRelease).map(drop)
}

pub(crate) use test::{bench_tools, cargo_cyclonedx, cargo_deny, linters, tools as test_tools};

/// Installs the packages of those `(program, package)` that are missing.
fn programs(tools: &[(&str, &str)], why: &str) -> Result<()> {
    let (missing, names): (Vec<&str>, Vec<&str>) =
        tools.iter().filter(|(program, _)| process::which(program).is_none()).copied().unzip();
    if missing.is_empty() {
        return Ok(());
    }
    if !packages::has_apt() {
        bail!("{} missing, needed for {why}: install them, then try again", missing.join(", "));
    }
    packages::install(&names, why)
}

/// Finds or installs the toolchain and the linker.
pub(crate) fn build_tools() -> Result<EbpfTools> {
    let refused = match choose()? {
        Ok(tools) => return Ok(tools),
        Err(refused) => refused,
    };
    for reason in &refused {
        eprintln!("setup: not used for eBPF: {reason}");
    }
    install_toolchain()?;
    choose()?.map_err(|refused| anyhow!("eBPF cannot be built: {}", refused.join("; ")))
}

/// The first toolchain that a linker is there for, else the first that one can be had for; or why
/// each does not do.
fn choose() -> Result<Result<EbpfTools, Vec<String>>> {
    let (found, mut refused) = toolchain::all();
    for toolchain in &found {
        if let Some(linker) = toolchain::linker(toolchain.llvm) {
            return Ok(Ok(EbpfTools { toolchain: toolchain.clone(), linker }));
        }
    }
    for toolchain in found {
        match linker::source(&toolchain)? {
            Ok(source) => {
                let linker = linker::install(source, toolchain.llvm)?;
                return Ok(Ok(EbpfTools { toolchain, linker }));
            }
            Err(reason) => refused.push(format!("{}: {reason}", toolchain.rustc.display())),
        }
    }
    Ok(Err(refused))
}

fn install_toolchain() -> Result<()> {
    const ADVICE: &str = "eBPF cannot be built; install a Rust toolchain with rust-src (rustup \
                          toolchain install nightly --component rust-src), then try again";
    let why = "a Rust toolchain with the sources of core, to build eBPF";
    if let Some(names) = debian_toolchain()? {
        return packages::install(&names, why);
    }
    let Some(rustup) = process::which("rustup") else {
        bail!("there is neither apt with a new enough rustc nor rustup: {ADVICE}");
    };
    let mut command = Command::new(rustup);
    // A toolchain that is here may have an LLVM that is here, too; the next nightly's is newer.
    if let Some(name) = rustup_toolchain_without_source()? {
        eprintln!("setup: adding rust-src to rustup's {name}: {why}");
        command.args(["component", "add", "rust-src", "--toolchain", &name]);
    } else {
        eprintln!("setup: installing rustup's nightly with rust-src: {why}");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        command.args(["--component", "rust-src"]);
    }
    process::output(&mut command).map_err(|error| anyhow!("{error:#}: {ADVICE}"))?;
    Ok(())
}

/// The name of a toolchain of rustup's that lacks nothing but rust-src.
fn rustup_toolchain_without_source() -> Result<Option<String>> {
    for toolchain in toolchain::without_source() {
        // TOOLCHAIN/bin/rustc
        let name = toolchain.rustc.ancestors().nth(2).and_then(|path| path.file_name());
        if let Some(name) = name
            && !toolchain.rustc.starts_with("/usr/bin")
            && linker::source(&toolchain)?.is_ok()
        {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Debian's packages of a new enough Rust: stable releases carry one for building browsers
/// (rustc-web) beside their own.
fn debian_toolchain() -> Result<Option<[&'static str; 3]>> {
    const SETS: [[&str; 3]; 2] =
        [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];
    if !packages::has_apt() {
        return Ok(None);
    }
    let known = packages::candidates(&SETS.map(|[rustc, ..]| rustc))?;
    let needed = version::major_minor(env!("CARGO_PKG_RUST_VERSION"));
    Ok(SETS.into_iter().find(|[rustc, ..]| {
        known.iter().any(|(name, candidate)| {
            name == rustc && version::major_minor(version::upstream(candidate)) >= needed
        })
    }))
}

/// Installs a program from the registry into `target/tools`.
pub(crate) fn cargo_install(
    name: &str,
    version: &str,
    options: &[&str],
    environment: &[(&str, &str)],
) -> Result<()> {
    process::run(
        process::cargo()
            .args(["install", "--quiet", name, "--version", version, "--locked", "--root"])
            .arg(workspace::tools())
            .args(options)
            .envs(environment.iter().copied())
            // Its build must not inherit ours (static linking).
            .current_dir("/"),
    )
    .with_context(|| format!("cannot build {name} {version}"))
}
