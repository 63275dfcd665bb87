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
        for ((status, &unseen), &fates) in statuses.iter().zip(&self.unseen).zip(&self.fates) {
            if let Some(account) = accounts.get_mut(&status.signal) {
                // Nobody looked while it was off, so nothing was missed.
                let unseen = if status.status == Status::Off { 0 } else { unseen };
                put(account, unseen, fates);
            }
        }
        accounts
    }
}

/// Puts that into an account of programs. What came has its fate whether its signal is on or not: [`Intake::stream`] has
/// taken it out of what was received.
fn put(account: &mut Account, unseen: u64, fates: Fates) {
    account.missed = account.missed.max(unseen);
    account.filtered += fates.filtered;
    account.unmatched += fates.unmatched;
    account.map_full += fates.map_full;
    // A program counts a record when the ring has it: one that was stopped between the two (a hypervisor has
    // its CPU) has not yet counted what was read of it here.
    account.submitted = account.submitted.saturating_sub(fates.sum());
}

#[cfg(test)]
mod tests {
    use netdiag_common::signal::Signal;

    use super::*;
    use crate::{
        flow::table::{Config, FlowTable},
        node::places::Places,
    };

    /// What was submitted of all signals is what was received.
    #[test]
    fn accounts_and_stream_agree_whatever_is_off() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::begin(root.path());
        let mut intake = Intake::new(FlowTable::new(Config::default()), places, None, None);
        intake.stream = Stream { received: 20, decoded: 20, malformed: 0 };
        intake.unseen = [7; Signal::COUNT];
        let fates = Fates { filtered: 1, unmatched: 2, map_full: 3 };
        intake.fates[Signal::Dns as usize] = fates;
        let status = |status, signal: Signal| SignalStatus {
            signal: signal.name().to_owned(),
            status,
            source: None,
            refused: Vec::new(),
            missing: Vec::new(),
            runs_per: None,
            unseen_counts: Vec::new(),
            shed: false,
        };
        for (is, missed) in [(Status::Full, 7), (Status::Off, 0)] {
            let statuses: Vec<_> = Signal::ALL.iter().map(|&signal| status(is, signal)).collect();
            let dns = Account { seen: 20, submitted: 20, ..Account::default() };
            let accounts = [(Signal::Dns.name().to_owned(), dns)].into();
            let accounts = intake.amend(accounts, &statuses);
            let account = accounts["dns"];
            assert_eq!((account.submitted, intake.stream().received), (14, 14), "{is:?}");
            assert_eq!((account.filtered, account.unmatched, account.map_full), (1, 2, 3));
            assert_eq!(account.missed, missed, "{is:?}");
        }
    }
}
