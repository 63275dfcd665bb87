//! What netdiag itself costs the node.

use std::time::Duration;

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};
use rustix::{
    mm::{Advice, madvise},
    param::page_size,
    thread::disable_transparent_huge_pages,
    time::{ClockId, clock_gettime},
};

use super::files;

/// CPU time of this process since it started, user and system, all threads.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Resident memory of this process, in bytes (`/proc/self/statm`); none when it cannot be read.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = files::text("/proc/self/statm").ok()?;
    let pages = statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(pages * page_size() as u64)
}

/// Has threads allocate from one heap, and the heap shrink as soon as its end is free: several keep what each needed
/// once. And has the kernel back it with small pages: where transparent huge pages are always on, it puts 2 MiB below
/// each byte of it in use, also later and by itself (khugepaged). To be called before there is a second thread.
pub fn keep_memory_small() {
    // A kernel without huge pages refuses, and has none to give.
    let _refused = disable_transparent_huge_pages(true);
    allocate(1, 128 << 10, 64 << 10);
}

/// The other way round, for who takes and frees megabytes all the time, in two threads: what is free is kept for what
/// comes next. To be called before there is a second thread.
pub fn keep_memory_ready() {
    // Likewise.
    let _refused = disable_transparent_huge_pages(false);
    allocate(2, 8 << 20, 1 << 20);
}

/// From so many heaps, of whose free end so many bytes are kept, and which ask for so many beyond what is needed. There
/// is one thread.
fn allocate(heaps: i32, kept: i32, more: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's mallopt takes any numbers, and its callers are called before there is a second thread.
    let _refused = unsafe {
        [
            libc::mallopt(libc::M_ARENA_MAX, heaps),
            libc::mallopt(libc::M_TRIM_THRESHOLD, kept),
            libc::mallopt(libc::M_TOP_PAD, more),
        ]
    };
    #[cfg(not(target_env = "gnu"))]
    let _other_allocators = (heaps, kept, more);
}

/// Gives freed memory back to the kernel: what reading its types and symbols took is needed once.
pub fn release_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's malloc_trim has no precondition and may run beside other threads.
    let _nothing_to_release = unsafe { libc::malloc_trim(0) };
}

/// Lets go of this program's code and constants, most of which were needed for the last time when everything was
/// attached: the eBPF object is one of them. What still is needed is mapped again as it is reached, out of the page
/// cache.
pub fn release_code() {
    // Where they cannot be listed they stay.
    let Ok(maps) = Process::myself().and_then(|own| own.smaps()) else { return };
    for map in maps.iter().filter(|map| is_only_read(map)) {
        let (start, end) = map.address;
        let pages = std::ptr::with_exposed_provenance_mut(start as usize);
        // SAFETY: whole pages of a file that nobody here can or did write to: they are read anew when they are needed.
        let _still_resident =
            unsafe { madvise(pages, (end - start) as usize, Advice::LinuxDontNeed) };
    }
}

/// Whether it is a file's, and still as the file is: relocations were written before the linker forbade it, and would
/// be lost.
fn is_only_read(map: &MemoryMap) -> bool {
    const READ: MMPermissions = MMPermissions::READ.union(MMPermissions::PRIVATE);
    map.perms.contains(READ)
        && !map.perms.contains(MMPermissions::WRITE)
        && matches!(map.pathname, MMapPath::Path(_))
        && map.extension.map.get("Anonymous") == Some(&0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Whoever measures what is resident is not to see what another test lets go of.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn cpu_time_rises_with_work() {
        let before = cpu_time();
        let mut rounds = 0u64;
        while cpu_time() == before {
            rounds = std::hint::black_box(rounds + 1);
        }
        assert!(cpu_time() > before, "{rounds} rounds");
    }

    /// It also goes on running, which it could not without its code.
    #[test]
    fn code_that_ran_once_is_not_resident() {
        let _alone = alone();
        let before = resident_bytes().unwrap();
        release_code();
        let after = resident_bytes().unwrap();
        assert!(after + (1 << 20) < before, "before {before}, after {after}");
    }

    #[test]
    fn resident_follows_touched_memory() {
        const BYTES: u64 = 64 << 20;
        let _alone = alone();
        let before = resident_bytes().unwrap();
        let block = std::hint::black_box(vec![1u8; BYTES as usize]);
        let after = resident_bytes().unwrap();
        assert!(after >= before + BYTES * 9 / 10, "before {before}, after {after}");
        drop(block);
    }
}
