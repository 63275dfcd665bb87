//! The test binaries of netdiag-tests: static, so that the very ones that run here run in a guest.

use std::{
    env,
    ffi::OsStr,
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

/// Cargo as it builds tests. A machine that builds them once, which says so by `CI`, takes each crate in one piece and
/// keeps nothing that would only make the next build quicker: that costs less of its processors.
pub(super) fn cargo() -> Command {
    let mut command = process::cargo();
    if env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0").env("CARGO_PROFILE_DEV_CODEGEN_UNITS", "1");
    }
    command
}

/// Builds the kernel-facing tests of these files in tests/tests, or of all where there are none, and what they start.
pub(super) fn kernel_facing(only: &[String]) -> Result<Vec<Binary>> {
    let names = if only.is_empty() { files()? } else { only.to_vec() };
    build(names.iter().flat_map(|name| ["--test", name.as_str()]))
}

/// Builds the unit tests, and all others that are not built yet.
pub(super) fn units() -> Result<Vec<Binary>> {
    let all = build([])?;
    let (facing, units): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.kernel_facing);
    let files = files()?;
    if let Some(other) = facing.iter().find(|one| !files.contains(&one.name)) {
        bail!("the test {} is no file in tests/tests, so that nothing would run it", other.name);
    }
    Ok(units)
}

/// Names of the files in tests/tests, each of which is a test binary.
fn files() -> Result<Vec<String>> {
    let directory = workspace::root().join("tests/tests");
    let entries = fs::read_dir(&directory);
    let mut names = Vec::new();
    for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("rs"))
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Builds tests of the workspace, all unless `targets` choose some of them: of all packages each time, so that there is one
/// set of features, and one build of each dependency.
fn build<'a>(targets: impl IntoIterator<Item = &'a str>) -> Result<Vec<Binary>> {
    let mut child = cargo()
        .args(["test", "--workspace", "--exclude", "netdiag-ebpf", "--no-run", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        .args(targets)
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
        process::strip(&binary.path, &directory.join(&binary.name))?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_file_is_named_once() {
        let files = files().unwrap();
        let number = |name: &str| files.iter().filter(|file| *file == name).count();
        // The second has a directory, too.
        assert_eq!(["verifier", "drop", "drop/many", "no_such"].map(number), [1, 1, 0, 0]);
    }

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
