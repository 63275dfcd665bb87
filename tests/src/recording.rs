//! What `netdiag record` has left in a directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::Timestamp;

/// A log and the lines beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Path of the log.
    pub log: PathBuf,
    /// Intervals that are whole: lines of the sidecar with their ends.
    pub intervals: usize,
}

/// The logs of a directory, oldest first.
///
/// # Errors
/// When it cannot be read.
pub fn logs(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut logs: Vec<_> = fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "hlog"))
        .collect();
    logs.sort();
    Ok(logs)
}

/// All of a directory, oldest first. One that is just being begun may have no sidecar yet.
///
/// # Errors
/// When it cannot be read.
pub fn all(directory: &Path) -> Result<Vec<Recording>> {
    let whole = |log: PathBuf| {
        let sidecar = fs::read(log.with_extension("jsonl")).unwrap_or_default();
        let intervals = sidecar.iter().filter(|byte| **byte == b'\n').count();
        Recording { log, intervals }
    };
    Ok(logs(directory)?.into_iter().map(whole).collect())
}

/// What the files of a run may be called that begins to write within a minute from now: by the second, and with a number
/// where a pair of that second is there already.
#[must_use]
pub fn upcoming(directory: &Path, node: &str) -> Vec<PathBuf> {
    const SECONDS: i64 = 60;
    const PAIRS: usize = 4;
    let now = Timestamp::now().as_second();
    let mut paths = Vec::new();
    for time in (now..now + SECONDS).filter_map(|second| Timestamp::from_second(second).ok()) {
        let name = format!("netdiag-{node}-{}", time.strftime("%Y%m%dT%H%M%SZ"));
        for number in 1..=PAIRS {
            let number = if number > 1 { format!("-{number}") } else { String::new() };
            for extension in ["hlog", "jsonl"] {
                paths.push(directory.join(format!("{name}{number}.{extension}")));
            }
        }
    }
    paths
}

/// Intervals in all of them.
#[must_use]
pub fn intervals(all: &[Recording]) -> usize {
    all.iter().map(|one| one.intervals).sum()
}

/// Intervals that a run says are in none of its files.
#[must_use]
pub fn missing(said: &[String]) -> usize {
    let number = |line: &String| {
        let words =
            || line.split(" intervals from ").next()?.rsplit(' ').next()?.parse::<usize>().ok();
        line.contains("are missing from the files").then(words).flatten()
    };
    said.iter().filter_map(number).sum()
}

/// One log of the lines of all, for readers that take long to start. What the times of its lines are relative to is
/// that of the first.
///
/// # Errors
/// When one cannot be read.
pub fn merged(all: &[Recording], into: &Path) -> Result<()> {
    let mut text = Vec::new();
    for one in all {
        let log = fs::read(&one.log).with_context(|| one.log.display().to_string())?;
        let is_first = text.is_empty();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            if is_first || !(line.starts_with(b"#") || line.starts_with(b"\"")) {
                text.extend_from_slice(line);
            }
        }
        // Nothing that is torn hides in the beginning of the next one.
        anyhow::ensure!(text.ends_with(b"\n"), "{} is torn", one.log.display());
    }
    Ok(fs::write(into, text)?)
}
