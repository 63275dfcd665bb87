//! The directory of the dumps: names, safe opening, and room.
//!
//! All files are opened relative to one descriptor and without following symlinks, so nobody who may write to the
//! directory can lead a privileged writer elsewhere by swapping a name. Who may write to the directory above it
//! can: what that names is opened again where it was replaced ([`Directory::is_current`]).

use std::{
    fs::{DirBuilder, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, fstatvfs, fsync,
        openat, statat, unlinkat,
    },
    io::{Errno, retry_on_intr},
    process::geteuid,
};

use super::{left::remove_left, name::Name};

/// What the name of a file begins with by which it is tried whether there can be any; its process id stands behind.
const PROBE: &str = ".netdiag-probe-";

/// The `--out` directory and the node whose files are in it.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    node: String,
}

impl Directory {
    /// Opens `path`, creating it with mode 0700 where it is missing, and tries whether files can
    /// be created in it. A full disk is no error here.
    pub(super) fn open(path: &Path, node: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || retry_on_intr(|| openat(CWD, path, flags, Mode::empty()));
        let fd = match open() {
            Err(Errno::NOENT) => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                open()
            }
            opened => opened,
        };
        let fd = fd.map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR if path.is_symlink() => {
                io::Error::other("a symlink is not followed, name the directory itself")
            }
            error => error.into(),
        })?;
        let directory = Self { fd, path: path.to_owned(), node: node.to_owned() };
        directory.probe()?;
        Ok(directory)
    }

    fn probe(&self) -> io::Result<()> {
        let name = format!("{PROBE}{}", std::process::id());
        self.remove(&name)?;
        remove_left(&self.fd, PROBE, 1);
        match self.create(&name) {
            Ok(_) => self.remove(&name),
            Err(error) if super::is_full(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still what its path names: it may have been moved, or something mounted on it, and nobody would
    /// find what is written to it.
    pub(super) fn is_current(&self) -> bool {
        let named = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        named
            .and_then(|named| Ok((named, fstat(&self.fd)?)))
            .is_ok_and(|(named, own)| (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino))
    }

    /// Whose files are ours.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// What a pair that begins then is called first.
    pub(super) fn name(&self, time: Timestamp) -> Name {
        Name::new(&self.node, time)
    }

    /// Creates a file that must not exist, mode 0600, for appending.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        create_new(&self.fd, Path::new(name))
    }

    /// Opens an earlier file for reading and cutting: only a regular file of this user that has
    /// no other name.
    pub(super) fn reopen(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || stat.st_nlink != 1 || stat.st_uid != geteuid().as_raw() {
            return Err(io::Error::other("not a plain file of this user"));
        }
        Ok(File::from(fd))
    }

    /// Removes a file; that it is not there is fine, too.
    ///
    /// # Errors
    /// Those of `unlinkat`: it may not be removed, as one that is only appended to.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fsync(&self.fd))?)
    }

    /// This node's pairs, oldest first.
    pub(super) fn pairs(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Some((name, "hlog" | "jsonl")) = name.rsplit_once('.') else { continue };
            names.extend(Name::parse(name).filter(|name| name.node() == self.node));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn pair_bytes(&self, name: &Name) -> u64 {
        ["hlog", "jsonl"]
            .iter()
            .filter_map(|extension| {
                let name = format!("{name}.{extension}");
                statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()
            })
            .map(|stat| u64::try_from(stat.st_size).unwrap_or_default())
            .sum()
    }

    /// Removes the oldest pairs until `more` bytes fit under `max_disk`; never `current` nor one
    /// that another process writes.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when they do not fit even then, with what could not be removed.
    pub(super) fn make_room(&self, max_disk: u64, more: u64, current: &Name) -> io::Result<()> {
        let pairs: Vec<(Name, u64)> = self
            .pairs()?
            .into_iter()
            .map(|name| {
                let bytes = self.pair_bytes(&name);
                (name, bytes)
            })
            .collect();
        let mut total: u64 = pairs.iter().map(|(_, bytes)| bytes).sum::<u64>() + more;
        let mut kept = None;
        for (name, bytes) in pairs {
            if total <= max_disk {
                return Ok(());
            }
            if name != *current && self.is_at_rest(&name) {
                for file in [format!("{name}.hlog"), format!("{name}.jsonl")] {
                    if let Err(error) = self.remove(&file) {
                        kept = kept.or(Some(format!("{file} could not be removed: {error}")));
                    }
                }
                total -= bytes.saturating_sub(self.pair_bytes(&name));
            }
        }
        if total <= max_disk {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            match kept {
                None => format!("an interval of {more} bytes does not fit --max-disk, raise it"),
                Some(kept) => format!(
                    "an interval of {more} bytes does not fit --max-disk, and {kept}; remove it or raise \
                     --max-disk"
                ),
            },
        ))
    }

    fn is_at_rest(&self, name: &Name) -> bool {
        self.reopen(&format!("{name}.hlog")).map_or_else(
            |error| error.kind() == io::ErrorKind::NotFound,
            |log| flock(&log, FlockOperation::NonBlockingLockExclusive).is_ok(),
        )
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Creates a file that must not exist, mode 0600, for appending. The last part of its name is no symlink then.
pub(crate) fn create_new(directory: impl AsFd, path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(File::from(retry_on_intr(|| openat(directory.as_fd(), path, flags, mode))?))
}

/// How much of the file system is left to others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Free bytes to leave.
    pub(crate) bytes: u64,
    /// Free part of the file system to leave, in percent.
    pub(crate) percent: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { bytes: 100_000_000, percent: 5 }
    }
}

impl Room {
    /// Why the file system of a file or directory is too full to write to, if it is.
    pub(crate) fn lacking(self, of: impl AsFd) -> io::Result<Option<String>> {
        let stat = fstatvfs(of)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let part = total / 100 * self.percent;
        Ok((free < self.bytes || free < part).then(|| {
            format!(
                "the file system has {free} bytes free, {} are left to others",
                self.bytes.max(part)
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn probes_of_runs_that_were_killed_are_removed() {
        let root = tempfile::tempdir().expect("directory");
        fs::write(root.path().join(format!("{PROBE}{}", u32::MAX)), "").expect("file");
        Directory::open(root.path(), "a").expect("opened");
        assert_eq!(fs::read_dir(root.path()).expect("directory").count(), 0);
    }

    #[test]
    fn what_cannot_be_removed_makes_no_room() {
        let root = tempfile::tempdir().expect("directory");
        let directory = Directory::open(root.path(), "a").expect("opened");
        let stays = root.path().join("netdiag-a-20200101T000000Z.jsonl");
        fs::create_dir(&stays).expect("a directory in its place");
        fs::write(stays.join("file"), "").expect("file");
        let goes = root.path().join("netdiag-a-20200101T000000Z-2.hlog");
        fs::write(&goes, [b'#'; 1_000]).expect("file");
        let bytes = fs::metadata(&stays).expect("there").size();
        let current = directory.name(Timestamp::UNIX_EPOCH);
        directory.make_room(bytes + 10, 10, &current).expect("the younger one makes room");
        assert!(!goes.exists());
        let error = directory.make_room(bytes, 10, &current).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("netdiag-a-20200101T000000Z.jsonl could"), "{error}");
    }
}
