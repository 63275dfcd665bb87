//! Runs that the kernel counted for a program, and those it skipped.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
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

impl Runs {
    /// Reads the counts of a program from its descriptor (`bpf_prog_show_fdinfo`,
    /// kernel/bpf/syscall.c).
    ///
    /// # Errors
    /// /proc is not mounted or the descriptor is gone.
    pub fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        Ok(Self::parse(&text))
    }

    /// Reads the text of a program's fdinfo.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| *key == name)
                .and_then(|(_, value)| value.trim().parse().ok())
        };
        Self {
            recursion_misses: value("recursion_misses"),
            run_count: value("run_cnt"),
            run_time_ns: value("run_time_ns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Runs;

    #[test]
    fn fdinfo_of_old_and_new_kernels() {
        let old = "pos:\t0\nflags:\t02000002\nprog_type:\t5\nrun_time_ns:\t70\nrun_cnt:\t3\n";
        let new = format!("{old}recursion_misses:\t12\nverified_insns:\t2\n");
        let old_runs = Runs::parse(old);
        assert_eq!(old_runs.recursion_misses, None);
        assert_eq!((old_runs.run_count, old_runs.run_time_ns), (Some(3), Some(70)));
        assert_eq!(Runs::parse(&new), Runs { recursion_misses: Some(12), ..old_runs });
        assert_eq!(Runs::parse("recursion_misses: x\n"), Runs::default());
    }

    #[test]
    fn hostile_fdinfo_is_survived() {
        let sound =
            "pos:\t0\nprog_type:\t5\nrun_time_ns:\t70\nrun_cnt:\t3\nrecursion_misses:\t12\n";
        crate::hostile::survived_text(&[sound], |text| {
            let _runs = Runs::parse(text);
        });
    }
}
