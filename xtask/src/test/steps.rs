//! The steps of a test run: which were asked for, how each went, and the table at the end.

use std::{
    cmp::Reverse,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Error, Result};

use super::tally::Tally;

/// What a step had to say besides its tally; shown when the step has ended.
pub(crate) type Output = Vec<u8>;

/// The steps so far. Several may run at a time.
pub(crate) struct Steps<'a> {
    only: &'a [String],
    start: Instant,
    done: Mutex<Vec<Done>>,
}

/// A step that has ended.
struct Done {
    name: &'static str,
    /// From the start of the run to that of the step.
    began: Duration,
    took: Duration,
    /// None when the step itself could not be run to its end.
    tally: Option<Tally>,
}

impl Done {
    fn failed(&self) -> bool {
        self.tally.as_ref().is_none_or(|tally| tally.failed > 0)
    }
}

impl<'a> Steps<'a> {
    pub(crate) fn new(only: &'a [String]) -> Self {
        Self { only, start: Instant::now(), done: Mutex::default() }
    }

    /// Whether a step was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    /// Runs a step if it was asked for.
    pub(crate) fn run(&self, name: &'static str, step: impl FnOnce(&mut Output) -> Result<Tally>) {
        if self.wants(name) {
            self.go(name, true, step);
        }
    }

    /// Runs a step that others need, and that nobody can ask for by itself; whether it succeeded.
    pub(crate) fn always(
        &self,
        name: &'static str,
        step: impl FnOnce(&mut Output) -> Result<Tally>,
    ) -> bool {
        self.go(name, false, step)
    }

    /// Runs a step, and shows its output when it has ended; one that fails does not keep the others
    /// from running. `by_name` is true of one that can be asked for. Whether it succeeded.
    fn go(
        &self,
        name: &'static str,
        by_name: bool,
        step: impl FnOnce(&mut Output) -> Result<Tally>,
    ) -> bool {
        eprintln!("test: {name}");
        let (began, mut output) = (self.start.elapsed(), Output::new());
        let result = step(&mut output);
        let took = self.start.elapsed() - began;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if !output.is_empty() {
            // Our reader may have gone; the result stands in the table all the same.
            let mut stdout = io::stdout().lock();
            let _ = writeln!(stdout, "==== {name}").and_then(|()| stdout.write_all(&output));
        }
        if let Err(error) = &result {
            eprintln!("{}", broken(name, by_name, error));
        }
        // The table may be an hour away, or never come.
        for failure in result.iter().flat_map(|tally| &tally.failures) {
            eprintln!("test: {name} failed: {failure}");
        }
        let ended = Done { name, began, took, tally: result.ok() };
        let succeeded = !ended.failed();
        done.push(ended);
        succeeded
    }

    pub(crate) fn failed(&self) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).iter().any(Done::failed)
    }

    /// Tests of some steps that have passed, failed or were skipped.
    pub(crate) fn ended(&self, is_one: impl Fn(&str) -> bool) -> u32 {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let tallies =
            done.iter().filter(|step| is_one(step.name)).filter_map(|it| it.tally.as_ref());
        tallies.map(|tally| tally.passed + tally.failed + tally.skipped).sum()
    }

    /// Prints the table and the closing line; failure when anything failed.
    pub(crate) fn report(self) -> ExitCode {
        let took = self.start.elapsed();
        let failed = self.failed();
        let mut done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|step| step.began);
        println!("\n{}", table(&done, took));
        if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// What is said of a step that could not be run to its end; `by_name` as in [`Steps::go`].
fn broken(name: &str, by_name: bool, error: &Error) -> String {
    let by = if by_name { format!(" by `cargo xtask test --only {name}`") } else { String::new() };
    format!(
        "test: {name} failed: {error:#}; nothing is known of it, mend that and run it again{by}"
    )
}

/// Binaries of a step that are named with what they took.
const LONGEST: usize = 10;

/// Steps in the order of their beginnings, then why tests were skipped or passed only when they ran again,
/// which took longest and what failed ones said, then the sum.
fn table(done: &[Done], took: Duration) -> String {
    let mut text = String::new();
    let mut total = Tally::default();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<18} {:>8} {:>8} {:>7} {:>7} {:>8}",
        "step", "begins", "takes", "passed", "failed", "skipped"
    );
    for Done { name, began, took, tally } in done {
        let (began, took) = (began.as_secs_f64(), took.as_secs_f64());
        let _ = write!(text, "{name:<18} {began:>6.0} s {took:>6.1} s ");
        let _ = match tally {
            Some(Tally { passed, failed, skipped, .. }) => {
                writeln!(text, "{passed:>7} {failed:>7} {skipped:>8}")
            }
            None => writeln!(text, " FAILED"),
        };
        match tally {
            Some(tally) => total += tally.clone(),
            None => total.failed += 1,
        }
    }
    let _ = writeln!(text, "{:<18} {:>8} {:>6.1} s", "all", "", took.as_secs_f64());
    if total.skipped > 0 {
        let _ = writeln!(text, "\n{:<18} {:>7}  what was not there", "skipped", "tests");
    }
    let tallies = || done.iter().filter_map(|done| Some((done.name, done.tally.as_ref()?)));
    for (step, tally) in tallies() {
        for (reason, count) in &tally.reasons {
            let _ = writeln!(text, "{step:<18} {count:>7}  {reason}");
        }
    }
    if !total.retries.is_empty() {
        let _ =
            writeln!(text, "\n{:<18} {:>7}  why tests that passed ran again", "retried", "times");
    }
    for (step, tally) in tallies() {
        for (reason, count) in &tally.retries {
            let _ = writeln!(text, "{step:<18} {count:>7}  {reason}");
        }
    }
    if tallies().any(|(_, tally)| !tally.took.is_empty()) {
        let _ = writeln!(text, "\n{:<18} {:>7}  by which binary", "longest", "seconds");
    }
    for (step, tally) in tallies() {
        let mut took: Vec<_> = tally.took.iter().collect();
        took.sort_by_key(|(_, seconds)| Reverse(*seconds));
        for (binary, seconds) in took.into_iter().take(LONGEST) {
            let _ = writeln!(text, "{step:<18} {seconds:>7}  {binary}");
        }
    }
    for (step, tally) in tallies() {
        for failure in &tally.failures {
            let _ = writeln!(text, "\n{step} failed: {failure}");
        }
    }
    let Tally { passed, failed, skipped, .. } = total;
    let _ = write!(text, "\n{passed} passed, {failed} failed, {skipped} skipped");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(name: &'static str, tally: Option<Tally>) -> Done {
        Done { name, began: Duration::from_secs(2), took: Duration::from_millis(1500), tally }
    }

    #[test]
    fn the_table_names_every_step_what_was_missing_and_what_ran_again() {
        let skipped = Tally {
            passed: 3,
            skipped: 1,
            reasons: [("Nft is missing".to_owned(), 1)].into(),
            retries: [("the kernel skipped programs".to_owned(), 12)].into(),
            took: [("drop", 3), ("rtt", 17)].map(|(name, s)| (name.to_owned(), s)).into(),
            ..Tally::default()
        };
        let expected = "\
step                 begins    takes  passed  failed  skipped
native                  2 s    1.5 s       3       0        1
vm-6.1                  2 s    1.5 s  FAILED
all                            4.0 s

skipped              tests  what was not there
native                   1  Nft is missing

retried              times  why tests that passed ran again
native                  12  the kernel skipped programs

longest            seconds  by which binary
native                  17  rtt
native                   3  drop

3 passed, 1 failed, 1 skipped";
        let table =
            table(&[done("native", Some(skipped)), done("vm-6.1", None)], Duration::from_secs(4));
        assert_eq!(table, expected);
    }

    #[test]
    fn a_step_that_fails_fails_the_run() {
        for (tally, fails) in [
            (Some(Tally::default()), false),
            (Some(Tally { failed: 1, ..Tally::default() }), true),
            (None, true),
        ] {
            assert_eq!(done("unit", tally).failed(), fails);
        }
    }

    #[test]
    fn what_others_need_says_whether_it_succeeded_itself() {
        let steps = Steps::new(&[]);
        let failed = Tally { failed: 1, ..Tally::default() };
        assert!(!steps.always("format", |_| Ok(failed)));
        assert!(!steps.always("set-up", |_| Err(Error::msg("no compiler"))));
        assert!(steps.always("build", |_| Ok(Tally::default())));
        assert!(steps.failed());
    }

    #[test]
    fn only_what_can_be_named_is_to_be_named() {
        let error = Error::msg("no compiler").context("nothing is built");
        let expected = "test: build failed: nothing is built: no compiler; nothing is known of it, mend that and run \
                        it again";
        assert_eq!(broken("build", false, &error), expected);
        let by = " by `cargo xtask test --only unit`";
        assert!(broken("unit", true, &error).ends_with(by), "it can be");
    }

    #[test]
    fn tests_are_counted_over_some_steps() {
        let steps = Steps::new(&[]);
        let ended = Tally { passed: 2, skipped: 1, ..Tally::default() };
        for name in ["unit", "native", "vm-6.1"] {
            steps.always(name, |_| Ok(ended.clone()));
        }
        assert_eq!(steps.ended(|name| name != "unit"), 6);
        assert_eq!(steps.ended(|name| name == "image"), 0);
    }

    #[test]
    fn steps_are_chosen_by_the_beginning_of_their_names() {
        let only = ["vm-6".to_owned(), "unit".to_owned()];
        let steps = Steps::new(&only);
        assert!(steps.wants("vm-6.12") && steps.wants("unit"));
        assert!(!steps.wants("vm-5.10") && !steps.wants("native"));
        assert!(Steps::new(&[]).wants("native"));
    }
}
