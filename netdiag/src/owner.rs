//! Whom a socket belongs to, beyond its process: cgroup, container and pod.
//!
//! Pure text: the path of a cgroup says which container and pod it is ([`Place::of`]), the names that
//! kubelet gives log files say what these are called ([`Names`]). Who reads both is `node::places`.

mod names;
mod path;

pub use names::{LogFiles, Names, Pod};

/// Digits that the tools of container runtimes show of an id.
pub const SHORT_ID: usize = 12;

/// Where a process lives, as far as the path of its cgroup tells: pure text, no names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Path of the cgroup below the root of its hierarchy, as the node sees it; `/` for the root.
    pub cgroup: String,
    /// Container id, whole (64 hexadecimal digits with the usual runtimes).
    pub container: Option<String>,
    /// Kubernetes' uid of the pod, in the form of RFC 4122 (a static pod's is 32 digits without dashes).
    pub pod_uid: Option<String>,
}

/// Whether a cgroup of that path is this one or lies below it, as all do below the root. It does not matter whether
/// either begins or ends with a slash.
#[must_use]
pub fn lies_in(path: &str, top: &str) -> bool {
    let (path, top) = (path.trim_matches('/'), top.trim_matches('/'));
    let rest = path.strip_prefix(top);
    top.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::lies_in;

    #[test]
    fn a_cgroup_is_above_what_begins_with_its_path() {
        for (top, expected) in [
            ("/kubepods/a/c1", true),
            ("kubepods/a/", true),
            ("/kubepods", true),
            ("/", true),
            ("", true),
            ("/kubepods/a/c", false),
            ("/kubepods/a/c1/sub", false),
        ] {
            assert_eq!(lies_in("/kubepods/a/c1", top), expected, "{top}");
        }
        assert!(lies_in("/", "/") && !lies_in("/", "/kubepods"));
    }
}
