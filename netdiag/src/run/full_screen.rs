//! The terminal while it is a full screen, and how it comes back: however the run ends, by a panic or by a signal,
//! whoever sits there has it as it was.

use std::{
    io::{self, IsTerminal as _, Write as _},
    panic,
    sync::{
        Mutex, Once, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::{
    cursor::{Hide, Show},
    execute, queue,
    style::ResetColor,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

/// Whether it is a full screen now.
static IS_SCREEN: AtomicBool = AtomicBool::new(false);
/// Held while something is written to it.
static WRITING: Mutex<()> = Mutex::new(());
/// How long somebody who writes is waited for, and then the terminal itself.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether a full screen can be had: somebody sits there, on a terminal that can be drawn on.
#[must_use]
pub fn is_there() -> bool {
    let knows = |name: &str| !["", "dumb"].contains(&name);
    io::stdout().is_terminal()
        && io::stdin().is_terminal()
        && std::env::var("TERM").is_ok_and(|name| knows(&name))
}

/// The full screen. The terminal comes back when this is dropped, if not before.
#[derive(Debug)]
#[must_use]
pub struct FullScreen(());

impl FullScreen {
    /// Takes the terminal: no echo, keys one by one, a screen of its own. There is one at a time.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                // What is said of it is to be read.
                leave();
                before(what);
            }));
        });
        enable_raw_mode()?;
        IS_SCREEN.store(true, Ordering::SeqCst);
        let this = Self(());
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(this)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        leave();
    }
}

/// Writes to the full screen, if it is one still.
///
/// # Errors
/// Those of `work`.
pub fn writing(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if IS_SCREEN.load(Ordering::SeqCst) { work() } else { Ok(()) }
}

/// Whether there is a full screen now, which nobody else is to write to.
pub(super) fn is_taken() -> bool {
    IS_SCREEN.load(Ordering::SeqCst)
}

/// Gives the terminal back, once. Waits for nobody for long: it may stand still.
pub fn leave() {
    if !IS_SCREEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // First what cannot stand still. What goes wrong here can be told to nobody.
    let _raw = disable_raw_mode();
    let until = Instant::now() + PATIENCE;
    let _alone = loop {
        match WRITING.try_lock() {
            Ok(alone) => break Some(alone),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            // The one who writes may be the one who panicked.
            Err(TryLockError::WouldBlock) if Instant::now() >= until => break None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut bytes = Vec::new();
    let _memory = queue!(bytes, ResetColor, LeaveAlternateScreen, Show);
    // Past the buffer of standard output, in which half a screen may lie.
    if has_room() {
        let _gone = rustix::io::write(io::stdout(), &bytes);
    }
    let _gone = io::stdout().flush();
}

/// Waits a little until the terminal takes something.
fn has_room() -> bool {
    let stdout = io::stdout();
    let mut looked = [PollFd::new(&stdout, PollFlags::OUT)];
    let nanoseconds = i64::from(PATIENCE.subsec_nanos());
    let wait = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
    poll(&mut looked, Some(&wait)).is_ok_and(|ready| ready > 0)
}
