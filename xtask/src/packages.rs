//! Installs Debian packages, saying which and why first, or fetches them without installing.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::process;

/// Held while apt is asked for anything: set-up goes on in several threads, and lists that are being refreshed name
/// nothing.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True on Debian and what derives from it.
pub(crate) fn has_apt() -> bool {
    process::which("apt-get").is_some() && process::which("apt-cache").is_some()
}

/// The candidate version of each package of `names` that apt knows, refreshing apt's lists once
/// when it knows none of them (a fresh image has no lists).
pub(crate) fn candidates(names: &[&str]) -> Result<Vec<(String, String)>> {
    let _alone = alone();
    known(names)
}

/// The same for who holds [`alone`].
fn known(names: &[&str]) -> Result<Vec<(String, String)>> {
    let policy = || -> Result<Vec<(String, String)>> {
        let output = process::output(
            Command::new("apt-cache").arg("policy").args(names).env("LC_ALL", "C"),
        )?;
        Ok(parse_policy(&output))
    };
    let all = policy()?;
    if !all.is_empty() {
        return Ok(all);
    }
    update()?;
    policy()
}

/// Installs `names`. `why` completes the line "installing …: ".
pub(crate) fn install(names: &[&str], why: &str) -> Result<()> {
    let _alone = alone();
    eprintln!("setup: installing {} by apt: {why}", names.join(" "));
    if known(names)?.len() < names.len() {
        update()?;
    }
    let offered = known(names)?;
    let unknown: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !offered.iter().any(|(offered, _)| offered == name))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "apt offers no {}, needed for {why}: add the suite that has it to apt's sources",
            unknown.join(" ")
        );
    }
    // A package that would displace another is for the user to decide.
    let options = ["-qq", "install", "--yes", "--no-install-recommends", "--no-remove"];
    or_refreshed(|| apt(&options, names)).map_err(|error| {
        let names = names.join(" ");
        anyhow!(
            "{error:#}: {names} cannot be installed, needed for {why}; run `apt-get install {names}` \
             as root, then try again"
        )
    })
}

/// Fetches package `name`, and what it needs that this system does not have, into `directory`;
/// gives their files. Nothing is installed, which takes no privilege.
pub(crate) fn download(name: &str, directory: &Path) -> Result<Vec<PathBuf>> {
    let _alone = alone();
    if known(&[name])?.is_empty() {
        bail!("apt offers no {name}: add the suite that has it to apt's sources");
    }
    or_refreshed(|| fetch(Command::new("apt-get"), name, directory))
}

/// The same by an apt-get that has been told where its lists are.
pub(crate) fn download_by(command: Command, name: &str, directory: &Path) -> Result<Vec<PathBuf>> {
    let _alone = alone();
    fetch(command, name, directory)
}

/// The same for who holds [`alone`].
fn fetch(mut command: Command, name: &str, directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory.join("partial"))?;
    process::output(downloading(&mut command, name, directory))?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension() == Some(OsStr::new("deb")));
    Ok(files)
}

/// Fetches package `name` alone into `directory`, which is to be empty; gives its file. Nothing is installed, which
/// takes no privilege.
pub(crate) fn download_alone(name: &str, directory: &Path) -> Result<PathBuf> {
    let _alone = alone();
    if known(&[name])?.is_empty() {
        bail!("apt offers no {name}: add the suite that has it to apt's sources");
    }
    let mut download = Command::new("apt-get");
    // The directory need not be readable by apt's own user.
    download.args(["-qq", "download", "-o", "APT::Sandbox::User=root", name]);
    download.current_dir(directory);
    or_refreshed(|| process::output(&mut download))?;
    let mut files = fs::read_dir(directory)?.map_while(Result::ok).map(|entry| entry.path());
    let package = files.find(|path| path.extension() == Some(OsStr::new("deb")));
    package.with_context(|| format!("apt fetched no package {name}"))
}

/// apt-get that puts what an installation would take into `directory`.
fn downloading<'a>(command: &'a mut Command, name: &str, directory: &Path) -> &'a mut Command {
    command.args(["-qq", "install", "--yes", "--no-install-recommends", "--download-only"]);
    command.arg("-o").arg(format!("Dir::Cache::archives={}", directory.display()));
    // The directory is nobody else's, and need not be readable by apt's own user.
    command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", name])
}

/// Does it again with fresh lists when it fails: lists older than the archive name files that it no
/// longer has.
fn or_refreshed<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    attempt().or_else(|error| {
        eprintln!("setup: {error:#}");
        update().and_then(|()| attempt())
    })
}

fn update() -> Result<()> {
    eprintln!("setup: refreshing apt's package lists: by those that are here it cannot be had");
    apt(&["-qq", "update"], &[]).map_err(|error| {
        anyhow!(
            "{error:#}: apt's package lists cannot be refreshed and nothing was installed; run \
             `apt-get update` as root, then try again"
        )
    })
}

/// Runs apt-get; what it and dpkg say of a success is of no use to anybody.
fn apt(options: &[&str], names: &[&str]) -> Result<()> {
    let mut command = process::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "Dpkg::Use-Pty=0"]);
    // Another apt may be running: unattended upgrades, an image that is still booting.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(options).args(names);
    let output = command.output().context("apt-get does not start")?;
    if !output.status.success() {
        bail!("apt-get failed: {}", cause(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}

/// What apt-get's or sudo's errors come to, in one line.
fn cause(stderr: &str) -> String {
    let errors: Vec<&str> =
        stderr.lines().filter_map(|line| line.trim().strip_prefix("E: ")).collect();
    match errors.is_empty() {
        true => stderr.trim_end().lines().last().unwrap_or("it said nothing").trim().to_owned(),
        false => errors.join("; "),
    }
}

/// Package and candidate version from `apt-cache policy`.
fn parse_policy(output: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut package = None;
    for line in output.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = Some(name.to_owned());
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
            && let Some(package) = package.take()
        {
            found.push((package, version.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_what_apt_calls_an_error() {
        let said = "W: no signature\nE: Failed to fetch a\nE: Unable to fetch\nN: see apt(8)\n";
        assert_eq!(cause(said), "Failed to fetch a; Unable to fetch");
        assert_eq!(cause("sudo: a password is required\n"), "sudo: a password is required");
        assert_eq!(cause(""), "it said nothing");
    }

    #[test]
    fn policy_gives_candidates_only() {
        let output = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version \
                      table:\n     1.96.0+dfsg1-1~deb12u2 500\nghost:\n  Installed: (none)\n  \
                      Candidate: (none)\n  Version table:\nkmod:\n  Installed: 30\n  Candidate: 30\n";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse_policy(output),
            [pair("rustc-web", "1.96.0+dfsg1-1~deb12u2"), pair("kmod", "30")]
        );
        assert_eq!(parse_policy(""), []);
    }
}
