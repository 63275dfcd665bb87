//! The emulator: this machine's qemu, else Debian's, unpacked into `target/vm/qemu`.
//!
//! It is not installed, for its packages may displace those of another version of qemu, and
//! unpacking needs no privilege. Debian's qemu finds its firmware beside itself.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, process, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// What serves a directory to a guest: a part of older qemu's packages, a package of its own since.
const SERVER: &str = "virtiofsd";

/// Where it stands.
const SERVERS: [&str; 3] = ["usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd", "usr/lib/virtiofsd"];

/// Where Debian has shared libraries, below the root of its packages.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

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
    pub(crate) fn get() -> Result<Self> {
        if let Some(program) = process::which(PROGRAM) {
            return Ok(Self { program, root: "/".into(), libraries: None });
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

/// Unpacks a package, and what it needs that this system lacks, into `root`.
fn extract(package: &str, root: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(workspace::target().join("vm"))?;
    for file in packages::download(package, work.path())? {
        process::run(Command::new("dpkg-deb").arg("-x").args([&file, root]))?;
    }
    Ok(())
}
