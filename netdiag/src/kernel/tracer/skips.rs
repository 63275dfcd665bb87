//! Runs of the programs that the kernel skipped, as far as it can be asked.

use std::{mem, os::fd::AsFd as _};

use anyhow::{Context as _, Error, Result};
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

/// A program that is or was attached: its counts stay readable as long as there is a descriptor.
pub(super) struct Counted<F> {
    signal: Signal,
    is_end: bool,
    fd: F,
}

impl Counted<&ProgramFd> {
    /// With a descriptor of its own.
    pub(super) fn kept(self) -> Result<Counted<ProgramFd>> {
        let Self { signal, is_end, fd } = self;
        let fd = fd.try_clone().context("no descriptor for a program's counts")?;
        Ok(Counted { signal, is_end, fd })
    }
}

impl Counted<ProgramFd> {
    pub(super) const fn borrowed(&self) -> Counted<&ProgramFd> {
        Counted { signal: self.signal, is_end: self.is_end, fd: &self.fd }
    }
}

/// The attached programs, for the kernel's counts of them.
pub(super) fn counted<'a>(
    ebpf: &'a Ebpf,
    attached: &'a [Attached],
) -> impl Iterator<Item = Result<Counted<&'a ProgramFd>>> {
    let asked = attached.iter().enumerate().filter(move |&(nth, one)| {
        // One that is on several hooks of a signal counts for all of them.
        let is_same = |it: &Attached| it.signal == one.signal && it.program == one.program;
        one.attachment.role != Role::Aside && !attached[..nth].iter().any(is_same)
    });
    asked.filter_map(move |(_, &Attached { signal, program: ref name, attachment, .. })| {
        let fd = ebpf.program(name)?.fd().map_err(Error::from);
        Some(fd.map(|fd| Counted { signal, is_end: attachment.role == Role::End, fd }))
    })
}

/// Runs that the kernel skipped so far, by signal.
pub(super) fn skipped<'a>(
    programs: impl Iterator<Item = Result<Counted<&'a ProgramFd>>>,
) -> Result<[Skipped; Signal::COUNT]> {
    let mut skipped = [Skipped::default(); Signal::COUNT];
    for counted in programs {
        let Counted { signal, is_end, fd } = counted?;
        let runs = Runs::of(fd.as_fd()).context("reading a program's counts")?;
        let skipped = &mut skipped[signal as usize];
        let to = if is_end { &mut skipped.ends } else { &mut skipped.begins };
        *to += runs.recursion_misses.unwrap_or(0);
    }
    Ok(skipped)
}

/// What is known of skipped runs where the kernel cannot be asked, as without a descriptor to ask by.
#[derive(Default)]
pub(super) struct Skips {
    last: [Skipped; Signal::COUNT],
    /// The signals whose samples are left out since then.
    shed: u32,
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
            Ok(mut skipped) => {
                for &signal in Signal::ALL {
                    let (now, last) = (&mut skipped[signal as usize], self.last[signal as usize]);
                    let of_shed = u64::from(self.shed & signal.bit() != 0);
                    let [begins, ends] = [(now.begins, last.begins), (now.ends, last.ends)]
                        .map(|(now, last)| of_shed * now.saturating_sub(last));
                    now.begins_shed = last.begins_shed + begins;
                    now.ends_shed = last.ends_shed + ends;
                }
                (self.last, self.unread) = (skipped, false);
            }
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

    /// Samples of these signals are left out from the last reading on.
    pub(super) const fn shed(&mut self, signals: u32) {
        self.shed = signals;
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_cannot_be_asked_stays_as_it_was_and_is_said_once() {
        let mut skips = Skips::default();
        let mut some = [Skipped::default(); Signal::COUNT];
        some[0] = Skipped { begins: 3, ends: 1, ..Skipped::default() };
        assert_eq!(skips.known(Ok(some)), some);
        for (is_first, read) in [(true, Err(anyhow!("full"))), (false, Err(anyhow!("full")))] {
            assert_eq!(skips.known(read), some);
            assert_eq!((skips.are_unread(), skips.problem().is_some()), (true, is_first));
        }
        some[0].begins = 4;
        assert_eq!(skips.known(Ok(some)), some);
        assert!(!skips.are_unread());
        skips.known(Err(anyhow!("full")));
        assert!(skips.problem().is_some(), "once more");
    }

    #[test]
    fn runs_that_are_skipped_while_samples_are_left_out_are_told_apart() {
        let (mut skips, send) = (Skips::default(), Signal::Send as usize);
        let mut told = |begins, ends, shed| {
            let mut read = [Skipped::default(); Signal::COUNT];
            read[send] = Skipped { begins, ends, ..Skipped::default() };
            let known = skips.known(Ok(read))[send];
            skips.shed(shed);
            (known.begins_shed, known.ends_shed)
        };
        assert_eq!(told(3, 1, Signal::Send.bit()), (0, 0));
        assert_eq!(told(5, 1, Signal::Send.bit()), (2, 0));
        assert_eq!(told(5, 4, Signal::Rtt.bit()), (2, 3));
        assert_eq!(told(9, 9, 0), (2, 3));
    }
}
