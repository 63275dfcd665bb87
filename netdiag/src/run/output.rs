//! Where snapshots go: the screen or a stream, and for `record` the files as well.

use std::io;

use anyhow::{Context as _, Result};
use tokio::{
    sync::mpsc::{Sender, channel},
    task::JoinHandle,
};

use super::say;
use crate::{
    cli::Output,
    config, exit,
    flow::Interval,
    snapshot::Snapshot,
    view::{self, dump::Recorder, table::COLUMNS},
};

/// Intervals that may wait for a slow disk before the loop waits, too.
const QUEUE: usize = 8;

/// Everything that leaves the process.
pub(super) struct Outputs {
    form: Output,
    files: Option<Files>,
}

/// The writer of the files, on a thread of its own: it waits for the disk.
struct Files {
    queue: Sender<(Snapshot, Interval)>,
    writer: JoinHandle<Result<()>>,
}

impl Outputs {
    /// Opens the files, if there shall be any.
    pub(super) fn open(
        form: Output,
        dump: Option<&config::Dump>,
        node: &str,
    ) -> Result<Self, exit::Error> {
        let Some(dump) = dump else { return Ok(Self { form, files: None }) };
        let (mut recorder, said) = Recorder::open(dump, node)?;
        for line in said {
            say(&line);
        }
        let (queue, mut intervals) = channel::<(Snapshot, Interval)>(QUEUE);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some((snapshot, interval)) = intervals.blocking_recv() {
                if let Some(line) = recorder.write(&snapshot, &interval)? {
                    say(&line);
                }
            }
            recorder.close().context("the files could not be closed")
        });
        Ok(Self { form, files: Some(Files { queue, writer }) })
    }

    /// Puts out one interval.
    pub(super) async fn interval(&mut self, snapshot: Snapshot, interval: Interval) -> Result<()> {
        // `record` fills files; on a terminal nobody wants a table beside them.
        if self.files.is_none() || self.form == Output::Json {
            show(self.form, &snapshot)?;
        }
        if let Some(files) = &mut self.files
            && files.queue.send((snapshot, interval)).await.is_err()
        {
            return self.close().await; // the writer ended, and says why
        }
        Ok(())
    }

    /// Puts out the whole run and waits for the disk.
    pub(super) async fn total(mut self, snapshot: &Snapshot) -> Result<()> {
        let closed = self.close().await;
        show(self.form, snapshot)?;
        if self.form == Output::Text {
            view::table::accounting(snapshot, COLUMNS, &mut io::stdout().lock())?;
        }
        closed
    }

    async fn close(&mut self) -> Result<()> {
        let Some(files) = self.files.take() else { return Ok(()) };
        drop(files.queue);
        files.writer.await.context("the thread that writes the files ended")?
    }
}

fn show(form: Output, snapshot: &Snapshot) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match form {
        Output::Text => view::table::table(snapshot, COLUMNS, &mut out),
        Output::Json => view::json::line(snapshot, &mut out),
    }
}
