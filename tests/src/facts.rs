//! Facts of one test: all are noted, all are checked, and all are printed when one is wrong.

use std::fmt::{Debug, Display, Write};

use netdiag::snapshot::Snapshot;

/// Collects what a test found. Ends with [`Facts::finish`].
#[derive(Debug, Default)]
#[must_use = "facts are only judged by finish()"]
pub struct Facts {
    notes: Vec<String>,
    wrong: Vec<String>,
    /// How many more were wrong.
    left_out: usize,
}

impl Facts {
    /// No facts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something to know when another fact is wrong.
    pub fn note(&mut self, fact: impl Display) {
        self.notes.push(fact.to_string());
    }

    /// Two values that must be the same.
    #[expect(clippy::needless_pass_by_value, reason = "callers compare temporaries")]
    pub fn equal<T: PartialEq + Debug>(&mut self, what: impl Display, found: T, expected: T) {
        if found == expected {
            self.note(format_args!("{what}: {found:?}, as expected"));
        } else {
            self.wrong.push(format!("{what}: found {found:?}, expected {expected:?}"));
        }
    }

    /// Something that must hold.
    pub fn holds(&mut self, what: impl Display, holds: bool) {
        if holds {
            self.note(format_args!("holds: {what}"));
        } else {
            self.wrong.push(format!("does not hold: {what}"));
        }
    }

    /// What a snapshot says of its own trustworthiness: every account balances, `complete` says
    /// what the accounts say, and nothing was malformed.
    pub fn consistent(&mut self, snapshot: &Snapshot) {
        for (signal, account) in &snapshot.accounting {
            self.note(format_args!("{signal}: {account:?}"));
            self.holds(format_args!("the account of {signal} balances"), account.balances());
        }
        self.note(format_args!("stream: {:?}", snapshot.stream));
        let lost: u64 = snapshot.accounting.values().map(netdiag::snapshot::Account::lost).sum();
        self.equal(
            format_args!("complete with {lost} lost or missed samples"),
            snapshot.complete,
            lost == 0,
        );
        self.equal("malformed samples", snapshot.stream.malformed, 0);
    }

    /// [`Facts::consistent`], and that every sample has arrived: nothing pending, and what the
    /// programs submitted is what userspace received and decoded.
    pub fn at_rest(&mut self, total: &Snapshot) {
        self.equal("schema of the last line", total.schema.as_str(), "netdiag.total/1");
        self.consistent(total);
        let submitted: u64 = total.accounting.values().map(|account| account.submitted).sum();
        for (signal, account) in &total.accounting {
            self.equal(format_args!("{signal} pending at the end"), account.pending, 0);
        }
        let stream = &total.stream;
        self.equal("received of the samples submitted", stream.received, submitted);
        self.equal(
            "decoded or malformed of the samples received",
            stream.decoded + stream.malformed,
            stream.received,
        );
    }

    /// Judges what holds of any run, also of one whose numbers are not exact.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn only_at_rest(total: &Snapshot) {
        let mut facts = Self::new();
        facts.at_rest(total);
        facts.finish();
    }

    /// That nothing was lost.
    pub fn lossless(&mut self, total: &Snapshot) {
        for (signal, account) in &total.accounting {
            self.equal(format_args!("{signal} lost"), account.lost(), 0);
        }
    }

    /// Takes over what is wrong with a part of a long run, and nothing of what is right: of that there is no end. Of
    /// more than a few parts only how many there are is kept.
    pub fn adopt(&mut self, part: impl Display, found: Self) {
        /// What is told.
        const MOST: usize = 40;
        let room = MOST.saturating_sub(self.wrong.len());
        self.left_out += found.left_out + found.wrong.len().saturating_sub(room);
        let told = found.wrong.into_iter().take(room);
        self.wrong.extend(told.map(|wrong| format!("{part}: {wrong}")));
    }

    /// Whether something was wrong so far.
    #[must_use]
    pub fn any_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Judges.
    ///
    /// # Panics
    /// When a fact was wrong; the message holds all facts.
    #[track_caller]
    pub fn finish(self) {
        if self.wrong.is_empty() {
            return;
        }
        let wrong = self.wrong.len() + self.left_out;
        let mut text = format!("{wrong} of {} facts are wrong:\n", self.notes.len() + wrong);
        for wrong in &self.wrong {
            let _ = writeln!(text, "  WRONG {wrong}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        panic!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "60 of 60 facts are wrong")]
    fn what_a_part_has_left_out_is_counted_in_the_whole() {
        let mut found = Facts::new();
        (0..60).for_each(|number| found.holds(number, false));
        let mut part = Facts::new();
        part.adopt("first", found);
        let mut whole = Facts::new();
        whole.adopt("second", part);
        whole.finish();
    }
}
