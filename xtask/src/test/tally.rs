//! Counts tests from what libtest prints. A test that says SKIPPED has not passed.

use std::ops::AddAssign;

/// Tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Ignored by libtest, or ended with the word SKIPPED because something is not there.
    pub(crate) skipped: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Reads libtest's output (with `--show-output`) line by line.
#[derive(Default)]
pub(crate) struct Reader {
    total: Tally,
    /// In a test's own output that has not said SKIPPED yet.
    in_output: bool,
    skips: u32,
    has_result: bool,
}

impl Reader {
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.in_output = true;
        } else if line.starts_with("SKIPPED: ") && self.in_output {
            self.in_output = false;
            self.skips += 1;
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let count =
                    counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
                count.and_then(|count| count.trim().parse::<u32>().ok()).unwrap_or(0)
            };
            self.has_result = true;
            let skips = std::mem::take(&mut self.skips);
            self.total += Tally {
                passed: number("passed").saturating_sub(skips),
                failed: number("failed"),
                skipped: number("ignored") + skips,
            };
            self.in_output = false;
        }
    }

    /// False when no test binary has come to its end.
    pub(crate) fn has_result(&self) -> bool {
        self.has_result
    }

    pub(crate) fn tally(&self) -> Tally {
        self.total
    }
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
        assert_eq!(tally(output), Tally { passed: 5, failed: 1, skipped: 1 });
        assert_eq!(tally("nothing"), Tally::default());
    }

    #[test]
    fn a_skip_is_no_pass_and_counts_once() {
        let output = "successes:\n\n---- one stdout ----\nSKIPPED: Kprobes is missing\nSKIPPED: Nft is \
                      missing\n\n---- two stdout ----\nall is well\n\nsuccesses:\n    one\n\ntest result: ok. 2 \
                      passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
        assert_eq!(tally(output), Tally { passed: 1, failed: 0, skipped: 1 });
    }
}
