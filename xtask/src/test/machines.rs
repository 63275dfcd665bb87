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
    tests: Tests,
}

/// Which test binaries run on a machine.
#[derive(Clone, Copy)]
pub(crate) enum Tests {
    /// Those of kernels, all of them but [`CONTAINERS`] and [`YOUNG`].
    All,
    /// The same but for [`OLDEST`], and [`YOUNG`].
    Newest,
    /// The same but for [`BETWEEN`].
    Kernels,
    /// The same, [`CONTAINERS`] and [`YOUNG`].
    KernelsAndContainers,
    /// These.
    Only(&'static [&'static str]),
}

/// Tests of the work tree, which is in no guest, of conversations of programs that are in none either, and
/// of what netdiag does when its reader stands still, which no kernel changes: natively only.
const NATIVE: [&str; 4] = ["applications", "architecture", "docs", "still"];

/// Tests of what netdiag does with whatever it sees, by programs of every kind: a kernel between the
/// oldest, where sockets are remembered in the hash, and the newest adds nothing to these two and the
/// native run. What a hook, a field or a file of the kernel tells is tested on each.
const BETWEEN: [&str; 10] = [
    "diagnose",
    "events",
    "filters",
    "harness",
    "lab",
    "leave_no_trace",
    "preempt",
    "record",
    "refusals",
    "stall",
];

/// Tests of what netdiag concludes from whatever it saw: natively, and where it sees least. The newest machine
/// is the slowest by far.
const OLDEST: [&str; 2] = ["diagnose", "lab"];

/// Containers as a runtime makes them: natively where cgroups are of v1, and on one kernel with v2. What each
/// kernel tells of cgroups is tested without a runtime.
const CONTAINERS: [&str; 1] = ["pod"];

/// What a start takes, which younger verifiers do in less: natively, on 6.12 and on the newest. Older ones
/// are not held to it yet (docs/performance.md, "Start").
const YOUNG: [&str; 1] = ["start"];

impl Tests {
    /// Whether a kernel-facing binary is among them.
    pub(super) fn has(self, binary: &str) -> bool {
        match self {
            Self::All => {
                ![&NATIVE[..], &CONTAINERS, &YOUNG].iter().any(|list| list.contains(&binary))
            }
            Self::Newest => {
                Self::All.has(binary) && !OLDEST.contains(&binary) || YOUNG.contains(&binary)
            }
            Self::Kernels => Self::All.has(binary) && !BETWEEN.contains(&binary),
            Self::KernelsAndContainers => {
                Self::Kernels.has(binary) || CONTAINERS.contains(&binary) || YOUNG.contains(&binary)
            }
            Self::Only(names) => names.contains(&binary),
        }
    }
}

const fn machine(name: &'static str, kernel: &'static str, tests: Tests) -> Machine {
    Machine { name, kernel, append: "", environment: &[], tests }
}

/// The kernels that netdiag is held to work on; those that take longest come first, so that the
/// last to end does not end alone.
pub(crate) const MACHINES: [Machine; 6] = [
    machine("vm-newest", "newest", Tests::Newest),
    machine("vm-5.10", "5.10", Tests::All),
    machine("vm-6.12", "6.12", Tests::KernelsAndContainers),
    machine("vm-6.1", "6.1", Tests::Kernels),
    Machine {
        append: "preempt=full",
        ..machine("vm-6.12-preempt", "6.12", Tests::Only(&["preempt", "sources"]))
    },
    Machine {
        append: "lockdown=confidentiality",
        environment: &["NETDIAG_EXPECT_LOCKDOWN=1"],
        ..machine("vm-6.12-lockdown", "6.12", Tests::Only(&["lockdown"]))
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
        let directory = binaries::stage(built, self.name, self.tests)?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    /// A test that was renamed would run everywhere, or nowhere.
    #[test]
    fn the_lists_name_tests_that_are_there() {
        let there =
            |name: &&str| workspace::root().join(format!("tests/tests/{name}.rs")).is_file();
        let only = MACHINES.iter().filter_map(|machine| match machine.tests {
            Tests::Only(names) => Some(names),
            Tests::All | Tests::Newest | Tests::Kernels | Tests::KernelsAndContainers => None,
        });
        let lists = NATIVE.iter().chain(&BETWEEN).chain(&OLDEST).chain(&CONTAINERS).chain(&YOUNG);
        let mut named = lists.chain(only.flatten());
        assert_eq!(named.find(|name| !there(name)), None);
    }

    /// Each kernel-facing test runs on some kernel that is not this one's, or natively for a reason.
    #[test]
    fn every_test_has_its_machine() {
        for file in fs::read_dir(workspace::root().join("tests/tests")).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let machines = MACHINES.iter().filter(|machine| machine.tests.has(name)).count();
            assert!(machines >= 1 || NATIVE.contains(&name), "{name} has no machine");
        }
    }
}
