//! Capabilities: which are needed when, and giving up the others. All of it is of the calling thread.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    process::geteuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

use super::directory_of;

/// For reading `/proc` of others, entering namespaces, statistics of programs, connection tracking and filter rules,
/// names of functions, and maps of the programs (kernels from 5.8 on and before 5.19 refuse all of `bpf(2)` without).
const RUNNING: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::BPF);

/// Beside those: for attaching programs, and for the memory that old kernels charge for them and for rings.
const AT_THE_START: CapabilitySet =
    CapabilitySet::PERFMON.union(CapabilitySet::SYS_RESOURCE).union(CapabilitySet::IPC_LOCK);

/// Write permission in a directory for its owner, and for everybody.
const OWNER_WRITES: u32 = 0o300;
const ALL_WRITE: u32 = 0o003;

/// What a run needs until its programs are attached, and it listens.
pub(super) fn at_the_start(listens: bool) -> CapabilitySet {
    let port = if listens { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
    AT_THE_START | port
}

/// What a run needs all the time that writes to this directory.
pub(super) fn needed_while_running(out: Option<&Path>) -> CapabilitySet {
    needed(has(), out.is_some_and(|out| !is_writable(out)))
}

fn needed(has: CapabilitySet, writes_elsewhere: bool) -> CapabilitySet {
    // Reading is part of it.
    let stands_in = !has.contains(CapabilitySet::DAC_READ_SEARCH);
    if stands_in || writes_elsewhere { RUNNING | CapabilitySet::DAC_OVERRIDE } else { RUNNING }
}

/// What a run needs beside these to attach programs or open rings later.
pub(super) fn needed_later(kept: CapabilitySet) -> CapabilitySet {
    for_perf_events(has() & kept)
}

/// Who may do everything may do that (`perfmon_capable`, include/linux/capability.h).
fn for_perf_events(has: CapabilitySet) -> CapabilitySet {
    let suffices = has.contains(CapabilitySet::SYS_ADMIN);
    if suffices { CapabilitySet::empty() } else { CapabilitySet::PERFMON }
}

/// What a run needs that reads recordings, which are their writer's alone, and writes this file.
pub(super) fn needed_to_read(writes: Option<&Path>) -> CapabilitySet {
    let stands_in = !has().contains(CapabilitySet::DAC_READ_SEARCH);
    let writes_elsewhere = writes.is_some_and(|path| !is_writable(directory_of(path)));
    let write = CapabilitySet::DAC_OVERRIDE;
    let read = CapabilitySet::DAC_READ_SEARCH;
    if stands_in || writes_elsewhere { read | write } else { read }
}

/// What the calling thread may do; nothing where the kernel does not say.
#[must_use]
pub fn has() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Whether a directory, or the nearest above it that is there, is writable by its mode.
fn is_writable(path: &Path) -> bool {
    let there = path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::metadata(path).ok()
    });
    there.is_some_and(|there| {
        let own = there.uid() == geteuid().as_raw() && there.mode() & OWNER_WRITES == OWNER_WRITES;
        own || there.mode() & ALL_WRITE == ALL_WRITE
    })
}

/// Makes sure that nothing that is given up comes back by starting a program: empties the ambient set, and the
/// bounding set where `CAP_SETPCAP` is there.
pub(super) fn close_ways_back() {
    // Before Linux 4.3 there was none.
    let _none = clear_ambient_capability_set();
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if remove_capability_from_bounding_set(one).is_err() {
            // Beyond the last one, or not allowed; without new privileges nothing is drawn from it.
            break;
        }
    }
}

/// Gives up all but these of what there is.
///
/// # Errors
/// The kernel's; giving up is refused by security modules alone.
pub(super) fn keep(kept: CapabilitySet) -> io::Result<()> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let inheritable = CapabilitySet::empty();
    let sets =
        CapabilitySets { effective: effective & kept, permitted: permitted & kept, inheritable };
    Ok(set_capabilities(None, sets)?)
}

/// Names of those that are left, in the kernel's order.
pub(super) fn names() -> Vec<String> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    has.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_elsewhere_or_reads_by_it_keeps_the_override() {
        let reads = CapabilitySet::DAC_READ_SEARCH;
        let both = reads | CapabilitySet::DAC_OVERRIDE;
        let overrides =
            |has, elsewhere| needed(has, elsewhere).contains(CapabilitySet::DAC_OVERRIDE);
        assert!(!overrides(both, false));
        assert!(overrides(both, true));
        assert!(overrides(CapabilitySet::DAC_OVERRIDE, false));
    }

    #[test]
    fn perf_events_take_either() {
        let [all, perf] = [CapabilitySet::SYS_ADMIN, CapabilitySet::PERFMON];
        assert_eq!(for_perf_events(all | perf), CapabilitySet::empty());
        assert_eq!(for_perf_events(CapabilitySet::BPF | perf), perf);
    }

    #[test]
    fn a_directory_that_is_missing_is_as_writable_as_what_it_will_be_in() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(is_writable(&directory.path().join("a/b")));
        assert!(!is_writable(Path::new("/proc/1/task/netdiag")));
    }

    #[test]
    fn given_up_is_given_up() {
        std::thread::spawn(|| {
            keep(CapabilitySet::SYS_PTRACE).expect("less is allowed");
            assert!(names().iter().all(|name| name == "CAP_SYS_PTRACE"));
            keep(CapabilitySet::all()).expect("as much as there is");
            assert!(names().len() <= 1);
        })
        .join()
        .expect("a thread");
    }
}
