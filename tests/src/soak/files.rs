//! The files of a recording while they grow: each interval that is written is read, before room is made of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use netdiag::snapshot::Snapshot;

use crate::recording;

/// How far each sidecar was read.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<PathBuf, u64>);

impl Files {
    /// Reads what was written whole since the last time, and says how many intervals that were.
    ///
    /// # Errors
    /// When a file cannot be read, or a line of it is no snapshot.
    pub(super) fn follow(
        &mut self,
        directory: &Path,
        mut each: impl FnMut(&Snapshot),
    ) -> Result<u64> {
        let mut intervals = 0;
        for one in recording::logs(directory)? {
            let sidecar = one.with_extension("jsonl");
            let at = self.0.entry(sidecar.clone()).or_default();
            let text = match rest(&sidecar, *at) {
                // It is just being begun, or room was made.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                read => read.with_context(|| sidecar.display().to_string())?,
            };
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                // What is torn is written still, or never will be.
                if !line.ends_with(b"\n") {
                    break;
                }
                let snapshot: serde_json::Result<Snapshot> = serde_json::from_slice(line);
                each(&snapshot.with_context(|| sidecar.display().to_string())?);
                *at += line.len() as u64;
                intervals += 1;
            }
        }
        Ok(intervals)
    }
}

/// What stands in a file behind so many bytes.
fn rest(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}
