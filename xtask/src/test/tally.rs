//! Counts tests from what libtest prints. A test that says SKIPPED has not passed; one that says RETRIED
//! has, but not at once.

use std::{collections::BTreeMap, mem, ops::AddAssign};

/// Tests by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Ignored by libtest, or ended with the word SKIPPED because something is not there.
    pub(crate) skipped: u32,
    /// What was not there, and how many tests said so. One test may miss several things.
    pub(crate) reasons: BTreeMap<String, u32>,
    /// Why tests that passed had to be run again by themselves, and how often.
    pub(crate) retries: BTreeMap<String, u32>,
    /// What each failed test said, its name first.
    pub(crate) failures: Vec<String>,
    /// Seconds that each binary took, by its name.
    pub(crate) took: Vec<(String, u64)>,
}

/// Lines of a failed test that are kept: those that say what is wrong where there are such, else the first.
const FAILURE_LINES: usize = 12;
/// And characters of a line.
const FAILURE_WIDTH: usize = 400;

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for (reason, count) in other.retries {
            *self.retries.entry(reason).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.took.extend(other.took);
    }
}

/// Reads libtest's output (with `--show-output`) line by line.
#[derive(Default)]
pub(crate) struct Reader {
    total: Tally,
    /// Among the output of the tests that did not fail.
    in_successes: bool,
    /// What the test whose output this is has missed so far.
    missed: Vec<String>,
    /// What the tests of this binary missed, one item a test.
    skips: Vec<Vec<String>>,
    /// The test among those that failed whose output this is: its name and what it said.
    failing: Option<(String, Vec<String>)>,
    has_result: bool,
}

impl Reader {
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        let header = || line.strip_prefix("---- ")?.strip_suffix(" stdout ----");
        if line == "successes:" || line == "failures:" {
            self.end_test();
            self.in_successes = line == "successes:";
        } else if let Some(name) = header() {
            self.end_test();
            if !self.in_successes {
                self.failing = Some((name.to_owned(), Vec::new()));
            }
        } else if let Some((_, said)) = &mut self.failing {
            if !line.is_empty() {
                said.push(line.chars().take(FAILURE_WIDTH).collect());
            }
        } else if let Some(reason) = line.strip_prefix("SKIPPED: ")
            && self.in_successes
        {
            let reason = in_general(reason);
            if !self.missed.contains(&reason) {
                self.missed.push(reason);
            }
        } else if let Some(reason) = line.strip_prefix("RETRIED: ")
            && self.in_successes
        {
            *self.total.retries.entry(in_general(reason)).or_default() += 1;
        } else if let Some(took) = line.strip_prefix("== ").and_then(took) {
            self.total.took.push(took);
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.end_test();
            self.in_successes = false;
            self.end_binary(counts);
        }
    }

    fn end_test(&mut self) {
        let missed = mem::take(&mut self.missed);
        if !missed.is_empty() {
            self.skips.push(missed);
        }
        if let Some((name, said)) = self.failing.take() {
            let mut text = name;
            for line in essence(&said) {
                text.push_str("\n    ");
                text.push_str(line.trim_start());
            }
            self.total.failures.push(text);
        }
    }

    fn end_binary(&mut self, counts: &str) {
        let number = |word: &str| {
            let count = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
            count.and_then(|count| count.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        self.has_result = true;
        let skips = mem::take(&mut self.skips);
        let (ignored, skipped) =
            (number("ignored"), u32::try_from(skips.len()).unwrap_or(u32::MAX));
        let mut tally = Tally {
            passed: number("passed").saturating_sub(skipped),
            failed: number("failed"),
            skipped: ignored + skipped,
            ..Tally::default()
        };
        for reason in skips.into_iter().flatten() {
            *tally.reasons.entry(reason).or_default() += 1;
        }
        if ignored > 0 {
            tally.reasons.insert("ignored by its own attribute".to_owned(), ignored);
        }
        self.total += tally;
    }

    /// False when no test binary has come to its end.
    pub(crate) fn has_result(&self) -> bool {
        self.has_result
    }

    pub(crate) fn tally(self) -> Tally {
        self.total
    }
}

/// What a failed test said that tells why it failed: whatever reads only the end of a long output shall find it there.
fn essence(said: &[String]) -> Vec<&String> {
    let is_wrong = |line: &&String| line.trim_start().starts_with("WRONG ");
    let wrong = || said.iter().filter(is_wrong);
    match wrong().next() {
        Some(_) => wrong().take(FAILURE_LINES).collect(),
        None => said.iter().take(FAILURE_LINES).collect(),
    }
}

/// The binary and its seconds in `NAME on KERNEL took N s`.
fn took(line: &str) -> Option<(String, u64)> {
    let (what, seconds) = line.strip_suffix(" s")?.split_once(" took ")?;
    Some((what.split(' ').next()?.to_owned(), seconds.parse().ok()?))
}

/// Behind a colon stands what differs from machine to machine.
fn in_general(reason: &str) -> String {
    reason.split(": ").next().unwrap_or(reason).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        reader.tally()
    }

    #[test]
    fn results_add_up() {
        let output = "test a ... ok\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered \
                      out; finished in 0.02s\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 \
                      measured; 0 filtered out; finished in 1.20s\n";
        let reasons = [("ignored by its own attribute".to_owned(), 1)].into();
        let expected = Tally { passed: 5, failed: 1, skipped: 1, reasons, ..Tally::default() };
        assert_eq!(tally(output), expected);
        assert_eq!(tally("nothing"), Tally::default());
    }

    #[test]
    fn each_binary_has_its_seconds() {
        let output = "== rtt\ntest result: ok. 3 passed; 0 failed\n== rtt on 5.10.0-46 took 17 s\n";
        assert_eq!(tally(output).took, [("rtt".to_owned(), 17)]);
    }

    #[test]
    fn a_skip_is_no_pass_and_counts_once() {
        let output = "successes:\n\n---- one stdout ----\nSKIPPED: Kprobes is missing: why\nSKIPPED: Nft is \
                      missing\n\n---- two stdout ----\nall is well\n\nsuccesses:\n    one\n\ntest result: ok. 2 \
                      passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
        let reasons = ["Kprobes is missing", "Nft is missing"].map(|reason| (reason.to_owned(), 1));
        let expected = Tally { passed: 1, skipped: 1, reasons: reasons.into(), ..Tally::default() };
        assert_eq!(tally(output), expected);
        let mut twice = tally(output);
        twice += tally(output);
        assert_eq!(twice.reasons["Nft is missing"], 2);
    }

    #[test]
    fn a_retry_is_a_pass_and_each_counts() {
        let output = "successes:\n\n---- one stdout ----\nRETRIED: runs were skipped: 3 of 7\nRETRIED: runs \
                      were skipped: 1 of 7\n\n---- two stdout ----\nRETRIED: late\n\nsuccesses:\n    one\n\n\
                      failures:\n\n---- three stdout ----\nRETRIED: late\n\nfailures:\n    three\n\ntest result: FAILED. 2 passed; 1 \
                      failed; 0 ignored; 0 measured; 0 filtered out\n";
        let found = tally(output);
        let retries = [("late", 1), ("runs were skipped", 2)];
        let retries = retries.map(|(reason, count)| (reason.to_owned(), count)).into();
        let failures = vec!["three\n    RETRIED: late".to_owned()];
        let expected = Tally { passed: 2, failed: 1, retries, failures, ..Tally::default() };
        assert_eq!(found, expected);
        let mut twice = tally(output);
        twice += tally(output);
        assert_eq!(twice.retries["runs were skipped"], 4);
    }

    #[test]
    fn of_a_failed_test_what_is_wrong_is_kept() {
        let notes = "  all is well\n".repeat(100);
        let output = format!(
            "failures:\n\n---- two stdout ----\n\nthread 'two' panicked at tests/two.rs:3:5:\n2 of 102 facts \
             are wrong:\n{notes}  WRONG found 1, expected 2\n{notes}  WRONG too late\n\nfailures:\n    \
             two\n\ntest result: FAILED. 0 passed; 1 failed\n"
        );
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        let expected = "two\n    WRONG found 1, expected 2\n    WRONG too late";
        assert_eq!(reader.tally().failures, [expected]);
    }

    #[test]
    fn a_failure_that_skipped_something_first_takes_nothing_from_the_others() {
        let output = "successes:\n\n---- one stdout ----\nall is well\n\nsuccesses:\n    one\n\nfailures:\n\n\
                      ---- two stdout ----\nSKIPPED: Nft is missing\nthread 'two' panicked\n\nfailures:\n    \
                      two\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let failures =
            vec!["two\n    SKIPPED: Nft is missing\n    thread 'two' panicked".to_owned()];
        let expected = Tally { passed: 1, failed: 1, failures, ..Tally::default() };
        assert_eq!(tally(output), expected);
    }
}
