//! `cargo xtask build`: the eBPF object, then the one static binary around it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{ebpf, process, setup, workspace};

/// Build the eBPF object and the static `netdiag` binary
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build             leaves target/debug/netdiag
  cargo xtask build --release   leaves target/release/netdiag")]
pub(crate) struct Args {
    /// With optimizations
    #[arg(long)]
    release: bool,
}

pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let binary = netdiag(args.release)?;
    eprintln!("build: {}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds all and gives the binary's path.
pub(crate) fn netdiag(release: bool) -> Result<PathBuf> {
    object()?;
    binary(release)
}

/// Builds the eBPF object.
pub(crate) fn object() -> Result<()> {
    let tools = setup::build_tools()?;
    eprintln!("build: eBPF by {tools}");
    ebpf::build(&tools).map(drop)
}

/// Builds the binary around the object that is there, and gives its path.
pub(crate) fn binary(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    if !workspace::netdiag(profile).exists() {
        eprintln!("build: netdiag for the first time: that takes some minutes");
    }
    let mut command = process::cargo();
    command.args(["build", "--quiet", "--package", "netdiag", "--bin", "netdiag"]);
    if release {
        command.arg("--release");
    }
    process::run(&mut command)?;
    let built = workspace::host_target()?.join(profile).join("netdiag");
    if !is_static(&fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?) {
        bail!(
            "netdiag came out dynamically linked: unset RUSTFLAGS, it displaces .cargo/config.toml"
        );
    }
    publish(&built, profile)
}

/// Leaves the binary where people look for it, in the profile's directory without the target's
/// name. A link to a new name and a rename: the old file may be running.
fn publish(built: &PathBuf, profile: &str) -> Result<PathBuf> {
    let published = workspace::netdiag(profile);
    let directory = workspace::target().join(profile);
    fs::create_dir_all(&directory)?;
    let new = directory.join(".netdiag.new");
    let _ = fs::remove_file(&new);
    fs::hard_link(built, &new)
        .and_then(|()| fs::rename(&new, &published))
        .with_context(|| format!("cannot write {}", published.display()))?;
    // Renaming one link of a file onto another does nothing and leaves both.
    let _ = fs::remove_file(&new);
    Ok(published)
}

/// True when a 64-bit ELF file asks for no program interpreter (`PT_INTERP`, elf.h).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    let headers = || Some((number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?));
    let Some((start, size, count)) = headers() else { return false };
    elf.starts_with(b"\x7fELF")
        && (0..count)
            .all(|i| number(start + i * size, 4).is_some_and(|kind| kind != PT_INTERP as usize))
}

/// Builds a program of the tests; its own speed is in every figure alike, so it needs no optimization.
pub(crate) fn load(name: &str) -> Result<PathBuf> {
    let mut command = process::cargo();
    command.args(["build", "--quiet", "--package", "netdiag-tests", "--bin", name]);
    process::run(&mut command)?;
    Ok(workspace::host_target()?.join("debug").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_makes_it_dynamic() {
        // A header (64 bytes) with one program header (56 bytes) of type PT_LOAD.
        let mut elf = vec![0; 64 + 56];
        elf[..4].copy_from_slice(b"\x7fELF");
        (elf[0x20], elf[0x36], elf[0x38], elf[64]) = (64, 56, 1, 1);
        assert!(is_static(&elf));
        elf[64] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(&elf[..70]), "cut");
        assert!(!is_static(b""));
        // This test is itself linked the way netdiag is.
        assert!(is_static(&fs::read("/proc/self/exe").unwrap()));
    }
}
