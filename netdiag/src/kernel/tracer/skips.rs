//! Runs of the programs that the kernel skipped, as far as it can be asked.

use std::{mem, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::ProgramFd};
use netdiag_common::signal::Signal;

use crate::{
    kernel::{
        account::Skipped,
        attach::{self, Attached},
        missed::Runs,
    },
    signal::Role,
};

/// A program that is or was attached: its counts stay readable as long as this lives.
pub(super) struct Counted {
    signal: Signal,
    is_end: bool,
    fd: ProgramFd,
}

/// The attached programs, for the kernel's counts of them.
pub(super) fn counted(ebpf: &Ebpf, attached: &[Attached]) -> Result<Vec<Counted>> {
    let mut counted = Vec::new();
    for (nth, &Attached { signal, program: ref name, role, .. }) in attached.iter().enumerate() {
        let Some(program) = ebpf.program(name) else { continue };
        // One that is on several hooks of a signal counts for all of them.
        let is_same = |it: &Attached| it.signal == signal && it.program == *name;
        if role == Role::Aside || attached[..nth].iter().any(is_same) {
            continue;
        }
        let fd = program.fd()?.try_clone().context("no descriptor for a program's counts")?;
        counted.push(Counted { signal, is_end: role == Role::End, fd });
    }
    Ok(counted)
}

/// Runs that the kernel skipped so far, by signal.
pub(super) fn skipped(programs: &[Counted]) -> Result<[Skipped; Signal::COUNT]> {
    let mut skipped = [Skipped::default(); Signal::COUNT];
    for Counted { signal, is_end, fd } in programs {
        let runs = Runs::of(fd.as_fd()).context("reading a program's counts")?;
        let skipped = &mut skipped[*signal as usize];
        let to = if *is_end { &mut skipped.ends } else { &mut skipped.begins };
        *to += runs.recursion_misses.unwrap_or(0);
    }
    Ok(skipped)
}

/// What is known of skipped runs where the kernel cannot be asked, as without a descriptor to ask by.
#[derive(Default)]
pub(super) struct Skips {
    last: [Skipped; Signal::COUNT],
    /// It could not be asked the last time.
    unread: bool,
    problem: Option<String>,
}

impl Skips {
    /// What is known after a reading, whatever came of that.
    pub(super) fn known(
        &mut self,
        read: Result<[Skipped; Signal::COUNT]>,
    ) -> [Skipped; Signal::COUNT] {
        match read {
            Ok(skipped) => (self.last, self.unread) = (skipped, false),
            Err(error) => {
                if !mem::replace(&mut self.unread, true) {
                    self.problem = Some(format!(
                        "{}: how many runs of its programs the kernel skipped is not known at present, so \
                         `missed` is as it was; see `ulimit -n` and fs.file-max",
                        attach::one_line(&error)
                    ));
                }
            }
        }
        self.last
    }

    /// Whether the kernel could not be asked the last time.
    pub(super) const fn are_unread(&self) -> bool {
        self.unread
    }

    /// What there is to say of them, once as long as it lasts.
    pub(super) fn problem(&mut self) -> Option<String> {
        self.problem.take()
    }
}
