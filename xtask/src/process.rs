//! Runs other programs: whole, quiet or as root.

use std::{
    env,
    ffi::OsStr,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs `command` with its stdout on our stderr, so that our own stdout holds only what was asked
/// for; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let stderr =
        io::stderr().as_fd().try_clone_to_owned().context("stderr cannot be duplicated")?;
    let status = command
        .stdout(Stdio::from(stderr))
        .status()
        .with_context(|| format!("{} does not start", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs `command` and gives its stdout; fails, with the end of its stderr, when it does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{} does not start", name(command)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        let last = stderr.trim_end().lines().last().unwrap_or("it said nothing");
        bail!("{} failed ({}): {last}", line(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Copies a program without its debug information, which would fill the memory of a guest.
pub(crate) fn strip(program: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").args(["--strip-debug", "-o"]).arg(to).arg(program))
}

/// True when this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs `program` as root: itself when this process is root, else through sudo,
/// which asks on the terminal.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let sudo = which("sudo").context("this needs root and there is no sudo")?;
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}

/// Lets this thread, and what it starts from now on, run only where nobody else wants to (`SCHED_IDLE`,
/// sched(7)).
pub(crate) fn give_way() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    run(Command::new("chrt").args(["--idle", "--pid", "0", &thread]))
}

/// The path of `program` in PATH, or in the sbin directories that a plain user's PATH lacks.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The cargo that runs us, for everything that is not eBPF.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    // Set for us by `cargo run`; in a child they would only make cargo rebuild.
    for (key, _) in env::vars_os() {
        if key
            .to_str()
            .is_some_and(|key| key.starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR")
        {
            command.env_remove(key);
        }
    }
    command
}

fn name(command: &Command) -> String {
    command.get_program().display().to_string()
}

fn line(command: &Command) -> String {
    let mut line = name(command);
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
