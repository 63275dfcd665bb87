//! The guest's root file system: the host's own network tools with their libraries (made once),
//! the kernel's modules (made once per kernel) and what one run brings.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{archive::Archive, kernel::Kernel, library};
use crate::{process, workspace};

/// Programs that every guest has beside busybox's.
const PROGRAMS: &[&str] = &[
    "bash",
    "bpftool",
    "bridge",
    "conntrack",
    "ip",
    "kmod",
    "nft",
    "nstat",
    "ping",
    "prlimit",
    "runc",
    "setpriv",
    "ss",
    "sysctl",
    "tc",
];

/// Programs that a guest has when the host has them.
const EXTRAS: &[&str] = &["ethtool", "strace", "tcpdump"];

/// Data that those programs read: names of protocols, netem's distributions, tc's plug-ins.
const DATA: &[&str] =
    &["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/tc"];

/// Directories that the guest mounts onto.
const DIRECTORIES: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "root",
    "etc",
    "mnt",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "var/log",
    "var/tmp",
];

/// What one run adds to the guest.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Host file or directory and its path in the guest.
    pub(crate) bring: Vec<(PathBuf, String)>,
    /// Programs that the host has, with their libraries.
    pub(crate) with: Vec<String>,
    /// The shell script to run.
    pub(crate) command: String,
    /// Absolute guest paths to bring out afterwards.
    pub(crate) take: Vec<String>,
}

/// Writes the whole image for one run to `path`.
pub(crate) fn write(kernel: &Kernel, run: &Run, path: &Path) -> Result<()> {
    let base = base()?;
    let own = path.with_extension("run");
    let mut archive = Archive::create(&own)?;
    archive.bytes("/init", 0o111, include_bytes!("init.sh"))?;
    archive.bytes("/xtask/command", 0, run.command.as_bytes())?;
    let take: String =
        run.take.iter().map(|path| path.trim_start_matches('/').to_owned() + "\n").collect();
    archive.bytes("/xtask/take", 0, take.as_bytes())?;
    for (host, guest) in &run.bring {
        tree(&mut archive, host, guest)?;
    }
    for name in &run.with {
        program(&mut archive, name)?;
    }
    archive.finish()?;
    let mut image = File::create(path)?;
    for part in [&base, &kernel.modules, &own] {
        let mut part =
            File::open(part).with_context(|| format!("cannot read {}", part.display()))?;
        io::copy(&mut part, &mut image)?;
    }
    Ok(())
}

/// The archive with the host's tools, made anew when one of them has changed.
fn base() -> Result<PathBuf> {
    let directory = workspace::target().join("vm");
    fs::create_dir_all(&directory)?;
    let (path, key_path) = (directory.join("base.cpio"), directory.join("base.key"));
    let lock = File::create(directory.join("base.lock"))?;
    lock.lock().context("cannot lock target/vm/base.lock")?;
    let mut names: Vec<&str> = vec!["busybox"];
    names.extend(PROGRAMS);
    names.extend(EXTRAS.iter().filter(|name| process::which(name).is_some()));
    let key = key(&names)?;
    if path.exists() && fs::read_to_string(&key_path).is_ok_and(|old| old == key) {
        return Ok(path);
    }
    eprintln!("vm: making the guest's root file system from this machine's tools");
    let mut archive = Archive::create(&path)?;
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/sbin", "bin"),
        ("var/run", "../run"),
    ] {
        archive.link(link, target)?;
    }
    for name in &names {
        program(&mut archive, name)?;
    }
    for applet in ["modprobe", "lsmod", "insmod", "rmmod", "modinfo"] {
        archive.link(&format!("/usr/bin/{applet}"), "kmod")?;
    }
    let applets = process::output(Command::new(library::program("busybox")?).arg("--list"))?;
    for applet in applets.lines() {
        archive.link(&format!("/usr/bin/{applet}"), "busybox")?;
    }
    for data in DATA.iter().map(Path::new).filter(|data| data.exists()) {
        tree(&mut archive, data, &data.display().to_string())?;
    }
    for (file, text) in [
        (
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1 localhost netdiag-vm\n::1 localhost\n"),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("/etc/os-release", "ID=netdiag-vm\nPRETTY_NAME=\"netdiag's test machine\"\n"),
    ] {
        archive.bytes(file, 0, text.as_bytes())?;
    }
    archive.finish()?;
    fs::write(key_path, key)?;
    Ok(path)
}

/// Tells one set of host programs from another: paths, sizes and times of change.
fn key(names: &[&str]) -> Result<String> {
    let mut key = String::from("3\n");
    for name in names {
        let path = library::program(name)?;
        let metadata = fs::metadata(&path)?;
        writeln!(key, "{} {} {}", path.display(), metadata.size(), metadata.mtime())?;
    }
    Ok(key)
}

/// A host program, as /usr/bin/NAME, with its libraries at their own paths.
fn program(archive: &mut Archive, name: &str) -> Result<()> {
    let path = library::program(name)?;
    archive.file(&path, &format!("/usr/bin/{name}"))?;
    libraries(archive, &path)
}

fn libraries(archive: &mut Archive, program: &Path) -> Result<()> {
    for library in library::of(program)? {
        let guest = library.display().to_string();
        if !archive.has(&guest) {
            archive.file(&library, &guest)?;
        }
    }
    Ok(())
}

/// A file, or a directory with all that is in it.
fn tree(archive: &mut Archive, host: &Path, guest: &str) -> Result<()> {
    let kind = fs::metadata(host).with_context(|| format!("cannot read {}", host.display()))?;
    if kind.is_file() {
        return archive.file(host, guest);
    }
    if !kind.is_dir() {
        bail!("{} is neither a file nor a directory", host.display());
    }
    archive.directory(guest)?;
    for entry in fs::read_dir(host)? {
        let entry = entry?;
        tree(archive, &entry.path(), &format!("{guest}/{}", entry.file_name().to_string_lossy()))?;
    }
    Ok(())
}

/// `words` as one line for the shell.
pub(crate) fn quote<S: AsRef<OsStr>>(words: &[S]) -> String {
    let quoted = words.iter().map(|word| {
        let word = word.as_ref().to_string_lossy();
        format!("'{}'", word.replace('\'', r"'\''"))
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_the_shell() {
        let words = ["a b", "it's", "$HOME", "", "\\"];
        let script = format!("printf '%s\\n' {}", quote(&words));
        let output = process::output(Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(output.lines().collect::<Vec<_>>(), words);
    }
}
