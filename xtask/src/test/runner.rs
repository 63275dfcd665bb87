//! Runs one check or one set of tests, keeping what it says for when the step has ended.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    blessed,
    steps::Output,
    tally::{Reader, Tally},
};

/// Runs a check that has no tests of its own.
pub(crate) fn check(command: &mut Command, output: &mut Output) -> Result<Tally> {
    let name = command.get_program().display().to_string();
    let said = command.output().with_context(|| format!("{name} does not start"))?;
    output.extend(said.stdout);
    output.extend(said.stderr);
    if !said.status.success() {
        bail!("{name} ended with {}, what it found stands above", said.status);
    }
    Ok(Tally::default())
}

/// Runs tests and counts what they say. A line `== … took …` tells how far they are, and is passed on
/// at once.
pub(crate) fn tests(command: &mut Command, output: &mut Output) -> Result<Tally> {
    let name = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} does not start"))?;
    let mut reader = Reader::default();
    let mut from = BufReader::new(child.stdout.take().context("the tests' stdout is not piped")?);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        output.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line);
        if let Some(progress) = text.strip_prefix("== ").filter(|_| text.contains(" took ")) {
            eprintln!("test: {}", progress.trim_end());
        }
        blessed::take(&text)?;
        reader.line(&text);
        line.clear();
    }
    let status = child.wait()?;
    let has_result = reader.has_result();
    let mut tally = reader.tally();
    if !status.success() && tally.failed == 0 {
        // Something died outside a test: a crash, a machine that did not come up.
        eprintln!("test: {name} ended with {status}");
        tally.failed += 1;
    } else if status.success() && !has_result {
        eprintln!("test: {name} ended without a result");
        tally.failed += 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_check_that_fails_is_an_error_and_its_words_are_kept() {
        let mut output = Output::new();
        check(&mut shell("echo fine"), &mut output).unwrap();
        check(&mut shell("echo bad >&2; exit 3"), &mut output).unwrap_err();
        assert_eq!(output, b"fine\nbad\n");
    }

    #[test]
    fn tests_that_die_or_say_nothing_have_failed() {
        let failed = |script: &str| tests(&mut shell(script), &mut Output::new()).unwrap().failed;
        let passes = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'";
        assert_eq!(failed(passes), 0);
        assert_eq!(failed(&format!("{passes}; kill -SEGV $$")), 1);
        assert_eq!(failed("true"), 1);
    }
}
