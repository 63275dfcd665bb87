//! What a test needs, and which kernels should have it.
//!
//! A skip names what is missing; where this kernel should have it, the test fails instead. The
//! tables are by series, as observed on Debian's kernels and on one built without probes.

use std::{fs::File, path::Path, sync::OnceLock};

use netdiag::signal::{DEFINITIONS, Hook, Source};
use rustix::fs::{FlockOperation, flock};

use crate::{
    browser, capture, collector,
    conntrack::{self, module},
    machine::{self, Series},
    processor, prometheus, reader, setting, tool,
    workshop::{self, Workshop},
};

/// The kernels that netdiag is held to work on: Debian's, by series.
pub const KERNELS: [Series; 4] = [Series(5, 10), Series(6, 1), Series(6, 12), Series(7, 2)];

/// Whether netdiag is held to work on this kernel: one of [`KERNELS`], or one of Debian's that has come since. Such a one
/// runs in a machine that is made for a test, and what it must have is not left out there before anyone has looked.
#[must_use]
pub fn is_held(series: Series) -> bool {
    let is_debians = machine::emulated() && machine::release().ends_with("-amd64");
    KERNELS.contains(&series) || is_debians && is_newest(series)
}

fn is_newest(series: Series) -> bool {
    KERNELS.iter().all(|&known| known < series)
}

/// Something that not every kernel or machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// kprobes by perf event (`CONFIG_KPROBE_EVENTS`).
    Kprobes,
    /// Lockdown in this mode.
    Lockdown(&'static str),
    /// The loss-making queue discipline `sch_netem`.
    Netem,
    /// nftables with its `numgen` expression.
    Nft,
    /// Modules that nobody else needs, as on a machine that is made for a test.
    OwnModules,
    /// The program conntrack, which asks the kernel for its table of connections.
    Conntrack,
    /// Connection tracking as a module, which can be loaded and removed.
    ConntrackModule,
    /// Nobody whose connections are tracked beside a test's own: some settings are one for all namespaces.
    NoneTracked,
    /// Processors for two threads at a time.
    TwoProcessors,
    /// Two processors of which one may be switched off, as on a machine that is made for a test.
    OwnProcessors,
    /// A clock that may be set, as on such a machine.
    OwnClock,
    /// bpftool, to list what is loaded.
    Bpftool,
    /// bpftrace, as another tracer on the same hooks.
    Bpftrace,
    /// A C compiler with objcopy.
    Compiler,
    /// runc, to start containers.
    Runc,
    /// The toolchain and the work tree that everything is built from.
    Cargo,
    /// setpriv, to give privileges up.
    Setpriv,
    /// The Java, Python and JavaScript readers of histogram logs.
    Readers,
    /// strace, which lets system calls fail.
    Strace,
    /// bash, zsh, fish and man, for which netdiag makes files.
    Shells,
    /// tshark and scapy, which read packets.
    PacketReaders,
    /// A server of Redis and its benchmark.
    Redis,
    /// A server of HTTP/2 and a client that loads it.
    Http2,
    /// Prometheus and promtool.
    Prometheus,
    /// The reference definitions of OTLP's messages, in Python.
    Otlp,
    /// A browser that needs no screen.
    Browser,
    /// tmux, a terminal that tells what is on its screen.
    Tmux,
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
        Feature::Kprobes | Feature::ConntrackModule if is_held(machine::series()) => Must,
        Feature::Kprobes | Feature::ConntrackModule => May,
        Feature::Lockdown(mode)
            if std::env::var("NETDIAG_EXPECT_LOCKDOWN").as_deref() == Ok(mode) =>
        {
            Must
        }
        Feature::Lockdown(_) => May,
        Feature::TwoProcessors | Feature::OwnProcessors
            if std::env::var_os("NETDIAG_EXPECT_PROCESSORS").is_some() =>
        {
            Must
        }
        Feature::TwoProcessors | Feature::OwnProcessors => May,
        Feature::Netem | Feature::OwnModules | Feature::NoneTracked | Feature::OwnClock => {
            machine::amount(May, Must)
        }
        Feature::Nft | Feature::Conntrack | Feature::Bpftool | Feature::Runc | Feature::Setpriv => {
            Must
        }
        Feature::Bpftrace | Feature::Strace => machine::amount(Must, May),
        Feature::Cargo if std::env::var_os(workshop::BELOW).is_some() => Must,
        Feature::Compiler
        | Feature::Cargo
        | Feature::Readers
        | Feature::PacketReaders
        | Feature::Shells
        | Feature::Redis
        | Feature::Http2
        | Feature::Prometheus
        | Feature::Otlp
        | Feature::Browser
        | Feature::Tmux => machine::amount(Must, Absent),
    }
}

/// Whether it is there.
#[must_use]
pub fn available(feature: Feature) -> bool {
    match feature {
        Feature::Kprobes => Path::new("/sys/bus/event_source/devices/kprobe/type").exists(),
        Feature::Lockdown(mode) => machine::lockdown().as_deref() == Some(mode),
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
        Feature::OwnModules => machine::emulated() && Path::new("/proc/modules").exists(),
        Feature::Conntrack => tool::find("conntrack").is_some(),
        Feature::ConntrackModule => module::exists(),
        Feature::NoneTracked => conntrack::none_tracked(),
        Feature::TwoProcessors => processor::each().is_ok_and(|all| all.len() >= 2),
        Feature::OwnProcessors => machine::emulated() && processor::has_switch(1),
        Feature::OwnClock => machine::emulated(),
        Feature::Bpftool => tool::find("bpftool").is_some(),
        Feature::Bpftrace => tool::find("bpftrace").is_some(),
        Feature::Compiler => tool::find("cc").is_some() && tool::find("objcopy").is_some(),
        Feature::Runc => tool::find("runc").is_some(),
        Feature::Cargo => Workshop::find().is_some(),
        Feature::Setpriv => tool::find("setpriv").is_some(),
        Feature::Readers => reader::all().is_ok(),
        Feature::Strace => tool::find("strace").is_some(),
        Feature::Shells => {
            ["bash", "zsh", "fish", "man"].iter().all(|name| tool::find(name).is_some())
        }
        Feature::PacketReaders => capture::has_readers(),
        Feature::Redis => tool::find("redis-benchmark").is_some(),
        Feature::Prometheus => prometheus::programs().is_ok(),
        Feature::Otlp => collector::python().is_ok(),
        Feature::Http2 => tool::find("nghttpd").is_some() && tool::find("h2load").is_some(),
        Feature::Browser => tool::find(browser::PROGRAM).is_some(),
        Feature::Tmux => tool::find("tmux").is_some(),
    }
}

/// Whether a test may go on; prints why not. For [`crate::require`].
///
/// # Panics
/// When it is missing where it should be there.
#[must_use]
pub fn have(feature: Feature) -> bool {
    available(feature) || {
        eprintln!("{}", skip(feature, expectation(feature), &machine::release()));
        false
    }
}

/// What a test says that skips because something is missing, for `cargo xtask test` to count; a
/// panic where it should be there.
#[track_caller]
fn skip(feature: Feature, expectation: Expectation, kernel: &str) -> String {
    assert!(
        expectation != Expectation::Must,
        "{feature:?} is missing, although kernel {kernel} and this machine should have it"
    );
    format!("SKIPPED: {feature:?} is missing on kernel {kernel}")
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

/// Tracepoints younger than the oldest kernel, with the series that brought them.
const SINCE: &[(&str, Series)] = &[
    ("sock_send_length", Series(6, 3)),
    ("sk_data_ready", Series(6, 3)),
    ("tcp_sendmsg_locked", Series(6, 16)),
];

/// Whether a source of a signal should load here.
///
/// # Panics
/// When there is no such source.
#[must_use]
pub fn source(signal: &str, source: &str) -> Expectation {
    let definition = DEFINITIONS.iter().find(|definition| definition.signal.name() == signal);
    let found = definition
        .and_then(|definition| definition.sources.iter().find(|known| known.name == source))
        .unwrap_or_else(|| panic!("{signal} has no source {source}"));
    source_on(machine::series(), available(Feature::Lockdown("confidentiality")), found)
}

/// Whether a source should load on a kernel, `confidential` when locked down in that mode: follows
/// from its hooks. Trampolines and kprobes depend on the build; where netdiag is held to work ([`is_held`]) they are there.
#[must_use]
pub fn source_on(series: Series, confidential: bool, source: &Source) -> Expectation {
    use Expectation::{Absent, May, Must};
    if confidential && source.reads_memory {
        return Absent;
    }
    if source.attachments.is_empty() {
        // What it listens to is a module's, and may not be loaded.
        return May;
    }
    let hooks = source.attachments.iter().map(|attachment| match attachment.hook {
        Hook::Fentry(_) | Hook::Fexit(_) | Hook::FexitWith(..) if is_held(series) => Must,
        Hook::Kprobe(_) | Hook::Kretprobe(_) | Hook::Tracepoint(..) if confidential => Absent,
        Hook::Kprobe(_) | Hook::Kretprobe(_) if is_held(series) => Must,
        Hook::Fentry(_) | Hook::Fexit(_) | Hook::FexitWith(..) => May,
        Hook::Kprobe(_) | Hook::Kretprobe(_) => May,
        // Drops have reasons from 5.17 on.
        Hook::RawTpWith(..) if series < Series(5, 17) => Absent,
        Hook::RawTpWith(..) => Must,
        Hook::TpBtf(name) | Hook::RawTp(name) | Hook::Tracepoint(_, name) => {
            let young = SINCE.iter().any(|&(young, since)| young == name && series < since);
            if young { Absent } else { Must }
        }
    });
    hooks.fold(Must, |all, one| match (all, one) {
        (Absent, _) | (_, Absent) => Absent,
        (May, _) | (_, May) => May,
        (Must, Must) => Must,
    })
}

/// Waits for the machine to be this test's alone among all tests of all binaries, as long as the
/// value lives: they watch the whole node. What a run that was killed has left is cleared up.
///
/// # Panics
/// When the lock file cannot be made, or something is left and cannot be cleared up.
#[must_use]
pub fn alone() -> impl Drop {
    struct Alone(#[expect(dead_code, reason = "holds the lock")] File);
    impl Drop for Alone {
        fn drop(&mut self) {}
    }
    let file = File::create("/run/netdiag-tests.lock").expect("create the lock file");
    flock(&file, FlockOperation::LockExclusive).expect("lock the lock file");
    setting::clear_up().expect("clear up what another run has left");
    Alone(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_nobody_knows_yet_is_the_newest() {
        let newest = [(7, 3), (8, 0), (7, 2), (6, 13), (5, 4)];
        let newest = newest.map(|(major, minor)| is_newest(Series(major, minor)));
        assert_eq!(newest, [true, true, false, false, false]);
        assert!(KERNELS.iter().all(|&series| is_held(series)));
    }

    #[test]
    fn a_skip_names_what_is_missing() {
        for expectation in [Expectation::May, Expectation::Absent] {
            let said = skip(Feature::Netem, expectation, "6.1.0");
            assert_eq!(said, "SKIPPED: Netem is missing on kernel 6.1.0");
        }
    }

    #[test]
    #[should_panic(expected = "should have it")]
    fn what_should_be_there_is_not_skipped() {
        let _ = skip(Feature::Nft, Expectation::Must, "6.1.0");
    }
}
