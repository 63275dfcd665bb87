//! The terminal while it is a full screen, and how it comes back: however the run ends, by a panic or by a signal,
//! whoever sits there has it as it was.

use std::{
    io::{self, IsTerminal as _, Write as _},
    panic,
    sync::{
        Mutex, MutexGuard, Once, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::{
    cursor::{Hide, Show},
    execute, queue,
    style::ResetColor,
    terminal::{
        EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
    },
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::getpgrp,
    termios::tcgetpgrp,
    time::Timespec,
};

/// Whether it is a full screen now.
static IS_SCREEN: AtomicBool = AtomicBool::new(false);
/// Whether there is to be none any more.
static IS_OVER: AtomicBool = AtomicBool::new(false);
/// Held while it becomes one.
static ENTERING: Mutex<()> = Mutex::new(());
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
        // In the background it would be stopped.
        && tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
        // A serial line may not know its size.
        && size().is_ok_and(|(columns, lines)| columns > 0 && lines > 0)
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
        let _entering = ENTERING.lock().unwrap_or_else(PoisonError::into_inner);
        if IS_OVER.load(Ordering::SeqCst) {
            return Err(io::Error::other("the run ends"));
        }
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

/// Writes to the full screen, if it is one still; whether it was.
///
/// # Errors
/// Those of `work`.
pub fn writing(work: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_screen = IS_SCREEN.load(Ordering::SeqCst);
    if is_screen { work().map(|()| true) } else { Ok(false) }
}

/// Gives the terminal back for good: from now on there is no full screen any more.
pub fn end() {
    IS_OVER.store(true, Ordering::SeqCst);
    // Whoever enters just now is waited for, but not a terminal that stands still.
    let _entering = locked(&ENTERING);
    leave();
}

/// The lock, unless somebody holds it for long.
fn locked(lock: &Mutex<()>) -> Option<MutexGuard<'_, ()>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(alone) => return Some(alone),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Whether there is a full screen now, which nobody else is to write to.
#[must_use]
pub fn is_taken() -> bool {
    IS_SCREEN.load(Ordering::SeqCst)
}

/// Gives the terminal back, once. Waits for nobody for long: it may stand still.
pub fn leave() {
    if !IS_SCREEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // First what cannot stand still. What goes wrong here can be told to nobody.
    let _raw = disable_raw_mode();
    // The one who writes may be the one who panicked.
    let _alone = locked(&WRITING);
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
