//! The thread that writes the lines of `events`: names what they say, and waits for whoever reads them.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::mpsc::{self, Receiver, Sender, SyncSender},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    capture::Capture,
    limit::ByKind,
    output::{BROKE_DOWN, Pieces, Progress, STDOUT},
    reporter::{About, Cut},
    teller::{Line, Rest},
    voice::say,
};
use crate::{
    cli::Output,
    flow::Grouping,
    kernel::symbols,
    snapshot::{
        Node, SignalStatus,
        build::{Scope, rfc3339},
        told::{End, Event, Names, SCHEMA, Suppressed, kinds, of_listener},
    },
    view::{self, events::Lines, table::COLUMNS},
};

/// Lines that may wait to be written; what comes beyond is left out.
pub(super) const QUEUE: usize = 8_192;
/// Lines that are named and written at a time.
const BATCH: usize = 256;

/// The end of the stream: what is left, and the sums.
pub(super) struct Last {
    pub(super) rest: Rest,
    pub(super) cut: Cut,
}

/// The writer on its thread.
pub(super) struct Writing {
    thread: JoinHandle<Result<bool>>,
    last: Sender<Last>,
    progress: Progress,
}

impl Writing {
    /// Begins to write what is sent to the returned end of its queue, and its packets where there is a capture.
    pub(super) fn start(
        about: About,
        signals: Vec<SignalStatus>,
        form: Output,
        capture: Option<Capture>,
    ) -> (Self, SyncSender<Line>) {
        let (lines, queue) = mpsc::sync_channel(QUEUE);
        let (last, end) = mpsc::channel();
        let progress = Progress::default();
        let writer = Writer {
            about,
            signals,
            form,
            text: Lines::new(COLUMNS),
            places: BTreeMap::new(),
            has_lines: capture.as_ref().is_none_or(|capture| !capture.takes_stdout()),
            capture,
            progress: progress.clone(),
        };
        (Self { thread: spawn_blocking(move || writer.run(&queue, &end)), last, progress }, lines)
    }

    /// How far it has come.
    pub(super) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Waits until it ends, which it does before it is told only because it cannot write.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) async fn ended(&mut self) -> Result<bool> {
        (&mut self.thread).await.context(BROKE_DOWN)?
    }

    /// Writes the end; the queue's other end must be gone. Returns whether nothing was lost or missed.
    ///
    /// # Errors
    /// It cannot write.
    pub(super) async fn end(mut self, last: Last) -> Result<bool> {
        // A writer that is gone says why below.
        let _gone = self.last.send(last);
        self.ended().await
    }
}

/// Writes what it is given. Blocks.
struct Writer {
    about: About,
    /// How each signal was observed when the run began.
    signals: Vec<SignalStatus>,
    form: Output,
    text: Lines,
    /// Functions by addresses that were met.
    places: BTreeMap<u64, Option<String>>,
    /// Standard output is for lines.
    has_lines: bool,
    capture: Option<Capture>,
    progress: Progress,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Line>, end: &Receiver<Last>) -> Result<bool> {
        // Whoever follows it knows from the beginning what it is.
        self.write_packets()?;
        while let Ok(first) = queue.recv() {
            let mut lines = vec![first];
            lines.extend(queue.try_iter().take(BATCH));
            self.learn_places(&lines);
            self.learn_names(&lines);
            let mut bytes = Vec::new();
            for line in lines {
                self.line(&line, &mut bytes)?;
            }
            self.write(&bytes)?;
            self.write_packets()?;
        }
        // Nothing comes when the run failed.
        let Ok(last) = end.recv() else { return Ok(false) };
        let limited = of_packets(&last.rest.suppressed_in_all);
        let mut bytes = Vec::new();
        let complete = self.end(last, &mut bytes).context("the end could not be made")?;
        self.write(&bytes)?;
        self.capture.iter().for_each(|capture| say(&capture.end(complete, limited)));
        Ok(complete)
    }

    fn write_packets(&mut self) -> Result<()> {
        self.capture.as_mut().map_or(Ok(()), |capture| capture.write(&self.progress))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        if !self.has_lines {
            return Ok(());
        }
        let mut out = Pieces { to: std::io::stdout().lock(), progress: &self.progress };
        out.write_all(bytes).and_then(|()| out.flush()).context(STDOUT)
    }

    /// Asks for the names of places in the kernel's code that were not met before.
    fn learn_places(&mut self, lines: &[Line]) {
        let tellings = lines.iter().filter_map(|line| match line {
            Line::Event(telling) => Some(telling),
            Line::Listener(..) | Line::Suppressed(..) => None,
        });
        let mut unknown: Vec<u64> = tellings
            .flat_map(|telling| telling.places())
            .filter(|address| !self.places.contains_key(address))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            self.places.extend(symbols::located(&unknown));
            self.progress.step();
        }
    }

    /// Looks for the names of pods that were not met before.
    fn learn_names(&mut self, lines: &[Line]) {
        let listeners: Vec<_> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Listener(_, listener) => Some(listener.owner.place()),
                Line::Event(_) | Line::Suppressed(..) => None,
            })
            .collect();
        let places = lines.iter().filter_map(|line| match line {
            Line::Event(telling) => telling.flow.place.as_deref(),
            Line::Listener(..) | Line::Suppressed(..) => None,
        });
        self.about.learn_names(places.chain(&listeners));
    }

    fn line(&mut self, line: &Line, out: &mut Vec<u8>) -> Result<()> {
        const UNMADE: &str = "a line could not be made";
        match line {
            Line::Event(telling) => {
                let names = Names {
                    labels: &self.about.labels,
                    places: &self.places,
                    signals: &self.signals,
                };
                let event = names.event(telling);
                if let Some(capture) = &mut self.capture {
                    capture.add(telling, &event)?;
                }
                self.event(event, out).context(UNMADE)
            }
            Line::Listener(time, listener) => {
                let mut event = of_listener(*time, listener);
                event.flow.owner.name(&self.about.labels);
                self.event(event, out).context(UNMADE)
            }
            Line::Suppressed(time, by_kind) => {
                let suppressed = Suppressed::new(*time, by_kind.clone());
                self.suppressed(&suppressed, out).context(UNMADE)
            }
        }
    }

    fn event(&mut self, mut event: Event, out: &mut Vec<u8>) -> std::io::Result<()> {
        if let Some(redactor) = &self.about.redactor {
            redactor.event(&mut event);
        }
        match self.form {
            Output::Text => self.text.event(&event, out),
            Output::Json => view::json::line(&event, out),
        }
    }

    fn suppressed(&self, suppressed: &Suppressed, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self.form {
            Output::Text => self.text.suppressed(suppressed, out),
            Output::Json => view::json::line(suppressed, out),
        }
    }

    fn end(&self, last: Last, out: &mut Vec<u8>) -> std::io::Result<bool> {
        let Last { rest, cut } = last;
        let now = SystemTime::now();
        if !rest.suppressed.is_empty() {
            self.suppressed(&Suppressed::new(now, rest.suppressed), out)?;
        }
        let total = self.about.snapshot(Scope::Total, Grouping::Flow, Node::default(), &cut);
        let end = End {
            schema: SCHEMA,
            kind: "end",
            time: rfc3339(cut.end),
            told: rest.told,
            suppressed: rest.suppressed_in_all,
            stacks_not_taken: rest.stacks_not_taken,
            signals: total.signals.clone(),
            own: total.own.clone(),
            accounting: total.accounting.clone(),
            stream: total.stream,
            complete: total.complete,
        };
        match self.form {
            Output::Text => self.text.end(&end, &total, out)?,
            Output::Json => view::json::line(&end, out)?,
        }
        Ok(end.complete)
    }
}

/// How many of these events are of packets.
fn of_packets(events: &ByKind) -> u64 {
    let with_packet = kinds().filter(|kind| kind.has_packet);
    with_packet.filter_map(|kind| events.get(kind.name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_packets_counts_among_them() {
        let all: ByKind = kinds().map(|kind| (kind.name, 1)).collect();
        let with_packet = kinds().filter(|kind| kind.has_packet).count();
        assert!(0 < with_packet && with_packet < all.len());
        assert_eq!(of_packets(&all), with_packet as u64);
        assert_eq!(of_packets(&ByKind::from([("drop", 40), ("close", 2)])), 40);
        assert_eq!(of_packets(&ByKind::new()), 0);
    }
}
