//! Paths of the node as they are reached from here.

use std::{
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

/// Where a path of the node whose file system is mounted at `host_root` lies from here. A link on the way leads
/// where it leads on the node: an absolute one is one below that root (openat2(2), Linux 5.6). What is not there
/// lies where its name says.
#[must_use]
pub fn within(host_root: &Path, path: &str) -> PathBuf {
    let resolve = || -> Result<PathBuf, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = openat(CWD, host_root, flags | OFlags::DIRECTORY, Mode::empty())?;
        let found = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(|_| Errno::NOENT)
    };
    if host_root == Path::new("/") {
        return host_root.join(path);
    }
    resolve().unwrap_or_else(|_| host_root.join(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_where_they_do_on_the_node() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("data/logs/pods")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        symlink("/data/logs", root.join("var/log")).unwrap();
        symlink("../../../../../etc/hostname", root.join("out")).unwrap();
        assert_eq!(within(&root, "var/log/pods"), root.join("data/logs/pods"));
        assert_eq!(within(&root, "data"), root.join("data"));
        assert_eq!(within(&root, "none/such"), root.join("none/such"));
        // It leads to what is not there, and nowhere else.
        assert_eq!(within(&root, "out"), root.join("out"));
        assert_eq!(within(Path::new("/"), "proc/self"), Path::new("/proc/self"));
    }
}
