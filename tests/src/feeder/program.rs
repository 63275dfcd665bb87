//! The program that feeds, by its instructions (kernel Documentation/bpf/standardization/instruction-set.rst).

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use netdiag_common::counters::{Counters, Lane};

use super::sys;

/// Runs of one call of the kernel.
const RUNS: u64 = 4_096;

/// `bpf_map_lookup_elem`, `bpf_ringbuf_output` and `bpf_ringbuf_query` (include/uapi/linux/bpf.h).
const LOOKUP: i32 = 1;
const OUTPUT: i32 = 130;
const QUERY: i32 = 134;
/// `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP`.
const NO_WAKEUP: i32 = 1;
const FORCE_WAKEUP: i32 = 2;

/// Words before the records: where the next one is, behind the last one, and how many found room.
const CONTROL: usize = 24;

/// What a program shall do.
pub(super) struct Plan<'a> {
    pub(super) ring: &'a OwnedFd,
    pub(super) counters: &'a OwnedFd,
    /// All of one length.
    pub(super) records: &'a [Vec<u8>],
    /// In each of them.
    pub(super) samples: u32,
    pub(super) signal: u32,
    pub(super) lane: usize,
    /// Bytes in the ring above which its reader is woken.
    pub(super) wake_above: u32,
}

/// One that is loaded.
pub(super) struct Program {
    fd: OwnedFd,
    /// [`CONTROL`] and the records.
    memory: *mut u64,
    bytes: usize,
    _map: OwnedFd,
}

// SAFETY: the memory is its own, and only read here once it is written.
unsafe impl Send for Program {}

impl Program {
    pub(super) fn load(plan: &Plan<'_>) -> Result<Self> {
        let length = plan.records.first().context("no records")?.len();
        ensure!(
            plan.records.iter().all(|record| record.len() == length),
            "records differ in length"
        );
        let bytes = CONTROL + plan.records.len() * length;
        let map = sys::array(bytes as u32)?;
        // SAFETY: a new mapping, anywhere.
        let memory = unsafe {
            let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), bytes, access, shared, map.as_raw_fd(), 0)
        };
        ensure!(memory != libc::MAP_FAILED, "mapping the records: {}", io::Error::last_os_error());
        let memory = memory.cast::<u64>();
        // SAFETY: inside the mapping; nobody runs the program yet.
        unsafe {
            memory.add(1).write((plan.records.len() * length) as u64);
            let records = memory.cast::<u8>().add(CONTROL);
            for (at, record) in plan.records.iter().enumerate() {
                ptr::copy_nonoverlapping(record.as_ptr(), records.add(at * length), length);
            }
        }
        let fd = sys::load(&instructions(plan, &map, length as i32))?;
        Ok(Self { fd, memory, bytes, _map: map })
    }

    /// Feeds so many records; returns how many found room.
    pub(super) fn run(&self, mut records: u64) -> Result<u64> {
        let before = self.submitted();
        while records > 0 {
            let now = records.min(RUNS);
            sys::run(&self.fd, now as u32)?;
            records -= now;
        }
        Ok(self.submitted() - before)
    }

    fn submitted(&self) -> u64 {
        // SAFETY: inside the mapping. Volatile: the program writes it.
        unsafe { self.memory.add(2).read_volatile() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: mapped by `load`, and no reference into it is left.
        unsafe { libc::munmap(self.memory.cast(), self.bytes) };
    }
}

/// An instruction.
const fn code(op: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    op as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (number as u32 as u64) << 32
}

const fn set(to: u8, number: i32) -> u64 {
    code(0xb7, to, 0, 0, number)
}

const fn copy(to: u8, from: u8) -> u64 {
    code(0xbf, to, from, 0, 0)
}

const fn add(to: u8, from: u8) -> u64 {
    code(0x0f, to, from, 0, 0)
}

const fn add_number(to: u8, number: i32) -> u64 {
    code(0x07, to, 0, 0, number)
}

const fn load(to: u8, from: u8, offset: i16) -> u64 {
    code(0x79, to, from, offset, 0)
}

const fn store(to: u8, offset: i16, from: u8) -> u64 {
    code(0x7b, to, from, offset, 0)
}

const fn call(helper: i32) -> u64 {
    code(0x85, 0, 0, 0, helper)
}

/// A map (1), or its value (2).
fn map(to: u8, kind: u8, map: &OwnedFd) -> [u64; 2] {
    [code(0x18, to, kind, 0, map.as_raw_fd()), 0]
}

fn instructions(plan: &Plan<'_>, memory: &OwnedFd, length: i32) -> Vec<u64> {
    let last = ((plan.records.len() - 1) as i32) * length;
    let own = (plan.lane * size_of::<Lane>()) as i16;
    let counter = |nth: usize| own + (nth * size_of::<u64>()) as i16;
    let (seen, submitted, ring_full) = (counter(0), counter(2), counter(3));
    const { assert!(size_of::<Counters>() == 12 * size_of::<u64>()) };
    let count = |at: i16| [load(1, 0, at), add_number(1, plan.samples as i32), store(0, at, 1)];
    let mut program = Vec::new();
    // 6: control and records, 7: where the next one is, 8: flags.
    program.extend(map(6, 2, memory));
    program.extend([
        load(7, 6, 0),
        // A bound that the verifier sees.
        code(0xb5, 7, 0, 1, last), // if 7 <= last, skip the next
        set(7, 0),
    ]);
    program.extend(map(1, 1, plan.ring));
    program.extend([
        set(2, 0),
        call(QUERY),
        set(8, NO_WAKEUP),
        code(0xb5, 0, 0, 1, plan.wake_above as i32),
        set(8, FORCE_WAKEUP),
        copy(2, 6),
        add(2, 7),
        add_number(2, CONTROL as i32),
    ]);
    program.extend(map(1, 1, plan.ring));
    program.extend([
        set(3, length),
        copy(4, 8),
        call(OUTPUT),
        copy(8, 0),
        // The next record, or the first again.
        add_number(7, length),
        load(1, 6, 8),
        code(0xad, 7, 1, 1, 0), // if 7 < 1, skip the next
        set(7, 0),
        store(6, 0, 7),
        set(1, plan.signal as i32),
        code(0x63, 10, 1, -4, 0),
        copy(2, 10),
        add_number(2, -4),
    ]);
    program.extend(map(1, 1, plan.counters));
    program.push(call(LOOKUP));
    let mut counting = Vec::new();
    counting.extend(count(seen));
    let done = [load(1, 6, 16), add_number(1, 1), store(6, 16, 1)];
    // if 8 != 0, go on behind what counts a success
    counting.push(code(0x55, 8, 0, (3 + done.len() + 1) as i16, 0));
    counting.extend(count(submitted));
    counting.extend(done);
    counting.push(code(0x05, 0, 0, 3, 0));
    counting.extend(count(ring_full));
    program.push(code(0x15, 0, 0, counting.len() as i16, 0)); // if 0 == 0, to the end
    program.extend(counting);
    program.extend([set(0, 0), code(0x95, 0, 0, 0, 0)]);
    program
}
