//! The few calls of bpf(2) that feeding takes.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};

const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
const MAP_GET_FD_BY_ID: u32 = 14;
const OBJ_GET_INFO_BY_FD: u32 = 15;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_PROG_TYPE_SCHED_CLS`: may run without a device, as often as wished.
const SCHED_CLS: u32 = 3;

/// Bytes of `union bpf_attr` that any of the calls looks at.
const ATTR: usize = 144;

/// Fields of `union bpf_attr` by their place.
struct Attr([u64; ATTR / 8]);

impl Attr {
    const fn new() -> Self {
        Self([0; ATTR / 8])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        let shift = at % 8 * 8;
        self.0[at / 8] |= u64::from(value) << shift;
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        self.0[at / 8] = value;
        self
    }

    fn call(&mut self, command: u32) -> io::Result<i64> {
        // SAFETY: every pointer in it is to memory that outlives the call, and as long as it says.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTR) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn open(mut self, command: u32) -> io::Result<OwnedFd> {
        let fd = self.call(command)? as RawFd;
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A map by its id.
pub(super) fn map_by_id(id: u32) -> Result<OwnedFd> {
    Attr::new().word(0, id).open(MAP_GET_FD_BY_ID).with_context(|| format!("map {id}"))
}

/// Name and `max_entries` of a map (`struct bpf_map_info`).
pub(super) fn map_info(map: &OwnedFd) -> Result<(String, u32)> {
    let mut info = [0_u8; 80];
    Attr::new()
        .word(0, map.as_raw_fd() as u32)
        .word(4, info.len() as u32)
        .long(8, info.as_mut_ptr() as u64)
        .call(OBJ_GET_INFO_BY_FD)
        .context("what a map is")?;
    let name = info[24..40].split(|byte| *byte == 0).next().unwrap_or_default();
    let entries = u32::from_ne_bytes([info[16], info[17], info[18], info[19]]);
    Ok((String::from_utf8_lossy(name).into_owned(), entries))
}

/// An array of one value that can be mapped.
pub(super) fn array(bytes: u32) -> Result<OwnedFd> {
    let map = Attr::new().word(0, ARRAY).word(4, 4).word(8, bytes).word(12, 1).word(16, MMAPABLE);
    map.open(MAP_CREATE).context("an array for records")
}

/// Loads a program.
pub(super) fn load(instructions: &[u64]) -> Result<OwnedFd> {
    // Kernels refuse a sound program whose log has no room, and some write more of each step than others.
    let mut log = vec![0_u8; 1 << 20];
    let program = Attr::new()
        .word(0, SCHED_CLS)
        .word(4, instructions.len() as u32)
        .long(8, instructions.as_ptr() as u64)
        .long(16, c"GPL".as_ptr() as u64)
        .word(24, 1)
        .word(28, log.len() as u32)
        .long(32, log.as_mut_ptr() as u64);
    program.open(PROG_LOAD).with_context(|| {
        let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
        format!("the program that feeds:\n{}", String::from_utf8_lossy(log))
    })
}

/// Runs a program so often.
pub(super) fn run(program: &OwnedFd, times: u32) -> Result<()> {
    // A packet that nobody looks at.
    let packet = [0_u8; 64];
    Attr::new()
        .word(0, program.as_raw_fd() as u32)
        .word(8, packet.len() as u32)
        .long(16, packet.as_ptr() as u64)
        .word(32, times)
        .call(PROG_TEST_RUN)
        .context("running the program that feeds")?;
    Ok(())
}
