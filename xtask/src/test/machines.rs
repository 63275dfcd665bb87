//! The kernels that the tests run on, in virtual machines.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    binaries::{self, Binary},
    runner,
    steps::Output,
    tally::Tally,
};
use crate::{vm::share, workspace};

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

/// Tests of the work tree, which is in no guest, of conversations of programs that are in none either, as a
/// browser and Prometheus are not, and of what netdiag does when its reader stands still, which no kernel
/// changes: natively only.
const NATIVE: [&str; 7] =
    ["applications", "architecture", "dependencies", "docs", "metrics", "report", "still"];

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
/// kernel tells of cgroups is tested without a runtime. One of them holds what builds netdiag: its machine is
/// shown that.
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
        let mut command = Command::new(workspace::xtask()?);
        command.args(["vm", "--no-build", "--time", "--memory", "2048", "--kernel", self.kernel]);
        command.arg(format!("--append={}", self.append));
        command.args(["--timeout", &SECONDS.to_string()]);
        command.arg(format!("--bring={}=/root/tests", directory.display()));
        command.args(self.environment.iter().map(|variable| format!("--env={variable}")));
        if CONTAINERS.iter().any(|name| self.tests.has(name)) {
            command.args(workshop(|name| env::var(name).ok()));
        }
        command.args(["--", "sh", "-c", binaries::RUN_ALL, "sh"]).args(arguments);
        runner::tests(&mut command, output)
    }
}

/// Options by which a guest sees what everything is built with, and learns what cargo is found by; `variable`
/// gives those of this machine.
fn workshop(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let below_home = |name: &str, directory: &str| {
        let given = variable(name).map(PathBuf::from);
        given.or_else(|| Some(Path::new(&variable("HOME")?).join(directory)))
    };
    let libraries = ["/usr", "/bin", "/lib", "/lib64"].map(|path| Some(path.into()));
    let homes = [below_home("CARGO_HOME", ".cargo"), below_home("RUSTUP_HOME", ".rustup")];
    let directories = libraries.into_iter().chain(homes).flatten().filter(|path| path.is_dir());
    let directories = directories.chain([workspace::root().to_owned()]);
    let shares = directories.map(|path| format!("--share={}", path.display()));
    let names = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    let variables = names
        .into_iter()
        .filter_map(|name| Some(format!("--env=NETDIAG_MACHINE_{name}={}", variable(name)?)));
    shares.chain(variables).chain([format!("--env=NETDIAG_MACHINE={}", share::GUEST)]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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

    #[test]
    fn a_guest_is_shown_what_builds() {
        let options = workshop(|name| match name {
            "HOME" => Some("/proc".to_owned()),
            "CARGO_HOME" => Some("/proc/sys".to_owned()),
            _ => None,
        });
        let has = |option: &str| options.iter().any(|one| one == option);
        assert!(has("--share=/proc/sys") && has("--env=NETDIAG_MACHINE_CARGO_HOME=/proc/sys"));
        assert!(has(&format!("--share={}", workspace::root().display())), "{options:?}");
        assert!(!has("--share=/proc/.rustup"), "what is not there is not shared");
    }
}
