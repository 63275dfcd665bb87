//! The emulator: this machine's qemu, else Debian's, unpacked into `target/vm/qemu`, or a newer one of its
//! backports.
//!
//! It is not installed, for its packages may displace those of another version of qemu, and
//! unpacking needs no privilege.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use crate::{packages, process, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// What serves a directory to a guest: a part of older qemu's packages, a package of its own since.
const SERVER: &str = "virtiofsd";

/// Where it stands.
const SERVERS: [&str; 3] = ["usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd", "usr/lib/virtiofsd"];

/// Where Debian has shared libraries, below the root of its packages.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Which one is wanted where this machine has none installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The newest: 10.0 runs the tests in a quarter less CPU time than 7.2.
    Quickest,
    /// That of the release: it serves directories, and instructions were counted by it before.
    OfRelease,
}

/// A qemu that starts.
#[derive(Debug)]
pub(crate) struct Emulator {
    program: PathBuf,
    /// What its own files are below.
    root: PathBuf,
    /// `LD_LIBRARY_PATH`, of one that is unpacked.
    libraries: Option<OsString>,
}

impl Emulator {
    /// Finds or unpacks it.
    pub(crate) fn get(wanted: Wanted) -> Result<Self> {
        if let Some(program) = process::which(PROGRAM) {
            return Ok(Self { program, root: "/".into(), libraries: None });
        }
        if wanted == Wanted::Quickest
            && let Some(newer) = Self::newer()
        {
            return Ok(newer);
        }
        let directory = workspace::target().join("vm/qemu");
        let unpacked = Self::below(&directory)?;
        if unpacked.starts() {
            return Ok(unpacked);
        }
        let _lock = lock(&directory)?;
        if !unpacked.starts() {
            unpack(&directory)?;
        }
        match process::output(&mut unpacked.version()) {
            Ok(_) => Ok(unpacked),
            Err(error) => Err(error.context(format!(
                "Debian's {PROGRAM} does not start from {}: install {PACKAGE}, then try again",
                directory.display()
            ))),
        }
    }

    /// The one of the release's backports; none where there is none, which is looked up once.
    fn newer() -> Option<Self> {
        let directory = workspace::target().join("vm/qemu-newer");
        let unpacked = Self::below(&directory).ok()?;
        let none = directory.with_extension("none");
        let _lock = lock(&directory).ok()?;
        if !unpacked.starts() && !none.exists() {
            let got = backport(&directory).and_then(|()| process::output(&mut unpacked.version()));
            if let Err(error) = got {
                eprintln!(
                    "setup: no newer {PACKAGE} ({error:#}): the release's own does the same, slower"
                );
                // Then it is looked up again.
                let _ = fs::write(&none, "");
            }
        }
        unpacked.starts().then_some(unpacked)
    }

    fn below(root: &Path) -> Result<Self> {
        let libraries = env::join_paths(LIBRARIES.map(|directory| root.join(directory)))
            .context("the path of target/ has a colon, which a library path cannot hold")?;
        let program = root.join("usr/bin").join(PROGRAM);
        Ok(Self { program, root: root.to_owned(), libraries: Some(libraries) })
    }

    /// False too where a library that it was unpacked beside has left the system since.
    fn starts(&self) -> bool {
        self.program.exists() && process::output(&mut self.version()).is_ok()
    }

    fn version(&self) -> Command {
        let mut command = Command::new(&self.program);
        self.prepare(&mut command);
        command.arg("--version");
        command
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The program that serves directories to a guest; installed, or unpacked beside the emulator, where it is
    /// a package of its own.
    pub(super) fn server(&self) -> Result<PathBuf> {
        let find =
            || SERVERS.iter().map(|place| self.root.join(place)).find(|place| place.exists());
        if let Some(server) = find() {
            return Ok(server);
        }
        let why = "directories that a guest is shown";
        if !packages::has_apt() {
            bail!("{SERVER} missing, needed for {why}: install it, then try again");
        }
        if self.libraries.is_some() {
            let _lock = lock(&self.root)?;
            eprintln!("setup: unpacking {SERVER} into target/vm/qemu: {why}");
            extract(SERVER, &self.root)?;
        } else {
            packages::install(&[SERVER], why)?;
        }
        find().with_context(|| format!("{SERVER} is in none of {SERVERS:?}: {why} cannot be had"))
    }

    /// Where its firmware is: it is told, for a newer one looks where it would be installed.
    pub(super) fn firmware(&self) -> Vec<OsString> {
        let share = ["qemu", "seabios"].map(|name| self.root.join("usr/share").join(name));
        let is_unpacked = self.libraries.is_some();
        let places = share.into_iter().filter(|place| is_unpacked && place.is_dir());
        places.flat_map(|place| ["-L".into(), place.into_os_string()]).collect()
    }

    /// Sets what `command` needs to start the emulator, or the server beside it.
    pub(super) fn prepare(&self, command: &mut Command) {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
    }
}

/// Held while what is unpacked into `directory` changes.
fn lock(directory: &Path) -> Result<fs::File> {
    fs::create_dir_all(directory)?;
    let lock = fs::File::create(directory.with_extension("lock"))?;
    lock.lock().context("cannot lock the emulator's directory")?;
    Ok(lock)
}

/// Makes `directory` out of the emulator's package and of the libraries that this system lacks.
fn unpack(directory: &Path) -> Result<()> {
    let why = "virtual machines to test on other kernels";
    if !packages::has_apt() {
        bail!("{PROGRAM} missing, needed for {why}: install it, then try again");
    }
    eprintln!("setup: unpacking {PACKAGE} into target/vm/qemu: {why}");
    let work = tempfile::tempdir_in(workspace::target().join("vm"))?;
    let root = work.path().join("root");
    extract(PACKAGE, &root)?;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::rename(root, directory).context("cannot put the emulator into target/vm/qemu")
}

/// The same of the backports of this release.
fn backport(directory: &Path) -> Result<()> {
    if !packages::has_apt() {
        bail!("there is no apt");
    }
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("this release has no name")?.trim_matches('"');
    let suite = format!("{codename}-backports");
    let apt = Apt::of_system(&[codename, &suite])?;
    eprintln!(
        "setup: unpacking {PACKAGE} of {suite} into target/vm/qemu-newer: the tests' machines are quicker by it"
    );
    let work = tempfile::tempdir_in(workspace::target().join("vm"))?;
    let mut command = apt.command("apt-get");
    command.args(["-t", &suite]);
    let files = packages::download_by(command, PACKAGE, &work.path().join("packages"))?;
    let is_it = |file: &&PathBuf| {
        let name = file.file_name().map(OsStr::to_string_lossy);
        name.is_some_and(|name| name.starts_with(&format!("{PACKAGE}_")) && name.contains("~bpo"))
    };
    files.iter().find(is_it).with_context(|| format!("{suite} has no {PACKAGE}"))?;
    let root = work.path().join("root");
    for file in files {
        process::run(Command::new("dpkg-deb").arg("-x").args([&file, &root]))?;
    }
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::rename(root, directory).context("cannot put the emulator into target/vm/qemu-newer")
}

/// Unpacks a package, and what it needs that this system lacks, into `root`.
fn extract(package: &str, root: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::target().join("vm"))?;
    for file in packages::download(package, work.path())? {
        process::run(Command::new("dpkg-deb").arg("-x").args([&file, root]))?;
    }
    Ok(())
}
