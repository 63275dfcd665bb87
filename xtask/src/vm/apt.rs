//! apt with its own lists, cache and sources; of the system's settings it keeps only which mirror
//! to use, so that nothing of this machine changes.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use super::sources::Mirrors;
use crate::{process, workspace};

/// apt with its own state.
pub(super) struct Apt {
    directory: PathBuf,
    /// What is taken to be installed.
    status: PathBuf,
}

fn directory(suites: &[&str]) -> PathBuf {
    workspace::target().join("vm/apt").join(suites.join("+"))
}

impl Apt {
    /// For `suites`, with fresh lists, as if nothing were installed.
    pub(super) fn new(suites: &[&str]) -> Result<Self> {
        let directory = directory(suites);
        fs::create_dir_all(&directory)?;
        let status = directory.join("status");
        fs::write(&status, "")?;
        Self::with(suites, status)
    }

    /// The same for what is to run here: what this system has is not fetched.
    pub(super) fn of_system(suites: &[&str]) -> Result<Self> {
        Self::with(suites, "/var/lib/dpkg/status".into())
    }

    fn with(suites: &[&str], status: PathBuf) -> Result<Self> {
        let sources = Mirrors::of_system()?.list(suites);
        let directory = directory(suites);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("sources.list"), sources)?;
        let apt = Self { directory, status };
        process::run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    /// Names of the kernel images, one a line.
    pub(super) fn images(&self) -> Result<String> {
        self.run("apt-cache", &["pkgnames", "linux-image-"])
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.directory.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State={}", path("state")),
            format!("Dir::State::status={}", self.status.display()),
            format!("Dir::Cache={}", path("cache")),
            // An old suite's Release file may have passed its date; its signature still holds.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The directory need not be readable by apt's own user.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        process::output(self.command(program).args(arguments))
    }
}
