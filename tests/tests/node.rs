//! What the node says of itself, against the tools that everybody trusts: `ip`, `ss`, `nstat`,
//! `conntrack`. Needs root, iproute2, nftables, conntrack and util-linux; fails without them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "node/conntrack.rs"]
mod conntrack;
#[path = "node/counters.rs"]
mod counters;
#[path = "node/listener.rs"]
mod listener;
#[path = "node/namespaces.rs"]
mod namespaces;
#[path = "node/scale.rs"]
mod scale;
#[path = "node/sockets.rs"]
mod sockets;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use netdiag::node::netns::{Depth, Namespace, enter, find};

/// Waits until something that another process does has happened.
fn until<T>(what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(value) = happened() {
            return value;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not happen")
}

/// Output of a command that has to succeed.
fn run(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{command}` does not run: {error}"));
    assert!(
        output.status.success(),
        "`{command}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace made by `ip netns add`, deleted with the value.
struct Made {
    name: String,
}

impl Made {
    fn new(name: &str) -> Self {
        let name = format!("nd{}-{name}", std::process::id());
        run(&format!("ip netns add {name}"));
        let made = Self { name };
        made.exec("ip link set lo up");
        made
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn inode(&self) -> u32 {
        fs::metadata(self.path()).unwrap().ino() as u32
    }

    fn exec(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// As netdiag finds it.
    fn found(&self) -> Namespace {
        found(self.inode()).unwrap_or_else(|| panic!("{} was not found", self.name))
    }

    fn inside<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        enter(&self.found(), f).unwrap()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.path().exists() {
            run(&format!("ip netns del {}", self.name));
        }
    }
}

fn found(inode: u32) -> Option<Namespace> {
    let all = find(Path::new("/"), Depth::Everything);
    assert_eq!(unexpected(&all.problems), NONE);
    all.namespaces.into_iter().find(|namespace| namespace.inode == inode)
}

const NONE: [&str; 0] = [];

/// The problems but for those that this machine has: processes that even root may not look into
/// have to be told of, and told of only if there are any.
fn unexpected(problems: &[String]) -> Vec<&str> {
    let hide = |process: &PathBuf| {
        let link = fs::read_link(process.join("ns/net"));
        link.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let hiding: Vec<_> = processes.filter(hide).collect();
    // One that is ending hides as well, and is gone soon.
    thread::sleep(Duration::from_millis(if hiding.is_empty() { 0 } else { 200 }));
    let hidden = hiding.iter().any(hide);
    let (told, rest): (Vec<_>, Vec<_>) =
        problems.iter().map(String::as_str).partition(|problem| problem.contains(" hide"));
    assert_eq!(!told.is_empty(), hidden, "{told:?}");
    // Namespaces of tests that run beside this one go at any time.
    rest.into_iter().filter(|problem| !problem.contains("is gone")).collect()
}

/// Inode number of the calling thread's namespace.
fn here() -> u32 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino() as u32
}
