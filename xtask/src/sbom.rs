//! `cargo xtask sbom`: what a binary consists of, for those who must know.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{ebpf, process, setup, workspace};

/// Write what the binary and the programs of the kernel consist of, as CycloneDX
#[derive(clap::Args)]
#[command(
    after_help = "Leaves target/netdiag.cdx.json and target/netdiag-ebpf.cdx.json: crates with their versions,
licences and checksums, procedural macros among them, without what only tests and build scripts use.

Examples:
  cargo xtask sbom"
)]
pub(crate) struct Args {}

pub(crate) fn main(_: &Args) -> Result<ExitCode> {
    write()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes both bills; fails when one does not name what it must.
pub(crate) fn write() -> Result<()> {
    let tool = setup::cargo_cyclonedx()?;
    // It writes beside the manifests.
    let scratch = tempfile::tempdir().context("no directory for a copy of the sources")?;
    let copy = scratch.path().join("netdiag");
    workspace::copy_sources(workspace::root(), &copy)?;
    let host = workspace::host_target()?;
    let host = host.file_name().context("the build target has no name")?.to_string_lossy();
    for (package, target, part) in
        [("netdiag", &*host, "aya"), ("netdiag-ebpf", ebpf::TARGET, "aya-ebpf")]
    {
        let path = workspace::target().join(format!("{package}.cdx.json"));
        let bom = bom(&tool, &copy, package, target)?;
        if !names(&bom, part)? {
            bail!(
                "the bill of {package} lacks {part}, which it is built from: nothing was written"
            );
        }
        fs::write(&path, bom).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("sbom: {}", path.display());
    }
    Ok(())
}

/// Whether a bill has a component of that name, with its version.
fn names(bom: &str, component: &str) -> Result<bool> {
    let bom: Value = serde_json::from_str(bom).context("the bill is no JSON")?;
    let mut components = bom["components"].as_array().into_iter().flatten();
    Ok(components.any(|it| it["name"] == component && it["version"].is_string()))
}

/// The bill of one package's program for a target, without the path of the copy at `sources`.
fn bom(tool: &Path, sources: &Path, package: &str, target: &str) -> Result<String> {
    let mut command = Command::new(tool);
    command.current_dir(sources).args(["cyclonedx", "--quiet", "--format", "json"]);
    command.args(["--spec-version", "1.5", "--describe", "binaries", "--no-build-deps"]);
    process::run(command.args(["--target", target]))?;
    let path = sources.join(package).join(format!("{package}_bin.cdx.json"));
    let bom =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bom.replace(&sources.display().to_string(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_what_is_in_it() {
        let bom = r#"{"components":[{"name":"aya","version":"0.14.0"},{"name":"x"}]}"#;
        assert!(names(bom, "aya").unwrap() && !names(bom, "x").unwrap());
        assert!(!names("{}", "aya").unwrap() && names("", "aya").is_err());
    }
}
