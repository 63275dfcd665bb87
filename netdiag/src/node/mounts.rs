//! What is mounted where (`proc_pid_mountinfo(5)`), and by that how long files last.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A mount, as a line tells it.
pub(super) struct Mount<'a> {
    /// What of the file system is mounted.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    /// The file system's.
    pub(super) kind: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = path(fields.nth(3)?);
        let point = path(fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Self { root, point, kind })
    }
}

/// The mounts of a `mountinfo`; lines that make no sense are none.
pub(super) fn all(mountinfo: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(Mount::parse)
}

/// Why files in a directory do not outlive the container that wrote them, as the end of a sentence;
/// `None` where they do. `mountinfo` is that of the container, `directory` absolute and without links.
#[must_use]
pub fn short_lived(mountinfo: &[u8], directory: &Path) -> Option<&'static str> {
    let mount = all(mountinfo)
        .filter(|mount| directory.starts_with(&mount.point))
        // Of several at one place the last one is seen.
        .max_by_key(|mount| mount.point.as_os_str().len())?;
    if mount.point == Path::new("/") {
        return Some("it lies in the container's own file system");
    }
    // /var/lib/kubelet/pods/UID/volumes/kubernetes.io~empty-dir/NAME
    if mount.root.components().any(|part| part.as_os_str() == "kubernetes.io~empty-dir") {
        return Some("it is an emptyDir");
    }
    matches!(mount.kind, b"tmpfs" | b"ramfs").then_some("it lies in memory")
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// The kernel writes space, tab, newline and backslash in octal (`fs/proc_namespace.c`, `mangle`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = |digit: &u8| (b'0'..=b'7').contains(digit).then(|| u32::from(digit - b'0'));
        let escaped = match (first, after) {
            (b'\\', [a, b, c, ..]) => octal(a)
                .zip(octal(b))
                .zip(octal(c))
                .and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_the_hosts_lasts() {
        let mountinfo = b"\
100 1 0:50 / / ro,relatime - overlay overlay ro,lowerdir=/a\n\
101 100 0:51 / /proc rw - proc proc rw\n\
102 100 8:1 / /host ro,relatime master:1 - ext4 /dev/sda1 rw\n\
103 102 0:25 / /host/run rw,nosuid master:2 - tmpfs tmpfs rw\n\
104 100 8:1 /var/lib/netdiag /var/lib/netdiag rw - ext4 /dev/sda1 rw\n\
105 100 8:1 /var/lib/kubelet/pods/6a/volumes/kubernetes.io~empty-dir/scratch /scratch rw - ext4 /dev/sda1 rw\n\
106 100 0:60 / /memory rw - tmpfs tmpfs rw\n\
107 106 8:2 / /memory rw - xfs /dev/sdb rw\n\
108 100 0:61 / /lib rw - tmpfs tmpfs rw\n\
109 100 0:62 / /with\\040space rw - tmpfs tmpfs rw\n\
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
            ("/with space/x", Some("it lies in memory")),
        ] {
            assert_eq!(short_lived(mountinfo, Path::new(directory)), expected, "{directory}");
        }
        assert_eq!(short_lived(b"", Path::new("/tmp")), None, "unknown");
    }

    proptest! {
        #[test]
        fn escapes_are_undone(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mangled: Vec<u8> = name
                .iter()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                    byte => vec![*byte],
                })
                .collect();
            prop_assert_eq!(unescape(&mangled), name);
        }
    }

    #[test]
    fn hostile_mounts_are_survived() {
        let sound = b"100 1 0:50 / / ro - overlay overlay ro\n\
    109 100 0:62 / /with\\040space rw - tmpfs tmpfs rw\n";
        crate::hostile::survived(&[sound.to_vec()], |text| {
            let _reason = short_lived(text, Path::new("/with space/x"));
        });
    }
}
