//! Samples of whose fate no program knows.

use std::collections::BTreeMap;

use super::Intake;
use crate::snapshot::{Account, SignalStatus, Status, Stream};

/// Fates that samples have here.
#[derive(Clone, Copy, Default)]
pub(super) struct Fates {
    /// Left out by filters.
    pub(super) filtered: u64,
    /// An end without a beginning.
    pub(super) unmatched: u64,
    /// Lost for want of room to remember them.
    pub(super) map_full: u64,
}

impl Fates {
    pub(super) const fn add(&mut self, more: Self) {
        self.filtered += more.filtered;
        self.unmatched += more.unmatched;
        self.map_full += more.map_full;
    }

    const fn sum(self) -> u64 {
        self.filtered + self.unmatched + self.map_full
    }
}

impl Intake {
    /// What came of the samples that have no other fate, as [`Self::amend`] has it.
    pub(in crate::run) fn stream(&self) -> Stream {
        let elsewhere: u64 = self.fates.iter().map(|fates| fates.sum()).sum();
        let Stream { received, decoded, malformed } = self.stream;
        Stream { received: received - elsewhere, decoded: decoded - elsewhere, malformed }
    }

    /// Adds to the programs' own accounts what the records tell: what no program saw was missed,
    /// whatever the kernel says of skipped runs; what has another fate here was not handed on.
    pub(in crate::run) fn amend(
        &self,
        mut accounts: BTreeMap<String, Account>,
        statuses: &[SignalStatus],
    ) -> BTreeMap<String, Account> {
        for ((status, &unseen), fates) in statuses.iter().zip(&self.unseen).zip(&self.fates) {
            if status.status != Status::Off
                && let Some(account) = accounts.get_mut(&status.signal)
            {
                account.missed = account.missed.max(unseen);
                account.filtered += fates.filtered;
                account.unmatched += fates.unmatched;
                account.map_full += fates.map_full;
                // A program counts a record when the ring has it: one that was stopped between the two (a hypervisor has
                // its CPU) has not yet counted what was read of it here.
                account.submitted = account.submitted.saturating_sub(fates.sum());
            }
        }
        accounts
    }
}
