//! What is mounted where a file goes: how long it lasts.

use std::path::Path;

/// Why files in a directory do not outlive the container that wrote them, as the end of a sentence;
/// `None` where they do. `mountinfo` is that of the container (`proc_pid_mountinfo(5)`), `directory`
/// absolute and without links.
#[must_use]
pub fn short_lived(mountinfo: &str, directory: &Path) -> Option<&'static str> {
    let mount = mountinfo
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| directory.starts_with(mount.point))
        // Of several at one place the last one is seen.
        .max_by_key(|mount| mount.point.as_os_str().len())?;
    if mount.point == Path::new("/") {
        return Some("it lies in the container's own file system");
    }
    // /var/lib/kubelet/pods/UID/volumes/kubernetes.io~empty-dir/NAME
    if mount.root.contains("/kubernetes.io~empty-dir/") {
        return Some("it is an emptyDir");
    }
    ["tmpfs", "ramfs"].contains(&mount.kind).then_some("it lies in memory")
}

struct Mount<'a> {
    /// What of the file system is mounted.
    root: &'a str,
    point: &'a Path,
    /// The file system's.
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(' ');
        let root = fields.nth(3)?;
        let point = Path::new(fields.next()?);
        let kind = fields.skip_while(|field| *field != "-").nth(1)?;
        Some(Self { root, point, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_hosts_lasts() {
        let mountinfo = "\
100 1 0:50 / / ro,relatime - overlay overlay ro,lowerdir=/a\n\
101 100 0:51 / /proc rw - proc proc rw\n\
102 100 8:1 / /host ro,relatime master:1 - ext4 /dev/sda1 rw\n\
103 102 0:25 / /host/run rw,nosuid master:2 - tmpfs tmpfs rw\n\
104 100 8:1 /var/lib/netdiag /var/lib/netdiag rw - ext4 /dev/sda1 rw\n\
105 100 8:1 /var/lib/kubelet/pods/6a/volumes/kubernetes.io~empty-dir/scratch /scratch rw - ext4 /dev/sda1 rw\n\
106 100 0:60 / /memory rw - tmpfs tmpfs rw\n\
107 106 8:2 / /memory rw - xfs /dev/sdb rw\n\
108 100 0:61 / /lib rw - tmpfs tmpfs rw\n\
bad";
        for (directory, expected) in [
            ("/var/lib/netdiag", None),
            ("/var/lib/netdiag/node-1", None),
            ("/host/var/lib/netdiag", None),
            ("/memory", None),
            ("/var/lib/netdiag2", Some("it lies in the container's own file system")),
            ("/tmp", Some("it lies in the container's own file system")),
            ("/scratch/x", Some("it is an emptyDir")),
            ("/host/run/netdiag", Some("it lies in memory")),
            ("/lib", Some("it lies in memory")),
        ] {
            assert_eq!(short_lived(mountinfo, Path::new(directory)), expected, "{directory}");
        }
        assert_eq!(short_lived("", Path::new("/tmp")), None, "unknown");
    }
}
