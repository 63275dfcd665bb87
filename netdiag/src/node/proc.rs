//! Walking a procfs by directory handles: no path from its root is built per process, thread or descriptor.

use std::{
    ffi::CStr,
    fs,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw},
    io::{Errno, Result},
    path::Arg,
};

/// Room for the entries of one `getdents64` call.
const ENTRIES_BYTES: usize = 8192;

/// Room for a link of the form `kind:[inode]`; longer ones are other files and are cut short.
const LINK_BYTES: usize = 40;

/// The first PID namespace, by whose numbers the programs name processes: `PROC_PID_INIT_INO` in
/// include/linux/proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether the procfs below a root numbers processes as the kernel's programs do, which that of a
/// container does not. One that hides its first process is the node's if it shows the kernel's threads, which are in
/// the first PID namespace alone, or us, where we are in that one.
#[must_use]
pub fn is_of_node(host_root: &Path) -> bool {
    let of_first = link_of(&host_root.join("proc/1/ns/pid"));
    // We are in no other PID namespace than the first one, so that no other's procfs shows us.
    let of_own = link_of(&host_root.join("proc/self/ns/pid"));
    let second = fs::read_to_string(host_root.join("proc/2/stat"));
    let has_kernels = second.is_ok_and(|stat| is_of_kernel(&stat));
    numbers_like_node(of_first.as_deref(), of_own.as_deref(), has_kernels)
}

/// What a link says: 5.10 hides those of others by an empty one (`proc_ns_readlink`), not by an error.
fn link_of(path: &Path) -> Option<PathBuf> {
    fs::read_link(path).ok().filter(|link| !link.as_os_str().is_empty())
}

/// Whether the kernel tells this process of others by the numbers that its programs name them by.
#[must_use]
pub(super) fn is_told_numbers_of_node() -> bool {
    let own = fs::read_link("/proc/self/ns/pid");
    own.is_ok_and(|link| link.as_os_str() == FIRST_PID_NAMESPACE)
}

fn numbers_like_node(of_first: Option<&Path>, of_own: Option<&Path>, has_kernels: bool) -> bool {
    let is_first = |link: &Path| link.as_os_str() == FIRST_PID_NAMESPACE;
    of_first.map_or_else(|| has_kernels || of_own.is_some_and(is_first), is_first)
}

/// Whether that is the `stat` of a thread of the kernel's (proc_pid_stat(5), field 9).
fn is_of_kernel(stat: &str) -> bool {
    /// `PF_KTHREAD` (include/linux/sched.h).
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let flags = || stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(6)?.parse::<u64>().ok();
    flags().is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// Opens the procfs below a root.
pub(super) fn open(host_root: &Path) -> Result<OwnedFd> {
    openat(CWD, host_root.join("proc"), DIRECTORY, Mode::empty())
}

/// Opens a directory below another one.
pub(super) fn open_dir(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    openat(dir, name, DIRECTORY, Mode::empty())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Calls `each` with the entries that are numbers (processes, threads, descriptors), in the order
/// of the kernel, which is ascending.
///
/// # Errors
/// Those of `getdents64`; entries seen before stay seen.
pub(super) fn numbers(dir: BorrowedFd<'_>, mut each: impl FnMut(u32, &CStr)) -> Result<()> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().ok().and_then(|name| name.parse().ok()) {
            each(number, name);
        }
    }
    Ok(())
}

/// What a magic link points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A socket, by its inode number in sockfs.
    Socket(u64),
    /// A network namespace, by its inode number.
    Netns(u32),
    /// A mount namespace, by its inode number.
    Mountns(u32),
    /// Anything else.
    Other,
}

impl Target {
    /// Reads the text of a link, `kind:[inode]` (`fs/nsfs.c`, `ns_dname`; `net/socket.c`,
    /// `sockfs_dname`).
    fn parse(link: &[u8]) -> Self {
        let parse = || {
            let (kind, inode) = std::str::from_utf8(link).ok()?.split_once(":[")?;
            let inode = inode.strip_suffix(']')?;
            match kind {
                "socket" => inode.parse().ok().map(Self::Socket),
                "net" => inode.parse().ok().map(Self::Netns),
                "mnt" => inode.parse().ok().map(Self::Mountns),
                _ => None,
            }
        };
        parse().unwrap_or(Self::Other)
    }
}

/// Reads a magic link, in a directory or below it.
///
/// # Errors
/// Those of `readlinkat`: EACCES and EPERM without the right to look, ENOENT and ESRCH when it is
/// gone, which [`gone`] tells apart.
pub(super) fn target(dir: BorrowedFd<'_>, name: impl Arg) -> Result<Target> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); LINK_BYTES];
    let (link, _) = readlinkat_raw(dir, name, &mut buffer)?;
    Ok(Target::parse(link))
}

/// The value after a name on the line of a group, as in `/proc/net/sockstat`.
pub(super) fn value(text: &str, group: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(group))?;
    line.split_ascii_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

/// Whether an error says no more than that the process ended or the descriptor was closed.
pub(super) fn gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_containers_procfs_is_known_by_its_first_process() {
        let (node, other) = (Some("pid:[4026531836]"), Some("pid:[4026532201]"));
        for (first, own, is_nodes) in [
            (node, None, true),
            (node, other, true),
            (other, None, false),
            (other, node, false),
            (None, node, true),
            (None, other, false),
            (None, None, false),
        ] {
            let answer = numbers_like_node(first.map(Path::new), own.map(Path::new), false);
            assert_eq!(answer, is_nodes, "{first:?} {own:?}");
        }
        assert!(!is_of_node(Path::new("/nowhere")));
    }

    #[test]
    fn threads_of_the_kernel_are_in_the_first_namespace_alone() {
        let hidden = |has_kernels| numbers_like_node(None, Some(Path::new("pid:[4]")), has_kernels);
        assert!(hidden(true) && !hidden(false));
        assert!(!numbers_like_node(Some(Path::new("pid:[4]")), None, true), "it says so itself");
        assert!(is_of_kernel("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
        assert!(!is_of_kernel("2 (k) S 0) S 0 0 0 0 -1 4194560 0 0") && !is_of_kernel("2 (k"));
    }

    #[test]
    fn links() {
        for (link, expected) in [
            ("socket:[12345]", Target::Socket(12345)),
            ("net:[4026531840]", Target::Netns(4_026_531_840)),
            ("mnt:[4026531841]", Target::Mountns(4_026_531_841)),
            ("net:[4294967296]", Target::Other),
            ("net:[]", Target::Other),
            ("net:[12", Target::Other),
            ("socket:[12](deleted)", Target::Other),
            ("/home/socket:[12]", Target::Other),
            ("pipe:[7]", Target::Other),
            ("", Target::Other),
        ] {
            assert_eq!(Target::parse(link.as_bytes()), expected, "{link}");
        }
    }

    #[test]
    fn a_link_may_lie_deeper() {
        let procfs = open(Path::new("/")).unwrap();
        let own = target(procfs.as_fd(), "self/ns/net").unwrap();
        assert!(matches!(own, Target::Netns(_)), "{own:?}");
        assert_eq!(target(procfs.as_fd(), c"0/ns/net"), Err(Errno::NOENT));
    }

    #[test]
    fn hostile_links_and_stats_are_survived() {
        crate::hostile::survived(
            &[b"socket:[12345]".to_vec(), b"net:[4026531840]".to_vec()],
            |link| {
                let _target = Target::parse(link);
            },
        );
        crate::hostile::survived_text(&["2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"], |stat| {
            let _kernels = is_of_kernel(stat);
        });
    }
}
