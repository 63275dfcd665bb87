//! The network namespaces of the node, and entering them.
//!
//! A namespace is reachable through a thread in it, a bind mount of it, or a descriptor that refers
//! to it. Not found are those that only sockets keep alive, which have no name anywhere, and those
//! that only a descriptor opened through a since unmounted bind mount keeps alive, which the kernel
//! shows as `/`.
//!
//! No descriptor of a namespace is held longer than it takes to enter it: it would keep the
//! namespace, and the interfaces in it, alive after its pod is gone.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    panic,
    path::PathBuf,
    thread,
};

use rustix::{
    fs::{FsWord, Mode, OFlags, ResolveFlags, fstat, fstatfs, open, openat2, stat},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub use self::{
    find::{Depth, Found, find},
    known::Known,
};

mod births;
mod find;
mod known;

/// `NSFS_MAGIC` (`include/uapi/linux/magic.h`): the file system of namespaces.
pub const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// The calling process's own namespace.
const OWN: &str = "/proc/self/ns/net";

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number, the one that the kernel shows as `net:[INODE]`.
    pub inode: u32,
    /// Names under `/run/netns`, sorted.
    pub names: Vec<String>,
    /// Where it is bind-mounted, as seen inside the mount namespace that mounts it, sorted.
    pub mounts: Vec<PathBuf>,
    /// Lowest id (tgid) of a process with a thread in it, as the scanned procfs counts; none when
    /// no process was seen in it.
    pub pid: Option<u32>,
    /// Whether the calling process lives in it.
    pub own: bool,
    handles: Vec<Handle>,
}

/// A way to open a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Handle {
    /// A magic link in a procfs.
    Link(PathBuf),
    /// A bind mount, at a path below the root directory of a process. It is resolved inside that
    /// root: a container must not lead us out of it.
    Mount { root: PathBuf, path: PathBuf },
}

impl Handle {
    /// What is there, without side effects, if that is it.
    fn find(&self, inode: u32) -> Result<OwnedFd, Errno> {
        const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
        let found = match self {
            Self::Link(path) => open(path, LOOK, Mode::empty())?,
            Self::Mount { root, path } => {
                let root = open(root, LOOK.union(OFlags::DIRECTORY), Mode::empty())?;
                openat2(root, path, LOOK, Mode::empty(), ResolveFlags::IN_ROOT)?
            }
        };
        if fstatfs(&found)?.f_type != NSFS_MAGIC || fstat(&found)?.st_ino != u64::from(inode) {
            return Err(Errno::NOENT);
        }
        Ok(found)
    }

    /// Opens that for use.
    fn open(&self, inode: u32) -> Result<OwnedFd, Errno> {
        let found = self.find(inode)?;
        open(
            format!("/proc/self/fd/{}", found.as_raw_fd()),
            OFlags::RDONLY.union(OFlags::CLOEXEC),
            Mode::empty(),
        )
    }
}

impl Namespace {
    /// Opens it, by the first of the ways found to it that still leads there.
    ///
    /// # Errors
    /// One line when it is gone or may not be opened.
    pub fn open(&self) -> Result<OwnedFd, String> {
        self.by_any(Handle::open).map_err(|error| match error {
            Errno::NOENT => format!("network namespace {} is gone", self.describe()),
            error => format!("cannot open network namespace {}: {error}", self.describe()),
        })
    }

    /// Whether none of the ways found to it leads there any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.by_any(Handle::find).is_err_and(|error| error == Errno::NOENT)
    }

    /// By the first way that leads there.
    fn by_any(
        &self,
        reach: impl Fn(&Handle, u32) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        let mut error = Errno::NOENT;
        for handle in &self.handles {
            match reach(handle, self.inode) {
                Ok(descriptor) => return Ok(descriptor),
                // That one may not be opened says more than that another one is gone.
                Err(Errno::NOENT | Errno::SRCH) => {}
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    /// Its inode number with what helps a reader to recognise it.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.names.first(), self.mounts.first(), self.pid) {
            (Some(name), ..) => format!("{} ({name})", self.inode),
            (None, Some(path), _) => format!("{} ({})", self.inode, path.display()),
            (None, None, Some(pid)) => format!("{} (pid {pid})", self.inode),
            (None, None, None) => self.inode.to_string(),
        }
    }
}

/// Inode number of the calling process's network namespace.
///
/// # Errors
/// Without a procfs at /proc.
pub fn own_inode() -> io::Result<u32> {
    Ok(stat(OWN)?.st_ino as u32)
}

/// Runs `f` inside a namespace, on a thread made for it that ends afterwards where the calling one is not in it. The
/// caller blocks until then, so an async caller goes through `spawn_blocking`.
///
/// # Errors
/// One line when the namespace is gone or may not be entered, or when there is no thread to be had.
pub fn enter<R: Send>(namespace: &Namespace, f: impl FnOnce() -> R + Send) -> Result<R, String> {
    let mut f = Some(f);
    enter_all(std::slice::from_ref(namespace), |_| f.take().map(|f| f()))
        .pop()
        .unwrap_or_else(|| Err("no namespace was entered".to_owned()))?
        .ok_or_else(|| "the namespace was entered twice".to_owned())
}

/// Runs `f` inside each namespace in turn, on one thread made for all of them that ends afterwards; on the calling one
/// where that is in the only one already, as on most nodes. The answers are in the order of `namespaces`. A panic of `f`
/// goes on in the caller.
///
/// The namespace that the thread starts in is not entered but simply used, so that one needs no
/// privilege.
///
/// # Errors
/// One line for each namespace that is gone or may not be entered.
pub fn enter_all<R: Send>(
    namespaces: &[Namespace],
    mut f: impl FnMut(&Namespace) -> R + Send,
) -> Vec<Result<R, String>> {
    // A thread is tens of microseconds, and what procfs shows of it is made anew for each.
    let Some(first) = namespaces.first() else { return Vec::new() };
    let is_one = namespaces.iter().all(|one| one.inode == first.inode);
    if is_one && inside() == Some(u64::from(first.inode)) {
        return namespaces.iter().map(|namespace| Ok(f(namespace))).collect();
    }
    thread::scope(|scope| {
        let visit = || {
            let mut inside = inside();
            namespaces
                .iter()
                .map(|namespace| {
                    let inode = u64::from(namespace.inode);
                    if inside != Some(inode) {
                        let descriptor = namespace.open()?;
                        move_into_link_name_space(
                            descriptor.as_fd(),
                            Some(LinkNameSpaceType::Network),
                        )
                        .map_err(|error| {
                            format!(
                                "cannot enter network namespace {}: {error} (that takes \
                                 CAP_SYS_ADMIN)",
                                namespace.describe()
                            )
                        })?;
                        inside = Some(inode);
                    }
                    Ok(f(namespace))
                })
                .collect()
        };
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, visit);
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
            Err(error) => namespaces
                .iter()
                .map(|namespace| {
                    Err(format!(
                        "cannot enter network namespace {}: no thread: {error}",
                        namespace.describe()
                    ))
                })
                .collect(),
        }
    })
}

/// Inode number of the calling thread's namespace; none where it cannot be told.
fn inside() -> Option<u64> {
    stat("/proc/thread-self/ns/net").ok().map(|stat| stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there_already_is_asked_here_and_nobody_without_a_thread() {
        let own = Namespace { inode: own_inode().expect("a procfs"), ..Namespace::default() };
        let here = thread::current().id();
        let ask = |all: &[Namespace]| enter_all(all, |_| thread::current().id());
        assert_eq!(ask(&[]), []);
        assert_eq!(ask(&[own.clone(), own.clone()]), [Ok(here), Ok(here)]);
        let [used, gone] = &ask(&[own, Namespace::default()])[..] else { panic!("two answers") };
        assert!(used.as_ref().is_ok_and(|used| *used != here), "{used:?}");
        assert!(gone.as_ref().is_err_and(|problem| problem.ends_with("is gone")), "{gone:?}");
    }
}
