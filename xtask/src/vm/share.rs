//! Host directories that a guest sees, read-only, by virtiofs: nothing is copied, so that even a toolchain can
//! be brought.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{emulator::Emulator, image};
use crate::process;

/// Where the guest has them, each at its own path below this one.
pub(crate) const GUEST: &str = "/machine";

/// By which the guest mounts them.
pub(super) const TAG: &str = "machine";

/// Makes a root of nothing but the directories to share, none of which can be written to, and serves it. It
/// runs in a mount namespace of its own: what it mounts is seen by nobody else and goes with it.
const SERVE: &str = r#"set -e
server=$1 socket=$2 root=$3
shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
for directory; do
    mkdir -p "$root$directory"
    mount --bind -o ro "$directory" "$root$directory"
done
mount -o remount,bind,ro "$root"
# It writes a file with its number there.
mkdir -p /run/virtiofsd 2>/dev/null || { mount -t tmpfs tmpfs /run && mkdir /run/virtiofsd; }
exec "$server" --socket-path="$socket" -o source="$root" -o cache=always"#;

/// How long the server may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server, ended when it goes out of scope.
pub(super) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Serves `directories`, if there are any; its files are in `scratch`.
    pub(super) fn start(
        emulator: &Emulator,
        directories: &[PathBuf],
        scratch: &Path,
    ) -> Result<Option<Self>> {
        if directories.is_empty() {
            return Ok(None);
        }
        let at = |name| scratch.join(name);
        let (socket, root, log) = (at("share.socket"), at("share"), at("share.log"));
        fs::create_dir(&root)?;
        // setpriv ends it when we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount"]);
        if !process::is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", SERVE, "sh"]).arg(emulator.server()?).args([&socket, &root]);
        emulator.prepare(&mut command);
        command.args(directories).stdin(Stdio::null()).stdout(Stdio::null());
        // It tells much that is of no use to anybody.
        command.stderr(File::create(&log)?);
        let child = command.spawn().context("setpriv does not start")?;
        let mut server = Self { child, socket };
        let begun = Instant::now();
        while !server.socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                let said = fs::read_to_string(&log)?;
                let last = said.trim_end().lines().last().unwrap_or("it said nothing").to_owned();
                bail!("the server of shared directories ended with {status}: {last}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("the server of shared directories is not there after {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    /// Where the emulator reaches it.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory to share, by its path; a link stays one name for what it leads to.
pub(super) fn parse(share: &str) -> Result<PathBuf> {
    let path = Path::new(share);
    if !path.is_absolute() || !path.is_dir() {
        bail!("--share {share} is no absolute path of a directory");
    }
    Ok(path.to_owned())
}

/// What the guest does before its command.
pub(super) fn mount(directories: &[PathBuf]) -> String {
    if directories.is_empty() {
        return String::new();
    }
    let words = ["mount", "-t", "virtiofs", "-o", "ro", TAG, GUEST];
    format!("mkdir -p {GUEST} && {} || exit {}\n", image::quote(&words), super::VM_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_by_absolute_paths_are_shared() {
        assert_eq!(parse("/proc/self").unwrap(), Path::new("/proc/self"));
        for bad in ["", "proc", "/proc/version", "/no/such/directory"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
