//! The full screen of `live`: a thread that draws, one that reads keys, and findings as they form. How it looks is
//! a view's ([`crate::view::screen`]).

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use netdiag_common::globals::Filters;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    layout::{Position, Rect},
};
use tokio::sync::Notify;

use self::{dumping::Dumping, keys::read_keys};
use super::{
    diagnose,
    full_screen::{self, FullScreen},
    output::{self, Pieces, Progress, STDOUT},
    terminal, voice,
};
use crate::{
    cli::Output,
    config::{self, Owners, Watch},
    diagnosis::{Diagnosis, Thresholds},
    flow::{Grouping, Interval},
    labels::Labels,
    node::pace::Pace,
    snapshot::{
        Snapshot,
        build::{Listing, Sort},
        redact::Redactor,
    },
    view::screen::{Beginning, Key, Request, Shot, State, draw},
};

mod dumping;
mod keys;

/// Between two looks of the rules: at most so often, and so rarely that they take a hundredth of a CPU.
const LOOK: Duration = Duration::from_millis(900);
/// What may wait for the thread that draws.
const QUEUE: usize = 2;
/// Flows that findings are concluded from one by one; what is more stands in `other`.
const TOP: usize = 256;

/// How a run is shown on a full screen.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Where dumps go.
    out: PathBuf,
    interval: Duration,
    by: Grouping,
    sort: Sort,
    /// Gives pseudonyms, where outputs have them.
    pub(super) redactor: Option<Redactor>,
    /// Notified when somebody wants to quit.
    pub(super) quit: Arc<Notify>,
}

/// Whether there can be a full screen and nobody wants another form.
pub(super) fn is_wanted(watch: &Watch, live: &config::Live) -> bool {
    watch.output == Output::Text && !live.plain && full_screen::is_there()
}

/// A full screen where there can be one and nobody wants another form.
pub(super) fn wanted(watch: &Watch, live: &config::Live) -> output::Wanted {
    if !is_wanted(watch, live) {
        return output::Wanted::Show;
    }
    let Watch { interval, by, sort, .. } = *watch;
    output::Wanted::Screen(Wanted {
        out: live.out.clone(),
        interval,
        by,
        sort,
        redactor: None,
        quit: Arc::default(),
    })
}

/// What a snapshot lists for a full screen, which has all flows beside it.
pub(super) fn listing(all: bool) -> Listing {
    Listing { top: Some(TOP), all, telling: true, apart: true, ..Listing::default() }
}

/// What the thread that draws is told.
enum Told {
    Key(Key),
    /// Something else wrote to the terminal.
    Redraw,
    Resized,
    Interval(Box<Shot>),
    Said(String),
    End,
}

/// The screen, for whoever has intervals for it.
pub(super) struct Showing {
    diagnosis: Diagnosis,
    rules: Pace,
    redactor: Option<Redactor>,
    told: SyncSender<Told>,
    drawing: Option<JoinHandle<Result<()>>>,
}

impl Showing {
    /// Takes the terminal and draws, before there is anything to be shown.
    pub(super) fn start(
        wanted: &Wanted,
        node: &str,
        filters: Filters,
        owners: Owners,
        progress: Progress,
    ) -> Result<Self> {
        let Wanted { interval, by, sort, .. } = *wanted;
        let state = State::new(Beginning {
            node: node.to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            interval,
            by,
            sort,
            colours: terminal::shows_colours(),
        });
        let to = File::from(io::stdout().as_fd().try_clone_to_owned().context(STDOUT)?);
        let full = FullScreen::enter().context(STDOUT)?;
        let (told, queue) = sync_channel(QUEUE);
        let (said, keys) = (told.clone(), told.clone());
        voice::divert(move |line| {
            // Where there is no room the line comes when the screen is gone.
            let _full = said.try_send(Told::Said(line.to_owned()));
        });
        let dump = Dumping::new(wanted.out.clone(), node.to_owned(), told.clone());
        let drawing = Drawing { state, quit: wanted.quit.clone(), dump };
        let run = move || drawing.run(&queue, Frames { to, progress, frame: Vec::new() }, full);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        let drawing = thread("screen").spawn(run);
        let drawing = Some(drawing.context("no thread to draw the screen; --plain does without")?);
        let quit = wanted.quit.clone();
        let reading = thread("keys").spawn(move || read_keys(&keys, &quit));
        reading.context("no thread to read keys; --plain does without")?;
        let diagnosis = diagnose::diagnosis(&Thresholds::new(), filters, owners);
        Ok(Self { diagnosis, rules: Pace::NEW, redactor: wanted.redactor.clone(), told, drawing })
    }

    /// An interval has passed: `snapshot` has its largest flows, `interval` all.
    pub(super) fn take(
        &mut self,
        snapshot: Snapshot,
        interval: Interval,
        labels: &Labels,
    ) -> Result<()> {
        self.diagnosis.take(&snapshot);
        let Self { diagnosis, rules, .. } = self;
        let findings = rules.is_due().then(|| rules.run(LOOK, || diagnosis.present()));
        let withheld = diagnosis.withheld();
        let (labels, redactor) = (labels.clone(), self.redactor.clone());
        let shot = Shot { snapshot, interval, labels, redactor, findings, withheld };
        if self.told.send(Told::Interval(Box::new(shot))).is_ok() {
            return Ok(());
        }
        // Quitting takes a moment to be heard.
        self.drawn()
    }

    /// No more comes: gives the terminal back.
    pub(super) fn end(mut self) -> Result<()> {
        let _gone = self.told.send(Told::End);
        self.drawn()
    }

    /// How the thread that draws ended.
    fn drawn(&mut self) -> Result<()> {
        let Some(drawing) = self.drawing.take() else { return Ok(()) };
        let ended = drawing.join();
        ended.map_err(|_| {
            anyhow!(
                "the thread that draws the screen broke down, so the run ends; report it with the lines above"
            )
        })?
    }
}

/// Whole frames to the terminal: what is cut off by a panic never gets there.
struct Frames {
    to: File,
    progress: Progress,
    frame: Vec<u8>,
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Self { to, progress, frame } = self;
        // A screen that is gone shows nothing any more; that it is noticed before the next frame.
        let written = match frame.is_empty() {
            true => Ok(true),
            false => full_screen::writing(|| Pieces { to, progress }.write_all(frame)),
        };
        frame.clear();
        written.map(drop)
    }
}

/// Ends the run when it is dropped: nobody would see what is observed. Not where the run ends by itself: to be asked
/// again is to give up what is not written yet.
struct Quits(Option<Arc<Notify>>);

impl Drop for Quits {
    fn drop(&mut self) {
        self.0.iter().for_each(|quit| quit.notify_one());
    }
}

/// Draws what there is.
struct Drawing {
    state: State,
    quit: Arc<Notify>,
    dump: Dumping,
}

impl Drawing {
    /// Until somebody wants to quit, or no more comes. However it ends, the terminal is given back.
    fn run(mut self, queue: &Receiver<Told>, frames: Frames, full: FullScreen) -> Result<()> {
        let mut quits = Quits(Some(self.quit.clone()));
        let _full = full;
        let mut terminal = Terminal::new(CrosstermBackend::new(frames)).context(STDOUT)?;
        self.show(&mut terminal)?;
        while let Ok(told) = queue.recv() {
            // What waits is one picture.
            for told in [told].into_iter().chain(queue.try_iter()) {
                if self.take(told, &mut terminal)? {
                    quits.0 = None;
                    return Ok(());
                }
            }
            if !full_screen::is_taken() {
                // Something else has broken down, and gave the terminal back to say so.
                return Ok(());
            }
            self.show(&mut terminal)?;
        }
        quits.0 = None;
        Ok(())
    }

    /// Whether that was the end.
    fn take(
        &mut self,
        told: Told,
        terminal: &mut Terminal<CrosstermBackend<Frames>>,
    ) -> Result<bool> {
        let key = match told {
            Told::End => return Ok(true),
            Told::Resized => return Ok(false),
            Told::Redraw => {
                // Not `clear`, which asks the terminal where its cursor is, and another thread gets the answer.
                let size = terminal.size().context(STDOUT)?;
                terminal.resize(Rect::from((Position::ORIGIN, size))).context(STDOUT)?;
                return Ok(false);
            }
            Told::Interval(shot) => {
                self.state.take(*shot);
                return Ok(false);
            }
            Told::Said(line) => {
                self.state.say(line);
                return Ok(false);
            }
            Told::Key(key) => key,
        };
        match self.state.press(key, terminal.size().context(STDOUT)?) {
            Some(Request::Quit) => {
                self.quit.notify_one();
                return Ok(true);
            }
            Some(Request::Dump) => {
                if let Some(line) = self.state.shown().map(|shot| self.dump.dump(shot)) {
                    self.state.say(line);
                }
            }
            None => {}
        }
        Ok(false)
    }

    fn show(&self, terminal: &mut Terminal<CrosstermBackend<Frames>>) -> Result<()> {
        let shown = terminal.draw(|frame| {
            let area = frame.area();
            *frame.buffer_mut() = draw(&self.state, area.as_size());
        });
        shown.context(STDOUT)?;
        Ok(())
    }
}
