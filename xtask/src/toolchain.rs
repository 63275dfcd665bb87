//! Finds a Rust toolchain that can build for BPF, and a bpf-linker to match.
//!
//! BPF is a tier 3 target without a shipped `core`, so the toolchain must have its own sources
//! (rust-src) for `-Z build-std=core`. `RUSTC_BOOTSTRAP=1` lets a stable compiler do that.
//! bpf-linker reads the compiler's bitcode: its LLVM must be the compiler's or newer.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{process, version, workspace};

/// The bpf-linker release that xtask installs.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The LLVM versions that release can be built with, its `llvm-N` features.
pub(crate) const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// A toolchain with the sources of `core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// `1.96.0`
    pub(crate) release: String,
    /// Major version of the compiler's LLVM.
    pub(crate) llvm: u32,
}

/// The toolchains to build with, the system's first, then rustup's nightlies, then rustup's others;
/// and why each of the rest does not do.
pub(crate) fn all() -> (Vec<Toolchain>, Vec<String>) {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for bin in directories() {
        match inspect(&bin) {
            Ok((toolchain, true)) => found.push(toolchain),
            Ok((Toolchain { release, .. }, false)) => {
                refused.push(format!("{}: Rust {release} lacks rust-src", bin.display()));
            }
            Err(reason) => refused.push(format!("{}: {reason:#}", bin.display())),
        }
    }
    (found, refused)
}

/// The toolchains that would do if they had the sources of `core`, in the same order.
pub(crate) fn without_source() -> Vec<Toolchain> {
    let inspected = directories().into_iter().filter_map(|bin| inspect(&bin).ok());
    inspected.filter(|(_, source)| !source).map(|(toolchain, _)| toolchain).collect()
}

/// The directories that hold a `rustc`, in order of preference.
fn directories() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let mut toolchains: Vec<PathBuf> = rustup
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    toolchains.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (!name.starts_with("nightly"), name)
    });
    [PathBuf::from("/usr/bin")]
        .into_iter()
        .chain(toolchains.into_iter().map(|toolchain| toolchain.join("bin")))
        .filter(|bin| bin.join("rustc").exists())
        .collect()
}

/// A toolchain that is new enough, and whether it has the sources of `core`.
fn inspect(bin: &Path) -> Result<(Toolchain, bool)> {
    let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
    if !cargo.exists() {
        bail!("has rustc but no cargo");
    }
    let verbose = process::output(Command::new(&rustc).arg("-vV").env_remove("RUSTUP_TOOLCHAIN"))?;
    let (release, llvm) = parse_verbose(&verbose)?;
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if version::major_minor(&release) < version::major_minor(needed) {
        bail!("Rust {release} is older than {needed}");
    }
    let sysroot = process::output(
        Command::new(&rustc).args(["--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN"),
    )?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let source = library.join("core/src/lib.rs").exists();
    Ok((Toolchain { cargo, rustc, release, llvm }, source))
}

/// Release and LLVM's major version from `rustc -vV`.
fn parse_verbose(output: &str) -> Result<(String, u32)> {
    let field =
        |name: &str| output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let llvm = field("LLVM version").and_then(version::major_minor).map(|(major, _)| major);
    match (field("release"), llvm) {
        (Some(release), Some(llvm)) => Ok((release.to_owned(), llvm)),
        _ => bail!("rustc -vV names no release or LLVM version"),
    }
}

/// The installed bpf-linker's path and LLVM version, when it is the release that xtask installs
/// and its LLVM is at least `llvm`.
pub(crate) fn linker(llvm: u32) -> Option<PathBuf> {
    let path = workspace::tools().join("bin/bpf-linker");
    let installs = fs::read_to_string(workspace::tools().join(".crates2.json")).ok()?;
    (path.exists() && linker_llvm(&installs)? >= llvm).then_some(path)
}

/// A bpf-linker of the same release that somebody else installed. It does not tell its LLVM: one
/// that is too old is found out when it reads the first bitcode.
pub(crate) fn linker_in_path() -> Option<PathBuf> {
    let path = process::which("bpf-linker")?;
    let version = process::output(Command::new(&path).arg("--version")).ok()?;
    (version.trim() == format!("bpf-linker {BPF_LINKER}")).then_some(path)
}

/// The LLVM version of the bpf-linker that cargo's `.crates2.json` tells of.
fn linker_llvm(installs: &str) -> Option<u32> {
    let installs: Value = serde_json::from_str(installs).ok()?;
    let prefix = format!("bpf-linker {BPF_LINKER} ");
    let (_, install) = installs
        .get("installs")?
        .as_object()?
        .iter()
        .find(|(name, _)| name.starts_with(&prefix))?;
    install
        .get("features")?
        .as_array()?
        .iter()
        .find_map(|feature| feature.as_str()?.strip_prefix("llvm-")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_version_gives_release_and_llvm() {
        let output = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: \
                      rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_verbose(output).unwrap(), ("1.96.0".to_owned(), 22));
        assert!(parse_verbose("rustc 1.96.0").is_err());
    }

    #[test]
    fn linker_llvm_is_read_from_cargos_records() {
        let of = |text: &str| linker_llvm(text);
        let record = |name: &str, features: &str| {
            format!("{{\"installs\":{{\"{name}\":{{\"features\":{features}}}}}}}")
        };
        assert_eq!(of(&record("bpf-linker 0.13.0 (registry)", r#"["llvm-22"]"#)), Some(22));
        assert_eq!(of(&record("bpf-linker 0.12.0 (registry)", r#"["llvm-22"]"#)), None);
        assert_eq!(of(&record("bpf-linker 0.13.0 (registry)", "[]")), None);
        assert_eq!(of("not json"), None);
    }
}
