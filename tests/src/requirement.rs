//! What a test needs, and which kernels should have it.
//!
//! A skip names what is missing; where this kernel should have it, the test fails instead. The
//! tables are by series, as observed on Debian's kernels and on one built without probes.

use std::{fs::File, path::Path, sync::OnceLock};

use rustix::fs::{FlockOperation, flock};

use crate::{
    machine::{self, Series},
    reader, tool,
};

/// Something that not every kernel or machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// kprobes by perf event (`CONFIG_KPROBE_EVENTS`).
    Kprobes,
    /// Lockdown in mode confidentiality.
    Lockdown,
    /// The loss-making queue discipline `sch_netem`.
    Netem,
    /// nftables with its `numgen` expression.
    Nft,
    /// bpftool, to list what is loaded.
    Bpftool,
    /// bpftrace, as another tracer on the same hooks.
    Bpftrace,
    /// setpriv, to give privileges up.
    Setpriv,
    /// The Java, Python and JavaScript readers of histogram logs.
    Readers,
}

/// Whether a kernel or machine is known to have something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Its absence is a failure.
    Must,
    /// Its absence is known.
    Absent,
    /// Depends on the build.
    May,
}

/// Whether this kernel or machine should have it.
#[must_use]
pub fn expectation(feature: Feature) -> Expectation {
    use Expectation::{Absent, May, Must};
    match feature {
        Feature::Kprobes => match machine::series() {
            Series(5, 10) | Series(6, 1 | 12) | Series(7, 2) => Must,
            _ => May,
        },
        Feature::Lockdown => {
            if std::env::var_os("NETDIAG_EXPECT_LOCKDOWN").is_some() {
                Must
            } else {
                May
            }
        }
        Feature::Netem => machine::amount(May, Must),
        Feature::Nft | Feature::Bpftool | Feature::Setpriv => Must,
        Feature::Bpftrace => machine::amount(Must, May),
        Feature::Readers => machine::amount(Must, Absent),
    }
}

/// Whether it is there.
#[must_use]
pub fn available(feature: Feature) -> bool {
    match feature {
        Feature::Kprobes => Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
        Feature::Lockdown => machine::lockdown().as_deref() == Some("confidentiality"),
        Feature::Netem => {
            static FOUND: OnceLock<bool> = OnceLock::new();
            *FOUND.get_or_init(|| {
                let Ok(namespace) = crate::namespace::Namespace::new("probe") else { return false };
                let command =
                    format!("tc -n {} qdisc add dev lo root netem loss 1%", namespace.name());
                tool::line(&command).is_ok()
            })
        }
        Feature::Nft => tool::find("nft").is_some(),
        Feature::Bpftool => tool::find("bpftool").is_some(),
        Feature::Bpftrace => tool::find("bpftrace").is_some(),
        Feature::Setpriv => tool::find("setpriv").is_some(),
        Feature::Readers => reader::all().is_ok(),
    }
}

/// Whether a test may go on; prints why not. For [`crate::require`].
///
/// # Panics
/// When it is missing where it should be there.
#[must_use]
pub fn have(feature: Feature) -> bool {
    if available(feature) {
        return true;
    }
    let kernel = machine::release();
    assert!(
        expectation(feature) != Expectation::Must,
        "{feature:?} is missing, although kernel {kernel} and this machine should have it"
    );
    eprintln!("SKIPPED: {feature:?} is missing on kernel {kernel}");
    false
}

/// Ends the test as skipped unless the feature is there; fails it where it should be.
#[macro_export]
macro_rules! require {
    ($feature:expr) => {
        if !$crate::requirement::have($feature) {
            return Ok(());
        }
    };
}

/// Whether a source of a signal should load here. Facts: fexit needs BPF trampolines; the end of a
/// send needs `sock:sock_send_length` (6.3); its beginning `tcp:tcp_sendmsg_locked` (6.16); lockdown
/// in mode confidentiality forbids kprobes and reading kernel memory by address.
///
/// # Panics
/// For a source that the table does not know.
#[must_use]
pub fn source(signal: &str, source: &str) -> Expectation {
    use Expectation::{Absent, May, Must};
    let series = machine::series();
    let known = matches!(series, Series(5, 10) | Series(6, 1 | 12) | Series(7, 2));
    let confidential = available(Feature::Lockdown);
    match (signal, source) {
        ("send", "fexit") if known => Must,
        ("send", "fexit") => May,
        ("send", "tracepoints") if series >= Series(6, 16) => Must,
        ("send", "tracepoints") => Absent,
        ("send", "kprobe") if series < Series(6, 3) || confidential => Absent,
        ("send", "kprobe") if known => Must,
        ("send", "kprobe") => May,
        ("retransmit" | "socket", "tp_btf") => Must,
        ("retransmit" | "socket", "raw_tp") if confidential => Absent,
        ("retransmit" | "socket", "raw_tp") => Must,
        _ => panic!("say in requirement.rs which kernels have source {source} of {signal}"),
    }
}

/// Waits for the machine to be this test's alone among all tests of all binaries, as long as the
/// value lives: they watch the whole node.
///
/// # Panics
/// When the lock file cannot be made.
#[must_use]
pub fn alone() -> impl Drop {
    struct Alone(#[expect(dead_code, reason = "holds the lock")] File);
    impl Drop for Alone {
        fn drop(&mut self) {}
    }
    let file = File::create("/run/netdiag-tests.lock").expect("create the lock file");
    flock(&file, FlockOperation::LockExclusive).expect("lock the lock file");
    Alone(file)
}
