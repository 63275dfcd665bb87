//! The kernels that the tests run on, in virtual machines.

use std::{env, ffi::OsString, process::Command};

use anyhow::{Context, Result};

use super::{
    binaries::{self, Binary},
    runner,
    steps::Output,
    tally::Tally,
};

/// A machine to test on.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// The kernel's series.
    kernel: &'static str,
    /// Boot parameters.
    append: &'static str,
    environment: &'static [&'static str],
    /// Which test binaries; all when empty.
    binaries: &'static [&'static str],
}

const fn machine(name: &'static str, kernel: &'static str) -> Machine {
    Machine { name, kernel, append: "", environment: &[], binaries: &[] }
}

/// The kernels that netdiag is held to work on; those that take longest come first, so that the
/// last to end does not end alone.
pub(crate) const MACHINES: [Machine; 6] = [
    machine("vm-newest", "newest"),
    machine("vm-6.12", "6.12"),
    machine("vm-6.1", "6.1"),
    machine("vm-5.10", "5.10"),
    Machine {
        append: "preempt=full",
        binaries: &["preempt", "sources"],
        ..machine("vm-6.12-preempt", "6.12")
    },
    Machine {
        append: "lockdown=confidentiality",
        environment: &["NETDIAG_EXPECT_LOCKDOWN=1"],
        binaries: &["lockdown"],
        ..machine("vm-6.12-lockdown", "6.12")
    },
];

/// After this a machine is taken to hang. Ten times what the longest takes on two idle CPUs: this is
/// no bound on how slow the host may be.
const SECONDS: u32 = 7200;

impl Machine {
    /// Runs the kernel-facing tests on it.
    pub(crate) fn run(
        &self,
        built: &[Binary],
        arguments: &[OsString],
        output: &mut Output,
    ) -> Result<Tally> {
        let directory = binaries::stage(built, self.name, self.binaries)?;
        let xtask = env::current_exe().context("cannot tell where this program stands")?;
        let mut command = Command::new(xtask);
        command.args(["vm", "--no-build", "--time", "--memory", "2048", "--kernel", self.kernel]);
        command.arg(format!("--append={}", self.append));
        command.args(["--timeout", &SECONDS.to_string()]);
        command.arg(format!("--bring={}=/root/tests", directory.display()));
        command.args(self.environment.iter().map(|variable| format!("--env={variable}")));
        command.args(["--", "sh", "-c", binaries::RUN_ALL, "sh"]).args(arguments);
        runner::tests(&mut command, output)
    }
}
