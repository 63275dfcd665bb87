//! Writes cpio archives for the guest's initial root file system. The kernel unpacks any number of
//! them, one after the other.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cpio::newc::{self, ModeFileType};

/// An archive being written; it takes its name only when it is whole.
pub(crate) struct Archive {
    out: BufWriter<File>,
    path: PathBuf,
    new: PathBuf,
    entries: u32,
    seen: HashSet<String>,
}

impl Archive {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let new = path.with_extension("new");
        let file = File::create(&new).with_context(|| format!("cannot write {}", new.display()))?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 20, file),
            path: path.to_owned(),
            new,
            entries: 0,
            seen: HashSet::new(),
        })
    }

    /// A copy of the host's file, executable when it is so here.
    pub(crate) fn file(&mut self, host: &Path, guest: &str) -> Result<()> {
        let read =
            || -> Result<_> { Ok((fs::read(host)?, fs::metadata(host)?.permissions().mode())) };
        let (bytes, mode) = read().with_context(|| format!("cannot read {}", host.display()))?;
        self.bytes(guest, mode & 0o111, &bytes)
    }

    /// A file of `bytes`; `executable` holds its execute permissions.
    pub(crate) fn bytes(&mut self, guest: &str, executable: u32, bytes: &[u8]) -> Result<()> {
        self.entry(guest, ModeFileType::Regular, 0o644 | executable, bytes)
    }

    pub(crate) fn link(&mut self, guest: &str, target: &str) -> Result<()> {
        self.entry(guest, ModeFileType::Symlink, 0o777, target.as_bytes())
    }

    pub(crate) fn directory(&mut self, guest: &str) -> Result<()> {
        self.entry(guest, ModeFileType::Directory, 0o755, &[])
    }

    /// True when the archive has `guest` already.
    pub(crate) fn has(&self, guest: &str) -> bool {
        self.seen.contains(&normal(guest))
    }

    /// Writes an entry, with the directories above it first; the first of a name wins.
    fn entry(&mut self, guest: &str, kind: ModeFileType, mode: u32, bytes: &[u8]) -> Result<()> {
        let name = normal(guest);
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.entries += 1;
        let size =
            u32::try_from(bytes.len()).context("a file of 4 GiB or more fits no cpio archive")?;
        let builder =
            newc::Builder::new(&name).ino(self.entries).mode(mode).set_mode_file_type(kind);
        let mut writer = builder.write(&mut self.out, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.out)?;
        self.out.flush()?;
        fs::rename(&self.new, &self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The name inside the archive: relative, and under /usr where a merged /usr has it, for the other
/// archives make `/bin`, `/sbin` and `/lib*` links.
pub(crate) fn normal(guest: &str) -> String {
    let name = guest.trim_start_matches('/');
    let (first, rest) = name.split_once('/').unwrap_or((name, ""));
    match first {
        "bin" | "sbin" if !rest.is_empty() => format!("usr/bin/{rest}"),
        "lib" | "lib64" if !rest.is_empty() => format!("usr/{name}"),
        "usr" => rest
            .strip_prefix("sbin/")
            .map_or_else(|| name.to_owned(), |rest| format!("usr/bin/{rest}")),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_merged_usr() {
        for (guest, name) in [
            ("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
            ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
            ("/usr/sbin/tc", "usr/bin/tc"),
            ("/sbin/modprobe", "usr/bin/modprobe"),
            ("/usr/lib/x", "usr/lib/x"),
            ("/bin", "bin"),
            ("/root/a", "root/a"),
        ] {
            assert_eq!(normal(guest), name);
        }
    }

    #[test]
    fn an_archive_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cpio");
        let mut archive = Archive::create(&path).unwrap();
        archive.bytes("/root/deep/x", 0o111, b"hello").unwrap();
        archive.bytes("/root/deep/x", 0, b"second").unwrap();
        archive.link("/bin", "usr/bin").unwrap();
        assert!(!path.exists(), "it has no name before it is whole");
        archive.finish().unwrap();
        let mut file = File::open(&path).unwrap();
        let mut names = Vec::new();
        loop {
            let reader = newc::Reader::new(file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                reader.entry().file_size(),
            ));
            file = reader.finish().unwrap();
        }
        let expected = [
            ("root", 0o040_755, 0),
            ("root/deep", 0o040_755, 0),
            ("root/deep/x", 0o100_755, 5),
            ("bin", 0o120_777, 7),
        ];
        assert_eq!(names, expected.map(|(name, mode, size)| (name.to_owned(), mode, size)));
    }
}
