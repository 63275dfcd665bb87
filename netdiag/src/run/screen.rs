//! The full screen of `live`: a thread that draws, one that reads keys, and findings as they form. How it looks is
//! a view's ([`crate::view::screen`]).

use std::{
    env,
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use netdiag_common::globals::Filters;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Position, Rect},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use tokio::sync::Notify;

use super::{
    diagnose,
    full_screen::{self, FullScreen},
    keep::keep,
    output::{self, Pieces, Progress, STDOUT},
    voice,
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

/// Between two looks of the rules: at most so often, and so rarely that they take a hundredth of a CPU.
const LOOK: Duration = Duration::from_millis(900);
/// Between two looks whether there is a screen still.
const WAIT: Duration = Duration::from_millis(200);
/// How long a key waits for a screen that stands still.
const LOST: Duration = Duration::from_secs(2);
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
            colours: env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
        });
        let to = File::from(io::stdout().as_fd().try_clone_to_owned().context(STDOUT)?);
        let full = FullScreen::enter().context(STDOUT)?;
        let (told, queue) = sync_channel(QUEUE);
        let (said, keys) = (told.clone(), told.clone());
        voice::divert(move |line| {
            // Where there is no room the line comes when the screen is gone.
            let _full = said.try_send(Told::Said(line.to_owned()));
        });
        let dump = Dumping {
            out: wanted.out.clone(),
            node: node.to_owned(),
            told: told.clone(),
            is_busy: Arc::default(),
        };
        let drawing = Drawing { state, quit: wanted.quit.clone(), dump };
        let run = move || drawing.run(&queue, Frames { to, progress, frame: Vec::new() }, full);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        let drawing = Some(thread("screen").spawn(run)?);
        let quit = wanted.quit.clone();
        thread("keys").spawn(move || read_keys(&keys, &quit))?;
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
        let shot = Shot {
            snapshot,
            interval,
            labels: labels.clone(),
            redactor: self.redactor.clone(),
            findings,
        };
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

/// Reads keys for as long as there is a full screen: what is typed afterwards is the shell's. A terminal that has
/// hung up ends the run.
fn read_keys(told: &SyncSender<Told>, quit: &Notify) {
    while full_screen::is_taken() {
        if has_hung_up(Duration::ZERO) {
            quit.notify_one();
            return;
        }
        // Keys that came together were read together: they wait here, not in the terminal.
        if !event::poll(Duration::ZERO).unwrap_or(false) {
            let _looked_at_above = has_hung_up(WAIT);
            continue;
        }
        if !full_screen::is_taken() {
            return;
        }
        let Ok(event) = event::read() else { return };
        // Two keys that came together are one with Alt to crossterm; on a slow line Escape and the next do.
        if let Event::Key(pressed) = &event
            && pressed.modifiers.contains(KeyModifiers::ALT)
            && matches!(pressed.code, KeyCode::Char(_))
        {
            let _taken = tell(told, Told::Key(Key::Escape));
        }
        let telling = match event {
            Event::Key(pressed) if pressed.kind != KeyEventKind::Release => meaning(pressed),
            Event::Resize(..) => Some(Told::Resized),
            Event::Key(_)
            | Event::Mouse(_)
            | Event::Paste(_)
            | Event::FocusGained
            | Event::FocusLost => None,
        };
        if matches!(telling, Some(Told::Key(Key::Interrupt))) {
            // Also where the terminal stands still, and whoever draws on it. A second time it is another one.
            quit.notify_one();
            continue;
        }
        if let Some(telling) = telling
            && !tell(told, telling)
        {
            return;
        }
    }
}

/// Hands a key on. Where what was pressed before waits for as long as nobody presses anything, it is lost, so that
/// ^C is read. Whether anybody takes keys still.
fn tell(told: &SyncSender<Told>, mut telling: Told) -> bool {
    let until = Instant::now() + LOST;
    loop {
        match told.try_send(telling) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(_)) if Instant::now() >= until => return true,
            Err(TrySendError::Full(same)) => telling = same,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits so long for something to read. Whether nothing will come any more.
fn has_hung_up(wait: Duration) -> bool {
    let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
    let stdin = io::stdin();
    let mut looked = [PollFd::new(&stdin, PollFlags::IN)];
    let ready = poll(&mut looked, Some(&wait)).unwrap_or(0);
    ready > 0 && looked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn meaning(pressed: KeyEvent) -> Option<Told> {
    let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    let key = match pressed.code {
        KeyCode::Char('c' | 'C') if is_control => Key::Interrupt,
        KeyCode::Char('l' | 'L') if is_control => return Some(Told::Redraw),
        KeyCode::Char(_) if is_control => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        _ => return None,
    };
    Some(Told::Key(key))
}

/// Where dumps go.
struct Dumping {
    out: PathBuf,
    node: String,
    told: SyncSender<Told>,
    /// One is being written.
    is_busy: Arc<AtomicBool>,
}

impl Dumping {
    /// Writes an interval beside the screen, since a disk may take its time; says so far what becomes of it.
    fn dump(&self, shot: &Shot) -> String {
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return "not written: the one before is still being written".to_owned();
        }
        let is_busy = self.is_busy.clone();
        let (out, node, told) = (self.out.clone(), self.node.clone(), self.told.clone());
        let (snapshot, interval) = (shot.snapshot.clone(), shot.interval.clone());
        let (labels, redactor) = (shot.labels.clone(), shot.redactor.clone());
        let work = move || {
            let line = keep(&out, &node, snapshot, interval, &labels, redactor.as_ref())
                .unwrap_or_else(|error| format!("not written: {error:#}"));
            is_busy.store(false, Ordering::SeqCst);
            // A screen that is gone tells nobody.
            let _ended = told.send(Told::Said(line));
        };
        match thread::Builder::new().name("dump".to_owned()).spawn(work) {
            Ok(_) => "writing…".to_owned(),
            Err(error) => {
                self.is_busy.store(false, Ordering::SeqCst);
                format!("not written: {error}")
            }
        }
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
