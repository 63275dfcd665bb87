//! Where the packets of `events --pcap` go: a file of its own, or standard output.
//!
//! Runs on the thread of the writer. What finds no room on the disk is left out and counted; the section and its
//! interfaces, without which nothing behind them can be read, are written as soon as there is room again.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::{Context as _, Result};
use rustix::system::uname;

use self::target::Target;
use super::{
    output::{Pieces, Progress, STDOUT},
    voice::say,
};
use crate::{
    config::CaptureTo,
    exit, format,
    snapshot::told::{Event, Telling},
    view::{
        dump::is_full,
        pcap::{Blocks, Origin, Pcap},
    },
};

mod target;

/// Writes packets.
#[derive(Debug)]
pub(super) struct Capture {
    to: To,
    pcap: Pcap,
    /// Of the section and its interfaces what is not written yet.
    owed: Vec<u8>,
    sums: Sums,
}

/// How many events had packets, and what became of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Packets added since they were last written.
    waiting: u64,
    written: u64,
    /// Events of packets of which not even the conversation is known.
    unknown: u64,
}

#[derive(Debug)]
enum To {
    Stdout,
    File(Target),
}

impl Capture {
    /// Creates the file and writes its beginning.
    ///
    /// # Errors
    /// [`exit::Status::Usage`] where it cannot be created, as where it is there already.
    pub(super) fn open(to: &CaptureTo, host: &str) -> Result<Self, exit::Error> {
        let to = match to {
            CaptureTo::Stdout if io::stdout().is_terminal() => {
                return Err(exit::Error::usage(
                    "--pcap -: standard output is a terminal, which packets would garble; nothing was started, pipe \
                     it to a reader (`| tshark -r -`) or name a file",
                ));
            }
            CaptureTo::Stdout => To::Stdout,
            CaptureTo::File(path) => To::File(Target::create(path).map_err(|error| {
                exit::Error::usage(format!(
                    "--pcap {}: {error}; nothing was started, name a file that is not there yet in a directory that \
                     this user may write to",
                    path.display()
                ))
            })?),
        };
        let system = uname();
        let (machine, kernel) =
            (system.machine().to_string_lossy(), system.release().to_string_lossy());
        let pcap = Pcap::begin(&Origin { host, machine: &machine, kernel: &kernel });
        let pcap = pcap.map_err(|error| {
            exit::Error::new(exit::Status::Failed, format!("--pcap: {error}; nothing was started"))
        })?;
        Ok(Self { to, pcap, owed: Vec::new(), sums: Sums::default() })
    }

    /// Whether it takes standard output for itself.
    pub(super) const fn takes_stdout(&self) -> bool {
        matches!(self.to, To::Stdout)
    }

    /// Adds the packet of an event, if it is of one.
    ///
    /// # Errors
    /// As for [`Pcap::add`].
    pub(super) fn add(&mut self, telling: &Telling, event: &Event) -> Result<()> {
        if !telling.told.kind.has_packet {
            return Ok(());
        }
        let Some(packet) = &telling.told.packet else {
            self.sums.unknown += 1;
            return Ok(());
        };
        self.pcap.add(telling.time, packet, event).context("a packet could not be made")?;
        self.sums.waiting += 1;
        Ok(())
    }

    /// Writes what was added; on disk it is as soon as the kernel likes.
    ///
    /// # Errors
    /// Input and output other than a full disk.
    pub(super) fn write(&mut self, progress: &Progress) -> Result<()> {
        let Blocks { frame, packets } = self.pcap.take();
        self.owed.extend(frame);
        let Sums { waiting, .. } = self.sums;
        self.sums.waiting = 0;
        match &mut self.to {
            To::Stdout => {
                let mut out = Pieces { to: io::stdout().lock(), progress };
                out.write_all(&self.owed)
                    .and_then(|()| out.write_all(&packets))
                    .and_then(|()| out.flush())
                    .context(STDOUT)?;
            }
            To::File(target) => {
                let line = match target.append(&[&self.owed[..], &packets].concat()) {
                    Ok(()) => target.resumed(),
                    Err(error) if is_full(&error) => {
                        let line = target.paused(&error, waiting);
                        line.iter().for_each(|line| say(line));
                        return Ok(());
                    }
                    Err(error) => {
                        let (path, written) = (target.path(), self.sums.written);
                        return Err(error).with_context(|| {
                            format!("--pcap {path}: it holds {written} packets, and the run ends")
                        });
                    }
                };
                line.iter().for_each(|line| say(line));
                progress.step();
            }
        }
        self.owed.clear();
        self.sums.written += waiting;
        Ok(())
    }

    /// Nothing comes of the run: what is empty is removed.
    pub(super) fn discard(&self) {
        if let To::File(target) = &self.to {
            target.discard();
        }
    }

    /// What there is to be said at the end, in one line; `complete` when nothing was lost or missed, which lines
    /// tell where there are any, as they do of events of packets that were not told (`limited`).
    pub(super) fn end(&self, complete: bool, limited: u64) -> String {
        let (name, left_out) = match &self.to {
            To::Stdout => ("-".to_owned(), 0),
            To::File(target) => (target.path(), target.left_out()),
        };
        let Sums { written, unknown, .. } = self.sums;
        let mut line = format!("--pcap {name}: {} packets", format::count(written));
        for (number, why) in [
            (limited, "events more were left out by --limit, or since their reader was slow"),
            (left_out, "were left out for want of room"),
            (unknown, "more have no known conversation, and no headers"),
        ] {
            if number > 0 {
                let _memory = write!(line, "; {} {why}", format::count(number));
            }
        }
        if self.takes_stdout() {
            line.push_str(if complete { "; complete: yes" } else { "; complete: no" });
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_has_no_packet() {
        let origin = Origin { host: "node-1", machine: "x86_64", kernel: "6.12.0" };
        let pcap = Pcap::begin(&origin).expect("a section");
        let sums = Sums { waiting: 0, written: 3, unknown: 2 };
        let capture = Capture { to: To::Stdout, pcap, owed: Vec::new(), sums };
        assert_eq!(
            capture.end(true, 40),
            "--pcap -: 3 packets; 40 events more were left out by --limit, or since their reader was slow; \
             2 more have no known conversation, and no headers; complete: yes"
        );
        let all = Capture { sums: Sums { written: 3, ..Sums::default() }, ..capture };
        assert_eq!(all.end(false, 0), "--pcap -: 3 packets; complete: no");
    }
}
