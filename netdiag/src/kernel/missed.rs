//! Runs that the kernel counted for a program, and those it skipped.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
};

/// The kernel's own counts for one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs skipped because the program was already active on that CPU; `None` before Linux 5.12,
    /// which skipped them uncounted.
    pub recursion_misses: Option<u64>,
    /// Runs, counted only while `kernel.bpf_stats_enabled` is set: 0 says nothing.
    pub run_count: Option<u64>,
    /// Nanoseconds spent in those runs.
    pub run_time_ns: Option<u64>,
}

/// `BPF_OBJ_GET_INFO_BY_FD` (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const GET_INFO: libc::c_int = 15;

/// Where the counts stand in `struct bpf_prog_info` (include/uapi/linux/bpf.h), which only ever grows at its end, in
/// words of 64 bits.
const RUN_TIME: usize = 24;
const RUN_COUNT: usize = 25;
const RECURSION_MISSES: usize = 26;

/// So much of it is read.
const WORDS: usize = 27;

/// The part of `union bpf_attr` that asks for it.
#[repr(C)]
struct Question {
    program: RawFd,
    /// Bytes that there is room for; then those that the kernel has to tell.
    length: u32,
    info: u64,
}

const _: () = assert!(size_of::<Question>() == 16);

impl Runs {
    /// Asks for the counts of a program by its descriptor (`bpf_prog_get_info_by_fd`, kernel/bpf/syscall.c). Its fdinfo
    /// says the same, for a dozen calls and a file that procfs makes for it.
    ///
    /// # Errors
    /// The kernel's, where it does not let itself be asked.
    pub fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut info = [0_u64; WORDS];
        let mut question = Question {
            program: program.as_raw_fd(),
            length: size_of_val(&info) as u32,
            info: info.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the kernel reads the question, writes a length into it and no more than that length into `info`;
        // both are there until it returns.
        let answer = unsafe {
            libc::syscall(libc::SYS_bpf, GET_INFO, &raw mut question, size_of::<Question>())
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::told(&info, question.length))
    }

    /// What so many bytes of the struct say.
    fn told(info: &[u64], length: u32) -> Self {
        let told = info.get(..length as usize / size_of::<u64>()).unwrap_or(info);
        let word = |at: usize| told.get(at).copied();
        Self {
            recursion_misses: word(RECURSION_MISSES),
            run_count: word(RUN_COUNT),
            run_time_ns: word(RUN_TIME),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Runs, WORDS};

    #[test]
    fn info_of_old_and_new_kernels() {
        let mut info = [0; WORDS];
        info[24..].copy_from_slice(&[70, 3, 12]);
        let old = Runs { recursion_misses: None, run_count: Some(3), run_time_ns: Some(70) };
        let new = Runs { recursion_misses: Some(12), ..old };
        // Linux 5.0, 5.10, 5.12, and one that tells more than there is room for.
        for (length, expected) in
            [(192, Runs::default()), (208, old), (216, new), (232, new), (0, Runs::default())]
        {
            assert_eq!(Runs::told(&info, length), expected, "{length}");
        }
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        use std::{fs::File, os::fd::AsFd as _};
        let file = File::open("/dev/null").expect("a file");
        assert!(Runs::of(file.as_fd()).is_err());
    }
}
