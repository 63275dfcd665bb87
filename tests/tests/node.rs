//! What the node says of itself, against the tools that everybody trusts: `ip`, `tc`, `ss`, `nstat`,
//! `nft`, `conntrack`. Needs root, iproute2, nftables, conntrack and util-linux; fails without them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "node/census.rs"]
mod census;
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
#[path = "node/surroundings.rs"]
mod surroundings;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use netdiag::node::netns::{Depth, Namespace, find};
use netdiag_tests::{machine, namespace::Namespace as Made, tool};

/// Waits until something that another process does has happened.
fn until<T>(what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
    let mut value = None;
    machine::wait_until(|| {
        value = happened();
        value.is_some()
    });
    value.unwrap_or_else(|| panic!("{what} did not happen"))
}

/// A namespace that goes away with its value.
fn make(name: &str) -> Made {
    Made::new(name).unwrap()
}

/// What these tests ask of one.
trait Asked {
    /// Where it is mounted.
    fn path(&self) -> PathBuf;

    /// Output of a command that has to succeed inside.
    fn exec(&self, command: &str) -> String;

    /// As netdiag finds it.
    fn found(&self) -> Namespace;
}

impl Asked for Made {
    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }

    fn exec(&self, command: &str) -> String {
        tool::line(&format!("ip netns exec {} {command}", self.name())).unwrap()
    }

    fn found(&self) -> Namespace {
        found(self.inode()).unwrap_or_else(|| panic!("{} was not found", self.name()))
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
    let hides = |problem: &&str| problem.contains(" hide");
    let (told, rest): (Vec<_>, Vec<_>) = problems.iter().map(String::as_str).partition(hides);
    // One that is ending hides as well, and is gone soon: of what stays the next search tells.
    let agree = told.is_empty() == hiding().is_empty()
        || machine::wait_until(|| {
            let before = hiding();
            let again = find(Path::new("/"), Depth::Everything).problems;
            let told = again.iter().any(|problem| hides(&problem.as_str()));
            told != before.is_empty() && before == hiding()
        });
    assert!(agree, "{told:?}, but {:?} hide", hiding());
    // Namespaces of tests that run beside this one go at any time.
    rest.into_iter().filter(|problem| !problem.contains("is gone")).collect()
}

/// Processes that do not show their network namespace.
fn hiding() -> Vec<PathBuf> {
    let hides = |process: &PathBuf| {
        let link = fs::read_link(process.join("ns/net"));
        link.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.filter(hides).collect()
}

/// Inode number of the calling thread's namespace.
fn here() -> u32 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino() as u32
}
