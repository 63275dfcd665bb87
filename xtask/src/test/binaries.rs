//! The test binaries of netdiag-tests: static, so that the very ones that run here run in a guest.

use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Deserializer, Value};

use super::machines::Tests;
use crate::{process, workspace};

/// Runs every binary in /root/tests with the arguments given, says how long each took, and fails when
/// one does.
pub(crate) const RUN_ALL: &str = "status=0
for test in /root/tests/*; do
    echo \"== ${test##*/}\"
    begun=$(date +%s)
    \"$test\" --show-output \"$@\" || status=1
    echo \"== ${test##*/} on $(uname -r) took $(($(date +%s) - begun)) s\"
done
exit $status";

/// A built test binary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// Its file in tests/, without the ending, or the package's name for unit tests.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Its package's directory, where tests expect to run.
    pub(crate) directory: PathBuf,
    /// An integration test of netdiag-tests: wants root, and to run on every kernel.
    pub(crate) kernel_facing: bool,
}

/// Builds all tests of the workspace in one go: one set of features, one build of each dependency.
pub(crate) fn build() -> Result<Vec<Binary>> {
    let mut child = process::cargo()
        .args(["test", "--workspace", "--exclude", "netdiag-ebpf", "--no-run", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let output = BufReader::new(child.stdout.take().context("cargo's stdout is not piped")?);
    let mut binaries = Vec::new();
    for message in Deserializer::from_reader(output).into_iter::<Value>() {
        binaries.extend(artifact(&message.context("cargo's messages are not JSON")?));
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    binaries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(binaries)
}

/// The test binary that a message of cargo tells of.
fn artifact(message: &Value) -> Option<Binary> {
    let target = message.get("target")?;
    message.pointer("/profile/test")?.as_bool()?.then_some(())?;
    let directory = Path::new(message.get("manifest_path")?.as_str()?).parent()?;
    Some(Binary {
        name: target.get("name")?.as_str()?.to_owned(),
        path: message.get("executable")?.as_str()?.into(),
        directory: directory.to_owned(),
        kernel_facing: target.pointer("/kind/0")?.as_str()? == "test"
            && directory == workspace::root().join("tests"),
    })
}

/// Puts those of the kernel-facing tests that a machine runs into one directory for it, without the
/// debug information that would fill its memory.
pub(super) fn stage(binaries: &[Binary], machine: &str, tests: Tests) -> Result<PathBuf> {
    let directory = workspace::target().join("vm/tests").join(machine);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let chosen = |binary: &&Binary| binary.kernel_facing && tests.has(&binary.name);
    for binary in binaries.iter().filter(chosen) {
        let strip = ["--strip-debug", "-o"];
        process::run(
            Command::new("strip").args(strip).arg(directory.join(&binary.name)).arg(&binary.path),
        )?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_test_executables_are_taken() {
        let root = workspace::root().display();
        let message = |test: bool, kind: &str, package: &str| {
            json!({"reason": "compiler-artifact", "target": {"name": "stall", "kind": [kind]},
                   "manifest_path": format!("{root}/{package}/Cargo.toml"),
                   "profile": {"test": test}, "executable": "/t/stall-1"})
        };
        let binary = artifact(&message(true, "test", "tests")).unwrap();
        assert_eq!((binary.name.as_str(), binary.path.to_str()), ("stall", Some("/t/stall-1")));
        assert!(binary.kernel_facing && binary.directory.ends_with("tests"));
        assert!(!artifact(&message(true, "lib", "tests")).unwrap().kernel_facing);
        assert!(!artifact(&message(true, "test", "netdiag")).unwrap().kernel_facing);
        assert_eq!(artifact(&message(false, "bin", "netdiag")), None);
        assert_eq!(artifact(&json!({"reason": "build-finished", "success": true})), None);
    }
}
