//! What is said to a terminal only: colours, and how far something has come that takes its time.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;

use super::full_screen;
use crate::{
    format::{self, cut, sanitised},
    sandbox,
    view::table::COLUMNS,
};

/// What is done by then nobody waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at how far it has come.
const EVERY: Duration = Duration::from_millis(200);
/// How long a terminal that stands still is waited for.
const STILL: Duration = Duration::from_millis(100);
/// Columns of what is read, so that how far that has come has room in 80.
const WHAT: usize = 32;

/// Whether standard output shows colours, and nobody has asked for none (<https://no-color.org>).
pub(super) fn shows_colours() -> bool {
    let [no_color, term] = ["NO_COLOR", "TERM"].map(env::var_os);
    wants_colours(io::stdout().is_terminal(), no_color.as_deref(), term.as_deref())
}

fn wants_colours(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && takes_escapes(is_terminal, term)
}

/// Whether escapes are more than characters there: on a terminal that says what it is, and not that it is dumb.
fn takes_escapes(is_terminal: bool, term: Option<&OsStr>) -> bool {
    is_terminal && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// A line on standard error, where that is a terminal that can write over it, while something takes longer than a
/// second. It is gone when this is dropped; nothing else is to be said before.
#[derive(Debug)]
pub(super) struct Waiting(Option<(Sender<()>, Receiver<()>)>);

impl Waiting {
    /// `tells` in one line what goes on, by how long it has.
    pub(super) fn begin(tells: impl Fn(Duration) -> String + Send + 'static) -> Self {
        let term = env::var_os("TERM");
        if !takes_escapes(io::stderr().is_terminal(), term.as_deref()) || full_screen::is_taken() {
            return Self(None);
        }
        let (end, ended) = channel();
        let (gone, is_gone) = channel();
        let run = move || {
            sandbox::on_thread();
            let _gone: Sender<()> = gone;
            let (began, mut patience) = (Instant::now(), PATIENCE);
            while ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                patience = EVERY;
                show(&over(&tells(began.elapsed()), columns()));
            }
            if patience == EVERY {
                show("\r\u{1b}[K");
            }
        };
        // Without a thread nothing is told.
        let thread = thread::Builder::new().name("waiting".to_owned()).spawn(run);
        Self(thread.ok().map(|_| (end, is_gone)))
    }
}

/// A line that is written over the one before. One that went on in the next line would stay there, and come again.
fn over(line: &str, columns: usize) -> String {
    // Some terminals go on as soon as the last column is written.
    let room = columns.saturating_sub(1);
    format!("\r{}\u{1b}[K", cut(&format!("netdiag: {}", sanitised(line)), room))
}

/// Columns of standard error as it is now: who sits there may make it narrower.
fn columns() -> usize {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        // A serial line may not know.
        _ => COLUMNS,
    }
}

fn show(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that is gone needs none.
    let _gone = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((end, is_gone)) = self.0.take() {
            drop(end);
            // Nothing is sent: it ends with the thread, or with our patience.
            let _gone = is_gone.recv_timeout(STILL);
        }
    }
}

/// How far recordings are read, told as long as this lives.
#[derive(Debug)]
pub(super) struct Reading {
    files: Arc<AtomicUsize>,
    intervals: Arc<AtomicUsize>,
    _waiting: Waiting,
}

impl Reading {
    /// Of so many files; `what` says what is done, as in "reading what node-a recorded".
    pub(super) fn begin(what: &str, of: usize) -> Self {
        let (files, intervals) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (what, now) = (cut(what, WHAT), [files.clone(), intervals.clone()]);
        let waiting = Waiting::begin(move |_| {
            let [file, intervals] = now.each_ref().map(|number| number.load(Ordering::Relaxed));
            let intervals = format::count(intervals as u64);
            format!("{what}: file {file} of {of}, {intervals} intervals so far")
        });
        Self { files, intervals, _waiting: waiting }
    }

    /// The next file.
    pub(super) fn file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// An interval was read.
    pub(super) fn interval(&self) {
        self.intervals.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        let text = |text: &'static str| Some(OsStr::new(text));
        for (is_terminal, no_color, term, expected) in [
            (true, None, text("xterm"), true),
            (true, text(""), text("xterm"), true),
            (true, text("1"), text("xterm"), false),
            (true, None, text("dumb"), false),
            (true, None, None, false),
            (false, None, text("xterm"), false),
        ] {
            let found = wants_colours(is_terminal, no_color, term);
            assert_eq!(found, expected, "{is_terminal} {no_color:?} {term:?}");
        }
    }

    #[test]
    fn lines_are_written_over_where_escapes_do_that() {
        for (is_terminal, term, expected) in [
            (true, Some("xterm"), true),
            (true, Some("dumb"), false),
            (true, Some(""), false),
            (true, None, false),
            (false, Some("xterm"), false),
        ] {
            let found = takes_escapes(is_terminal, term.map(OsStr::new));
            assert_eq!(found, expected, "{is_terminal} {term:?}");
        }
    }

    #[test]
    fn what_is_written_over_is_one_line() {
        assert_eq!(over("file 1", 80), "\rnetdiag: file 1\u{1b}[K");
        let line = format!("waiting for {}", "n".repeat(128));
        for columns in [20, 80] {
            let shown = over(&line, columns);
            let text = shown.trim_start_matches('\r').trim_end_matches("\u{1b}[K");
            assert_eq!(format::width(text), columns - 1, "{shown:?}");
            assert!(text.starts_with("netdiag: waiting") && text.ends_with('…'), "{shown:?}");
        }
        assert_eq!(over(&line, 0), "\r\u{1b}[K");
    }
}
