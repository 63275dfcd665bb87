//! Where bpf-linker comes from: built with an LLVM that reads the compiler's bitcode, that is with
//! the compiler's own or a newer one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::cargo_install;
use crate::{
    packages, process,
    toolchain::{self, BPF_LINKER, BPF_LINKER_LLVM, Toolchain},
    version,
};

/// How to come to a linker.
pub(super) enum Source {
    /// Build it with this LLVM, which is here or which apt has.
    Build(u32),
    /// Somebody else installed it.
    Path(PathBuf),
}

/// How to come to a linker for a toolchain, or why there is no way.
pub(super) fn source(toolchain: &Toolchain) -> Result<Result<Source, String>> {
    let Toolchain { release, llvm, .. } = toolchain;
    let mut readers: Vec<u32> =
        BPF_LINKER_LLVM.into_iter().filter(|reader| reader >= llvm).collect();
    if let Some(&present) = readers.iter().find(|&&reader| prefix(reader).is_some()) {
        return Ok(Ok(Source::Build(present)));
    }
    if packages::has_apt() {
        let names: Vec<String> = readers.iter().map(|reader| development(*reader)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let offered = packages::candidates(&names)?;
        readers.retain(|&reader| offered.iter().any(|(name, _)| *name == development(reader)));
        if let Some(&smallest) = readers.first() {
            return Ok(Ok(Source::Build(smallest)));
        }
    }
    Ok(toolchain::linker_in_path().map(Source::Path).ok_or_else(|| {
        format!(
            "Rust {release} has LLVM {llvm}, and there is no LLVM {llvm} with its headers to build \
             bpf-linker with; install it (llvm-config-{llvm}), or put bpf-linker {BPF_LINKER} into \
             PATH, then try again"
        )
    }))
}

/// Builds the linker where that is needed.
pub(super) fn install(source: Source, needed: u32) -> Result<PathBuf> {
    let llvm = match source {
        Source::Build(llvm) => llvm,
        Source::Path(path) => return Ok(path),
    };
    if packages::has_apt() {
        let polly = format!("libpolly-{llvm}-dev");
        let files: [(&str, String); 5] = [
            (&development(llvm), format!("/usr/lib/llvm-{llvm}/bin/llvm-config")),
            (&polly, format!("/usr/lib/llvm-{llvm}/lib/libPolly.a")),
            ("libzstd-dev", "/usr/include/zstd.h".to_owned()),
            ("zlib1g-dev", "/usr/include/zlib.h".to_owned()),
            ("g++", "/usr/bin/g++".to_owned()),
        ];
        let missing: Vec<&str> = files
            .iter()
            .filter(|(_, file)| !Path::new(file).exists())
            .map(|(package, _)| *package)
            .collect();
        if !missing.is_empty() {
            packages::install(&missing, &format!("LLVM {llvm}, to build bpf-linker"))?;
        }
    }
    let prefix = prefix(llvm).with_context(|| format!("LLVM {llvm} has no llvm-config"))?;
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER} into target/tools: it links eBPF objects (about 2 minutes)"
    );
    cargo_install(
        "bpf-linker",
        BPF_LINKER,
        &["--force", "--no-default-features", "--features", &format!("llvm-{llvm}")],
        &[
            ("LLVM_PREFIX", &prefix.to_string_lossy()),
            // Nearly all that it does LLVM does, which is built. Its own part asks for all debug information, and to be
            // optimized, which takes longer than it saves.
            ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ],
    )?;
    toolchain::linker(needed).context("bpf-linker was built, but is not in target/tools/bin")
}

/// Debian's package with an LLVM's headers and llvm-config.
fn development(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// Where an LLVM with its headers is installed.
fn prefix(llvm: u32) -> Option<PathBuf> {
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
