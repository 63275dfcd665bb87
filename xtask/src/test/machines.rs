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
    blessed, runner,
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
    processors: u32,
    /// Its clock counts instructions, so that CPU times are the same each time.
    pub(crate) counts: bool,
    tests: Tests,
}

/// Which test binaries run on a machine.
#[derive(Clone, Copy)]
pub(crate) enum Tests {
    /// Those of kernels: all that are in no list.
    Kernels(Part),
    /// The same without [`LOADS`].
    KernelsAtRest(Part),
    /// These.
    Only(&'static [&'static str]),
    /// Of these the tests that have one of those in their names.
    Named(&'static [&'static str], &'static [&'static str]),
}

/// Which of the tests of kernels a machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// Those that are not in [`MORE`].
    But,
    /// Those that are.
    More,
}

/// Tests of the work tree, which is in no guest, of conversations of programs that are in none either, as a
/// browser, Prometheus, strace, tmux and most shells are not, and of what netdiag does when its reader stands still, its disk or
/// a system call fails, there is more than it has room for, or all of that at once, which no kernel changes: natively only.
const NATIVE: [&str; 15] = [
    "applications",
    "architecture",
    "dependencies",
    "disks",
    "docs",
    "faults",
    "metrics",
    "otlp",
    "overload",
    "report",
    "screen",
    "soak",
    "still",
    "terminal",
    "view_cost",
];

/// Tests of what netdiag does with whatever it sees, by programs of every kind: a kernel that is younger than the
/// oldest, where sockets are remembered in the hash, adds nothing to that one and the native run. What a hook, a
/// field or a file of the kernel tells is tested on each, and so is what may be given up of privileges. The clock is set in
/// no other machine than one of these, and `leave_no_trace` begins anew for each source, of which younger kernels have more.
const OLDEST: [&str; 13] = [
    "clock",
    "diagnose",
    "events",
    "filters",
    "harness",
    "lab",
    "leave_no_trace",
    "names",
    "preempt",
    "record",
    "redact",
    "refusals",
    "stall",
];

/// Containers as a runtime makes them: natively where cgroups are of v1, and on one kernel with v2. What each
/// kernel tells of cgroups is tested without a runtime. One of them holds what builds netdiag: its machine is
/// shown that.
const CONTAINERS: [&str; 1] = ["pod"];

/// What a start takes: natively by time, elsewhere where instructions are counted.
const COUNTED: [&str; 1] = ["start"];

/// What takes two processors, of which one is switched off and on: each kernel moves its own things then.
const PROCESSORS: [&str; 1] = ["processors"];

/// About half of the time that the tests of kernels take. On the two kernels where they take longest these have a machine of
/// their own, so that the last machine to end does not end alone.
const MORE: [&str; 12] = [
    "node",
    "owner",
    "owners",
    "pcap",
    "reset",
    "retransmit",
    "rtt",
    "sandbox",
    "service",
    "tcp_info",
    "turn",
    "verifier",
];

/// Tests of what the tables in the kernel do under floods, by the beginnings of their names. They take as long
/// as all others of their binaries, and are of programs whose tables are the same on all kernels that are younger
/// than the oldest.
const LOADS: [&str; 2] = ["many::", "full::a_flood"];

impl Tests {
    /// Whether a kernel-facing binary is among them.
    pub(super) fn has(self, binary: &str) -> bool {
        let lists = |lists: &[&[&str]]| lists.iter().any(|list| list.contains(&binary));
        match self {
            Self::Kernels(part) | Self::KernelsAtRest(part) => {
                let is_one = !lists(&[&NATIVE, &OLDEST, &CONTAINERS, &COUNTED, &PROCESSORS]);
                is_one && (part == Part::All || lists(&[&MORE]) == (part == Part::More))
            }
            Self::Only(names) | Self::Named(names, _) => names.contains(&binary),
        }
    }

    /// Tests that are left out of its binaries, by what their names have.
    const fn without(self) -> &'static [&'static str] {
        match self {
            Self::KernelsAtRest(_) => &LOADS,
            Self::Kernels(_) | Self::Only(_) | Self::Named(..) => &[],
        }
    }
}

/// It has one processor: where machines share what there is, one with two waits for most of its time until the
/// thread of the other one, which holds what it needs, goes on, and that takes several times as much.
const fn machine(name: &'static str, kernel: &'static str, tests: Tests) -> Machine {
    Machine { name, kernel, append: "", environment: &[], processors: 1, counts: false, tests }
}

/// Those with tests for which one processor is not enough.
const TWO: [&str; 3] = ["conntrack", "harness", "processors"];

/// For what takes two threads at the same time.
const fn two_processors(name: &'static str, kernel: &'static str) -> Machine {
    Machine {
        processors: 2,
        environment: &["NETDIAG_EXPECT_PROCESSORS=1"],
        ..machine(name, kernel, Tests::Named(&TWO, &["race", "processor"]))
    }
}

const fn counting(name: &'static str, kernel: &'static str) -> Machine {
    Machine {
        counts: true,
        environment: &["NETDIAG_EXPECT_COUNTED=1"],
        ..machine(name, kernel, Tests::Only(&COUNTED))
    }
}

/// The kernels that netdiag is held to work on; those that take longest come first, so that the
/// last to end does not end alone.
pub(crate) const MACHINES: [Machine; 19] = [
    machine("vm-6.12", "6.12", Tests::KernelsAtRest(Part::All)),
    machine("vm-6.1", "6.1", Tests::KernelsAtRest(Part::All)),
    machine("vm-5.10", "5.10", Tests::Kernels(Part::But)),
    machine("vm-newest", "newest", Tests::KernelsAtRest(Part::But)),
    machine("vm-newest-more", "newest", Tests::KernelsAtRest(Part::More)),
    machine("vm-5.10-more", "5.10", Tests::Kernels(Part::More)),
    machine("vm-5.10-programs", "5.10", Tests::Only(&OLDEST)),
    // By itself, for a machine that is shown directories is run by a slower emulator.
    machine("vm-6.12-containers", "6.12", Tests::Only(&CONTAINERS)),
    Machine {
        append: "preempt=full",
        ..machine("vm-6.12-preempt", "6.12", Tests::Only(&["preempt", "sources"]))
    },
    two_processors("vm-newest-two", "newest"),
    two_processors("vm-5.10-two", "5.10"),
    two_processors("vm-6.1-two", "6.1"),
    two_processors("vm-6.12-two", "6.12"),
    Machine {
        append: "lockdown=confidentiality",
        environment: &["NETDIAG_EXPECT_LOCKDOWN=confidentiality"],
        ..machine("vm-6.12-lockdown", "6.12", Tests::Only(&["lockdown"]))
    },
    Machine {
        append: "lockdown=integrity",
        environment: &["NETDIAG_EXPECT_LOCKDOWN=integrity"],
        ..machine("vm-6.12-integrity", "6.12", Tests::Only(&["lockdown"]))
    },
    counting("vm-5.10-counting", "5.10"),
    counting("vm-6.1-counting", "6.1"),
    counting("vm-6.12-counting", "6.12"),
    counting("vm-newest-counting", "newest"),
];

/// After this a machine is taken to hang. Ten times what the longest takes on two idle CPUs: this is
/// no bound on how slow the host may be.
pub(super) const SECONDS: u32 = 7200;

impl Machine {
    /// Whether a test binary runs on it.
    pub(crate) fn has(&self, binary: &Binary) -> bool {
        binary.kernel_facing && self.tests.has(&binary.name)
    }

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
        if !self.counts {
            command.args(["--smp", &self.processors.to_string()]);
        }
        command.arg(format!("--bring={}=/root/tests", directory.display()));
        let variables = self.environment.iter().copied().chain(blessed::variable());
        command.args(variables.map(|variable| format!("--env={variable}")));
        if CONTAINERS.iter().any(|name| self.tests.has(name)) {
            command.args(workshop(|name| env::var(name).ok()));
        }
        if self.counts {
            command.arg("--icount");
        }
        command.args(["--", "sh", "-c", binaries::RUN_ALL, "sh"]).args(arguments);
        if let Tests::Named(_, names) = self.tests {
            command.args(names);
        }
        command.args(self.tests.without().iter().flat_map(|name| ["--skip", name]));
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
            Tests::Only(names) | Tests::Named(names, _) => Some(names),
            Tests::Kernels(_) | Tests::KernelsAtRest(_) => None,
        });
        let lists = NATIVE.iter().chain(&OLDEST).chain(&CONTAINERS).chain(&COUNTED).chain(&MORE);
        let mut named = lists.chain(&PROCESSORS).chain(only.flatten());
        assert_eq!(named.find(|name| !there(name)), None);
    }

    /// A load that was renamed would run everywhere.
    #[test]
    fn the_loads_name_tests_that_are_there() {
        for load in LOADS {
            let (module, test) = load.split_once("::").unwrap();
            let binaries = fs::read_dir(workspace::root().join("tests/tests")).unwrap();
            let modules =
                binaries.map(|binary| binary.unwrap().path().join(format!("{module}.rs")));
            let has = |path: PathBuf| {
                fs::read_to_string(path).is_ok_and(|it| it.contains(&format!("\nfn {test}")))
            };
            assert_eq!(modules.filter(|path| has(path.clone())).count(), 1, "{load}");
        }
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

    /// A test that two machines of a kernel leave to each other would not run on it.
    #[test]
    fn each_kernel_has_its_tests_once() {
        let is_of_kernels = |machine: &&Machine| {
            matches!(machine.tests, Tests::Kernels(_) | Tests::KernelsAtRest(_))
        };
        for kernel in ["5.10", "6.1", "6.12", "newest"] {
            let all = MACHINES.iter().filter(is_of_kernels);
            let machines: Vec<_> = all.filter(|machine| machine.kernel == kernel).collect();
            for file in fs::read_dir(workspace::root().join("tests/tests")).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap();
                let number = machines.iter().filter(|machine| machine.tests.has(name)).count();
                let expected = usize::from(Tests::Kernels(Part::All).has(name));
                assert_eq!(number, expected, "machines that have {name} on {kernel}");
            }
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
