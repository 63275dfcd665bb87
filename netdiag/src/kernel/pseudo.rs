//! Files of the kernel's pseudo file systems, whether or not somebody mounted them.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstatfs, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Longest file read; all of those meant here are one line.
const FILE_MAX: u64 = 64 << 10;

/// A pseudo file system. The numbers are from include/uapi/linux/magic.h.
#[derive(Clone, Copy, Debug)]
pub(super) struct PseudoFs {
    name: &'static str,
    magic: u64,
    places: &'static [&'static str],
}

/// Switches and state for kernel developers.
pub(super) const DEBUGFS: PseudoFs =
    PseudoFs { name: "debugfs", magic: 0x6462_6720, places: &["/sys/kernel/debug"] };

/// The list of trace events.
pub(super) const TRACEFS: PseudoFs = PseudoFs {
    name: "tracefs",
    magic: 0x7472_6163,
    places: &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"],
};

/// State of the security modules.
pub(super) const SECURITYFS: PseudoFs =
    PseudoFs { name: "securityfs", magic: 0x7363_6673, places: &["/sys/kernel/security"] };

impl PseudoFs {
    /// The root of the file system: where it is mounted, else of a mount that belongs to this
    /// descriptor alone and ends with it. The mounted one comes first because before Linux 6.10 a
    /// second mount resets the options of the first (`mount_single`, fs/super.c).
    ///
    /// # Errors
    /// The kernel lacks the file system, or this process has no `CAP_SYS_ADMIN` and it is not
    /// mounted.
    pub(super) fn root(self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for place in self.places {
            if let Ok(dir) = openat(CWD, *place, flags, Mode::empty())
                && fstatfs(&dir).is_ok_and(|stat| stat.f_type as u64 == self.magic)
            {
                return Ok(dir);
            }
        }
        let context = fsopen(self.name, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// A file of it, as text.
    ///
    /// # Errors
    /// As [`root`](Self::root), and what opening and reading the file gives.
    pub(super) fn read(self, path: &str) -> io::Result<String> {
        read(&self.root()?, path)
    }
}

/// A file below `root`, as text.
pub(super) fn read(root: &OwnedFd, path: &str) -> io::Result<String> {
    let file = openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}
