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
