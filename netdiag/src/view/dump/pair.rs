//! A log and its sidecar while they are written.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::{
    block::{self, Block, CLOSED},
    directory::Directory,
    name::Name,
};

/// Pairs of one second that are told apart: no run rotates as often, but many runs may share a directory.
const NAMES: usize = 10_000;

/// Two files that grow together. The log is locked as long as they do.
#[derive(Debug)]
pub(super) struct Pair {
    name: Name,
    path: PathBuf,
    start: Timestamp,
    log: File,
    sidecar: File,
    log_bytes: u64,
    sidecar_bytes: u64,
    intervals: u64,
    last_interval_bytes: u64,
}

impl Pair {
    /// Creates both files, named after `start`, and writes the header of the log.
    pub(super) fn create(directory: &Directory, start: Timestamp) -> io::Result<Self> {
        let mut name = directory.name(start);
        for _ in 1..NAMES {
            match Self::create_named(directory, &name, start) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name = name.next(),
                done => return done,
            }
        }
        Self::create_named(directory, &name, start)
    }

    fn create_named(directory: &Directory, name: &Name, start: Timestamp) -> io::Result<Self> {
        let log = directory.create(&format!("{name}.hlog"))?;
        // Waits at most for a recovery that found the empty file. A file system without locks
        // gives nobody a lock, so nobody cuts the file either.
        let _ = flock(&log, FlockOperation::LockExclusive);
        let opened = directory.create(&format!("{name}.jsonl")).and_then(|sidecar| {
            let path = directory.path().join(format!("{name}.hlog"));
            let mut pair = Self {
                name: name.clone(),
                path,
                start,
                log,
                sidecar,
                log_bytes: 0,
                sidecar_bytes: 0,
                intervals: 0,
                last_interval_bytes: 0,
            };
            // Best effort, here and below: what is left has no interval in it.
            pair.write_header()
                .inspect_err(|_| drop(directory.remove(&format!("{name}.jsonl"))))?;
            Ok(pair)
        });
        if opened.is_err() {
            drop(directory.remove(&format!("{name}.hlog")));
        }
        let pair = opened?;
        match directory.sync() {
            Ok(()) => Ok(pair),
            Err(error) => {
                pair.remove(directory);
                Err(error)
            }
        }
    }

    /// Removes both files, as far as that can be done: for one that has no interval.
    pub(super) fn remove(self, directory: &Directory) {
        for extension in ["hlog", "jsonl"] {
            drop(directory.remove(&format!("{}.{extension}", self.name)));
        }
    }

    fn write_header(&mut self) -> io::Result<()> {
        let header = block::header(self.start)?;
        self.log.write_all(&header)?;
        self.log_bytes = header.len() as u64;
        Ok(())
    }

    /// Appends an interval to both files, on disk before it returns; see the module above for the
    /// order. After an error the files are as they were before.
    pub(super) fn append(&mut self, block: &Block) -> io::Result<()> {
        self.try_append(block).inspect_err(|_| {
            // best effort: what is left torn here is cut at the next start
            drop(self.log.set_len(self.log_bytes));
            drop(self.sidecar.set_len(self.sidecar_bytes));
        })?;
        self.log_bytes += block.log.len() as u64;
        self.sidecar_bytes += block.sidecar.len() as u64;
        self.last_interval_bytes = block.len();
        self.intervals += 1;
        Ok(())
    }

    fn try_append(&mut self, block: &Block) -> io::Result<()> {
        self.log.write_all(&block.log)?;
        self.log.sync_data()?;
        self.sidecar.write_all(&block.sidecar)?;
        self.sidecar.sync_data()
    }

    /// Ends the files: they need no recovery.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.log.write_all(CLOSED.as_bytes()).inspect_err(|_| {
            drop(self.log.set_len(self.log_bytes));
        })
    }

    /// Whether somebody removed the files under us, so that nobody would ever read them.
    pub(super) fn is_unlinked(&self) -> bool {
        [&self.log, &self.sidecar]
            .iter()
            .any(|file| rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink == 0))
    }

    pub(super) const fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn start(&self) -> Timestamp {
        self.start
    }

    pub(super) const fn intervals(&self) -> u64 {
        self.intervals
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.log_bytes + self.sidecar_bytes
    }

    pub(super) const fn last_interval_bytes(&self) -> u64 {
        self.last_interval_bytes
    }
}
