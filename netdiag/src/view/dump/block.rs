//! The bytes of an interval, in both files.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag},
};
use jiff::Timestamp;

use super::{Histograms, Sidecar};
use crate::{snapshot::Snapshot, view::json};

/// The metric whose node-wide histogram has no tag.
pub const UNTAGGED: &str = "send";

/// What the last line of a complete interval in a log begins with; its number follows.
pub const COMPLETE: &str = "#[Complete: ";

/// The last line of a log that was ended in order, or already recovered.
pub const CLOSED: &str = "#[Closed]\n";

/// The interval in time, and the start of its file.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The `StartTime` of the log.
    pub file: Timestamp,
    /// Start of the interval, not before `file`.
    pub start: Timestamp,
    /// End of the interval.
    pub end: Timestamp,
}

/// An interval, ready to be appended.
#[derive(Clone, Debug)]
pub struct Block {
    /// For the log.
    pub log: Bytes,
    /// For the sidecar.
    pub sidecar: Bytes,
}

impl Block {
    /// Bytes of both.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.log.len() + self.sidecar.len()) as u64
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The first lines of a log. The base is given as well, so that no reader has to guess that the
/// starts of intervals are relative.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn header(start: Timestamp) -> io::Result<Bytes> {
    let mut header = BytesMut::new().writer();
    let start = SystemTime::from(start);
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Values and maxima in nanoseconds]")
        .with_start_time(start)
        .with_base_time(start)
        .begin_log_with(&mut header, &mut V2DeflateSerializer::new())?;
    Ok(header.into_inner().freeze())
}

/// Turns intervals into bytes; keeps its buffers from one to the next.
#[derive(Default)]
pub struct Encoder {
    serializer: V2DeflateSerializer,
    log: BytesMut,
    sidecar: BytesMut,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// The bytes of an interval, which is the `number`th of its file (from 1). `gap` is the start
    /// and the number of intervals that were left out before it.
    ///
    /// # Errors
    /// A histogram or snapshot that cannot be serialised, or the error of `histograms`.
    pub fn encode(
        &mut self,
        snapshot: &Snapshot,
        histograms: &impl Histograms,
        span: Span,
        number: u64,
        gap: Option<(&str, u64)>,
    ) -> io::Result<Block> {
        let mut tags = BTreeMap::new();
        let start = elapsed(span.file, span.start);
        let length = elapsed(span.start, span.end);
        let mut log = (&mut self.log).writer();
        let mut writer =
            IntervalLogWriterBuilder::new().begin_log_with(&mut log, &mut self.serializer)?;
        if let Some((since, intervals)) = gap {
            writer.write_comment(&format!(
                "[Gap: {intervals} intervals from {since} could not be written]"
            ))?;
        }
        histograms.each(&mut |flow, metric, histogram| {
            let text = match flow {
                None if metric == UNTAGGED => None,
                None => Some(metric.to_owned()),
                Some(id) => {
                    // Ids of flows are never reused in a run and a file is of one run, and those of groups
                    // are of the same in all: so no tag is.
                    tags.insert(id.to_owned(), id.to_owned());
                    Some(format!("{id}.{metric}"))
                }
            };
            let tag = match text.as_deref() {
                None => None,
                Some(text) => Some(Tag::new(text).ok_or_else(|| {
                    invalid(format!("`{text}` cannot be the tag of a histogram"))
                })?),
            };
            writer.write_histogram(histogram, start, length, tag).map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => invalid(error.to_string()),
            })
        })?;
        writer.write_comment(&format!("{}{number}]", COMPLETE.trim_start_matches('#')))?;
        let mut sidecar = (&mut self.sidecar).writer();
        json::write(&Sidecar { snapshot, tags }, &mut sidecar)?;
        self.sidecar.put_u8(b'\n');
        Ok(Block { log: self.log.split().freeze(), sidecar: self.sidecar.split().freeze() })
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
