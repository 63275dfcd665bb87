//! `cargo xtask setup`: installs what building and testing need. Every other subcommand calls the
//! part it needs itself; what is there already costs milliseconds.

mod test;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    packages, process,
    toolchain::{self, BPF_LINKER, BPF_LINKER_LLVM, Toolchain},
    version, workspace,
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
    /// Linters, other tracers, readers of histogram logs in other languages
    Test,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let ebpf = build_tools()?;
    eprintln!("setup: eBPF is built by {ebpf}");
    match args.layer {
        Layer::Build => {}
        Layer::Vm => vm_tools()?,
        Layer::Test => test_tools()?,
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
        write!(f, "{} ({release}, LLVM {llvm}) and bpf-linker {BPF_LINKER}", rustc.display())
    }
}

/// Installs what runs virtual machines and what their root file system is made of.
pub(crate) fn vm_tools() -> Result<()> {
    const TOOLS: [(&str, &str); 11] = [
        ("qemu-system-x86_64", "qemu-system-x86"),
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
    ];
    programs(&TOOLS, "virtual machines to test on other kernels")
}

pub(crate) use test::tools as test_tools;

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
    let toolchain = match toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(refused) => install_toolchain(&refused)?,
    };
    let linker = match toolchain::linker(toolchain.llvm) {
        Some(linker) => linker,
        None => install_linker(&toolchain)?,
    };
    Ok(EbpfTools { toolchain, linker })
}

const TOOLCHAIN_ADVICE: &str = "install a Rust toolchain with rust-src (rustup toolchain install \
                                nightly --component rust-src), then try again";

fn install_toolchain(refused: &[String]) -> Result<Toolchain> {
    for reason in refused {
        eprintln!("setup: not used for eBPF: {reason}");
    }
    if let Some([rustc, cargo, source]) = debian_toolchain()? {
        packages::install(
            &[rustc, cargo, source],
            "a Rust toolchain with the sources of core, to build eBPF",
        )?;
    } else if let Some(rustup) = process::which("rustup") {
        eprintln!(
            "setup: installing rustup's nightly with rust-src: building eBPF needs the sources of core"
        );
        process::run(Command::new(rustup).args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))
        .context(TOOLCHAIN_ADVICE)?;
    } else {
        bail!(
            "no toolchain can build eBPF and there is neither apt with a new enough rustc nor rustup: {TOOLCHAIN_ADVICE}"
        );
    }
    toolchain::find().map_err(|refused| {
        anyhow::anyhow!("no toolchain can build eBPF ({}): {TOOLCHAIN_ADVICE}", refused.join("; "))
    })
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

/// Builds bpf-linker with the smallest LLVM that reads the toolchain's bitcode.
fn install_linker(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = linker_llvm(toolchain.llvm, |llvm| llvm_prefix(llvm).is_some());
    let Some(llvm) = llvm else {
        bail!(
            "Rust {} has LLVM {}, newer than bpf-linker {BPF_LINKER} can read: install an older toolchain with rust-src",
            toolchain.release,
            toolchain.llvm
        );
    };
    let development = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    if packages::has_apt() {
        let needed: Vec<(&str, &str)> = vec![
            (&development[0], "usr/lib/llvm-N/bin/llvm-config"),
            (&development[1], "usr/lib/llvm-N/lib/libPolly.a"),
            ("libzstd-dev", "usr/include/zstd.h"),
            ("zlib1g-dev", "usr/include/zlib.h"),
            ("g++", "usr/bin/g++"),
        ];
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|(_, file)| !Path::new("/").join(file.replace('N', &llvm.to_string())).exists())
            .map(|(package, _)| package)
            .collect();
        if !missing.is_empty() {
            packages::install(&missing, &format!("LLVM {llvm}, to build bpf-linker"))?;
        }
    }
    let Some(prefix) = llvm_prefix(llvm) else {
        bail!(
            "bpf-linker needs LLVM {llvm} with its headers and there is none: install it (llvm-config-{llvm}), then try again"
        );
    };
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER} into target/tools: it links eBPF objects (about 2 minutes)"
    );
    cargo_install(
        "bpf-linker",
        BPF_LINKER,
        &["--force", "--no-default-features", "--features", &format!("llvm-{llvm}")],
        &[("LLVM_PREFIX", prefix)],
    )?;
    toolchain::linker(toolchain.llvm)
        .context("bpf-linker was built, but is not in target/tools/bin")
}

/// Installs a program from the registry into `target/tools`.
pub(crate) fn cargo_install(
    name: &str,
    version: &str,
    options: &[&str],
    environment: &[(&str, PathBuf)],
) -> Result<()> {
    process::run(
        process::cargo()
            .args(["install", "--quiet", name, "--version", version, "--locked", "--root"])
            .arg(workspace::tools())
            .args(options)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            // Its build must not inherit ours (static linking).
            .current_dir("/"),
    )
    .with_context(|| format!("cannot build {name} {version}"))
}

/// The LLVM to build the linker with: one that is `present` first, then the smallest.
fn linker_llvm(rustc: u32, present: impl Fn(u32) -> bool) -> Option<u32> {
    let mut readers = BPF_LINKER_LLVM.into_iter().filter(|&llvm| llvm >= rustc);
    readers.clone().find(|&llvm| present(llvm)).or_else(|| readers.next())
}

fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if debian.join("bin/llvm-config").exists() {
        return Some(debian);
    }
    ["llvm-config".to_owned(), format!("llvm-config-{llvm}")].iter().find_map(|name| {
        let config = process::which(name)?;
        let query = |what: &str| process::output(Command::new(&config).arg(what)).ok();
        let (major, _) = version::major_minor(&query("--version")?)?;
        (major == llvm).then_some(PathBuf::from(query("--prefix")?.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linker_llvm_is_present_before_small() {
        assert_eq!(linker_llvm(22, |_| false), Some(22));
        assert_eq!(linker_llvm(22, |llvm| llvm == 23), Some(23));
        assert_eq!(linker_llvm(19, |llvm| llvm == 22), Some(22));
        assert_eq!(linker_llvm(24, |_| true), None);
    }
}
