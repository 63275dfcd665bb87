//! The file of `--pcap`: it grows by whole blocks, and stands still while the disk is full.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, unlinkat};

use crate::{
    format,
    view::dump::{Room, create_new},
};

/// A file that this run has made.
#[derive(Debug)]
pub(super) struct Target {
    file: File,
    path: PathBuf,
    room: Room,
    /// Bytes of whole blocks.
    bytes: u64,
    /// It may end with less than a block.
    is_torn: bool,
    pause: Option<Pause>,
    /// Packets that found no room.
    left_out: u64,
}

/// Why nothing is written at present.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// Packets left out before.
    before: u64,
}

impl Target {
    /// Creates a file that must not exist, mode 0600. The last part of its name is no symlink then.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::with_room(path, Room::default())
    }

    fn with_room(path: &Path, room: Room) -> io::Result<Self> {
        let file = create_new(CWD, path)?;
        let path = path.to_owned();
        Ok(Self { file, path, room, bytes: 0, is_torn: false, pause: None, left_out: 0 })
    }

    /// Appends whole blocks. After an error the file is as it was before, or is made so before it grows again.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] also where the rest of the file system is for others.
    pub(super) fn append(&mut self, blocks: &[u8]) -> io::Result<()> {
        if let Some(reason) = self.room.lacking(&self.file)? {
            return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
        }
        if self.is_torn {
            self.file.set_len(self.bytes)?;
        }
        self.is_torn = true;
        if let Err(error) = self.file.write_all(blocks) {
            self.is_torn = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.is_torn = false;
        self.bytes += blocks.len() as u64;
        Ok(())
    }

    /// So many packets found no room: what there is to be said, once.
    pub(super) fn paused(&mut self, error: &io::Error, packets: u64) -> Option<String> {
        let is_first = self.pause.is_none();
        self.pause.get_or_insert(Pause { before: self.left_out });
        self.left_out += packets;
        is_first.then(|| {
            format!(
                "--pcap {}: {error}; tracing goes on, no packet is written until there is room again",
                self.path()
            )
        })
    }

    /// There was room: what there is to be said, if there was none before.
    pub(super) fn resumed(&mut self) -> Option<String> {
        let Pause { before } = self.pause.take()?;
        let missing = format::count(self.left_out - before);
        Some(format!("--pcap {}: there is room again; {missing} packets are missing", self.path()))
    }

    /// Packets that found no room.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Its name, for messages.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Removes it while nothing is in it, so that its name is free for the next attempt.
    pub(super) fn discard(&self) {
        if self.bytes == 0 {
            // Best effort: it is empty, and the next attempt says that it is there.
            let _stays = unlinkat(CWD, &self.path, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_is_the_users_alone_and_never_anothers() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a.pcapng");
        let target = Target::create(&path).expect("a new file");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let again = Target::create(&path).expect_err("it is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        target.discard();
        assert!(!path.exists(), "the name is free");
        symlink(root.path().join("elsewhere"), &path).expect("a symlink");
        Target::create(&path).expect_err("it leads elsewhere");
        assert!(!root.path().join("elsewhere").exists());
    }

    #[test]
    fn a_full_disk_is_said_once_and_what_is_missing_is_counted() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a.pcapng");
        let room = Room { bytes: u64::MAX, percent: 0 };
        let mut target = Target::with_room(&path, room).expect("a file");
        let full = target.append(b"block").expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let said = target.paused(&full, 2).expect("it is said");
        assert!(said.contains("tracing goes on"), "{said}");
        assert_eq!(target.paused(&full, 3), None);
        target.room = Room { bytes: 0, percent: 0 };
        target.append(b"block").expect("room");
        let said = target.resumed().expect("it is said");
        assert!(said.ends_with("5 packets are missing"), "{said}");
        assert_eq!((target.resumed(), target.left_out()), (None, 5));
        target.discard();
        assert_eq!(fs::read(&path).expect("it stays"), b"block");
    }

    #[test]
    fn a_torn_end_is_cut_before_it_grows_again() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a.pcapng");
        let mut target = Target::with_room(&path, Room { bytes: 0, percent: 0 }).expect("a file");
        target.append(b"one").expect("written");
        target.file.write_all(b"to").expect("half a block");
        target.is_torn = true;
        target.append(b"two").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"onetwo");
    }
}
