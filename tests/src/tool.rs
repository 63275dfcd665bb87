//! Programs of the system that the tests use.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Where a program is found: in PATH or the places for administrators.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command for it.
///
/// # Errors
/// When it is not installed.
pub fn command(program: &str) -> Result<Command> {
    let path = find(program).with_context(|| format!("{program} is not installed"))?;
    Ok(Command::new(path))
}

/// Runs it to its end and returns its standard output.
///
/// # Errors
/// When it cannot be run or fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = command(program)?.args(arguments).stdin(Stdio::null()).output()?;
    finish(&format!("{program} {}", arguments.join(" ")), &output)
}

/// [`run`] for a line without quotes.
///
/// # Errors
/// As for [`run`].
pub fn line(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, arguments) = words.split_first().context("no command")?;
    run(program, arguments)
}

/// Several commands of `ip`, one a line, by one process, inside a namespace where one is named. They
/// stop at the first that fails.
///
/// # Errors
/// As for [`run`].
pub fn ip_batch(namespace: Option<&str>, commands: &[&str]) -> Result<()> {
    let mut ip = command("ip")?;
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().context("the commands' pipe")?;
    to.write_all(commands.join("\n").as_bytes())?;
    drop(to);
    finish(&format!("ip in {namespace:?}: {commands:?}"), &child.wait_with_output()?)?;
    Ok(())
}

/// Standard output of a program that succeeded.
///
/// # Errors
/// When it failed, with what it said.
pub fn finish(what: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}: {stdout}{stderr}", output.status);
    Ok(stdout.into_owned())
}

/// Directory of the tools that `cargo xtask setup` installs for the tests.
#[must_use]
pub fn test_tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools")
}
