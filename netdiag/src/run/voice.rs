//! Lines for whoever sits there, beside the output.
//!
//! Standard error can stand still like any output (`2>&1 | less`, a stopped terminal), and most is
//! said by the loop, which must not. So a thread writes the lines, and what finds its short queue
//! full is left out and counted.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, IsTerminal as _, Write as _},
    mem,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{format, sandbox};

/// Lines that may wait to be written.
const QUEUE: usize = 1024;
/// How long the end of the process waits for the last of them.
const PATIENCE: Duration = Duration::from_millis(500);

static VOICE: Mutex<Option<Voice>> = Mutex::new(None);
static DIVERTED: Mutex<Option<Diverted>> = Mutex::new(None);

/// Lines that are kept until the screen is gone.
const HELD: usize = 100;

/// Lines about one subject that are said in a run.
const FEW: usize = 20;
/// How long what things have come to waits behind those.
const REST: Duration = Duration::from_secs(600);

/// Where lines go while a full screen has the terminal.
struct Diverted {
    screen: Box<dyn Fn(&str) + Send>,
    /// For standard error, where that is the terminal: they come when the screen is gone.
    held: Option<Held>,
}

/// The last lines, and how many came before them that are kept no more.
#[derive(Default)]
struct Held {
    lines: VecDeque<String>,
    left_out: u64,
}

impl Held {
    fn push(&mut self, line: String) {
        if self.lines.len() == HELD {
            self.lines.pop_front();
            self.left_out += 1;
        }
        self.lines.push_back(line);
    }

    /// What is to be said of it.
    fn into_lines(self) -> impl Iterator<Item = String> {
        let before = (self.left_out > 0).then(|| left_out_here(self.left_out));
        before.into_iter().chain(self.lines)
    }
}

/// What stands in place of lines.
fn left_out_here(lines: u64) -> String {
    format!("netdiag: {lines} lines were left out here")
}

/// From now on lines go to a full screen, and to standard error when that is gone.
pub(super) fn divert(screen: impl Fn(&str) + Send + 'static) {
    let held = io::stderr().is_terminal().then(Held::default);
    let diverted = Diverted { screen: Box::new(screen), held };
    *DIVERTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(diverted);
}

/// Whether a screen has the line, and standard error is not to have it now.
fn is_diverted(line: &str) -> bool {
    let mut diverted = DIVERTED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Diverted { screen, held }) = &mut *diverted else { return false };
    screen(line);
    let Some(held) = held else { return false };
    held.push(line.to_owned());
    true
}

struct Voice {
    lines: SyncSender<String>,
    /// Disconnected when all lines are written.
    written: Receiver<()>,
    left_out: u64,
}

/// Says something, in one line, without waiting for anybody to read it.
pub(super) fn say(line: &str) {
    say_whole(&format!("netdiag: {line}"));
}

/// Says a line that already tells who speaks.
pub(super) fn say_whole(line: &str) {
    // Names in it may be others': of files, processes, namespaces.
    let line = format::sanitised(line);
    if is_diverted(&line) {
        return;
    }
    let mut voice = VOICE.lock().unwrap_or_else(PoisonError::into_inner);
    voice.get_or_insert_with(|| Voice::start(write)).say(line);
}

/// The screen is gone: says what was kept for then.
fn resume() {
    let diverted = DIVERTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let held = diverted.and_then(|diverted| diverted.held);
    held.into_iter().flat_map(Held::into_lines).for_each(|line| say_whole(&line));
}

/// Waits, but not for ever, until what was said is written.
pub(super) fn finish() {
    resume();
    let voice = VOICE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Voice { lines, written, .. }) = voice {
        drop(lines);
        // Nothing is sent: it ends with the thread, or with our patience.
        let _ended = written.recv_timeout(PATIENCE);
    }
}

fn write(line: &str) {
    // When standard error is gone, the exit status is all that is left to say.
    let _gone = writeln!(io::stderr(), "{line}");
}

impl Voice {
    fn start(write: impl Fn(&str) + Send + 'static) -> Self {
        let (lines, queue) = sync_channel::<String>(QUEUE);
        let (writing, written) = channel();
        let run = move || {
            sandbox::on_thread();
            let _writing: std::sync::mpsc::Sender<()> = writing;
            for line in queue {
                write(&line);
            }
        };
        // Without a thread the queue is gone, which `say` sees.
        let _thread = thread::Builder::new().name("voice".to_owned()).spawn(run);
        Self { lines, written, left_out: 0 }
    }

    fn say(&mut self, line: String) {
        if self.left_out > 0 && self.lines.try_send(left_out_here(self.left_out)).is_ok() {
            self.left_out = 0;
        }
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.left_out += 1,
            Err(TrySendError::Disconnected(line)) => write(&line),
        }
    }
}

/// Lines about one subject, of which a run says a few. Then it says that there are more.
pub(super) struct Few {
    /// What is said when the first one is kept back.
    more: &'static str,
    said: usize,
    /// Those that are said once.
    once: HashSet<String>,
    is_noted: bool,
    /// When something was said last of what things have come to, and what is to be said of it.
    last: Option<Instant>,
    waiting: Option<String>,
}

impl Few {
    pub(super) fn new(more: &'static str) -> Self {
        let (once, last, waiting) = (HashSet::new(), None, None);
        Self { more, said: 0, once, is_noted: false, last, waiting }
    }

    /// Says a line, unless it was said before.
    pub(super) fn say_once(&mut self, line: &str) {
        self.once(line).iter().for_each(|line| say(line));
    }

    /// Says what things have come to, where that is something new. Behind the few the newest line waits until nothing was
    /// said for ten minutes, so this is to be called where nothing is new, too.
    pub(super) fn say_latest(&mut self, line: Option<String>) {
        self.latest(line, Instant::now()).iter().for_each(|line| say(line));
    }

    /// Whether the next one is kept back, or waits.
    pub(super) const fn is_full(&self) -> bool {
        self.said >= FEW
    }

    fn once(&mut self, line: &str) -> Option<String> {
        if self.once.contains(line) {
            return None;
        }
        if self.is_full() {
            return self.keep_back();
        }
        self.said += 1;
        self.once.insert(line.to_owned());
        Some(line.to_owned())
    }

    fn latest(&mut self, line: Option<String>, now: Instant) -> Option<String> {
        self.waiting = line.or_else(|| self.waiting.take());
        let rests = self.last.is_some_and(|last| now.duration_since(last) < REST);
        if self.waiting.is_some() && self.is_full() && rests {
            return self.keep_back();
        }
        let line = self.waiting.take()?;
        self.said += 1;
        self.last = Some(now);
        Some(line)
    }

    fn keep_back(&mut self) -> Option<String> {
        let is_first = !mem::replace(&mut self.is_noted, true);
        is_first.then(|| self.more.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_few_it_is_said_that_there_are_more() {
        let mut few = Few::new("more");
        let said: Vec<_> = (0..FEW + 5)
            .flat_map(|n| [n / 2, n])
            .filter_map(|n| few.once(&n.to_string()))
            .collect();
        let expected = (0..FEW).map(|n| n.to_string()).chain(["more".to_owned()]);
        assert_eq!(said, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_things_have_come_to_is_said_later() {
        let (mut few, start) = (Few::new("more"), Instant::now());
        for n in 0..FEW {
            assert!(!few.is_full());
            assert_eq!(few.latest(Some(n.to_string()), start), Some(n.to_string()));
            assert_eq!(few.latest(None, start), None);
        }
        assert!(few.is_full());
        assert_eq!(few.latest(Some("a".to_owned()), start), Some("more".to_owned()));
        assert_eq!(few.latest(Some("b".to_owned()), start), None);
        assert_eq!(few.latest(None, start + REST / 2), None);
        assert_eq!(few.latest(None, start + REST), Some("b".to_owned()));
        assert_eq!(few.latest(None, start + REST * 3), None);
        assert_eq!(few.latest(Some("c".to_owned()), start + REST * 3), Some("c".to_owned()));
        assert_eq!(few.latest(Some("d".to_owned()), start + REST * 3), None, "that was said");
    }

    #[test]
    fn lines_that_nobody_takes_are_counted_and_told() {
        let (open, gate) = channel::<()>();
        let (to, from) = channel();
        let mut voice = Voice::start(move |line| {
            // Disconnected once the gate is open.
            let _open = gate.recv();
            to.send(line.to_owned()).expect("the test is there");
        });
        // One is in the writer's hands, or will be.
        for number in 0..=QUEUE + 10 {
            voice.say(number.to_string());
        }
        let left_out = voice.left_out;
        assert!((10..=11).contains(&left_out), "{left_out}");
        drop(open);
        let mut said: Vec<String> = from.iter().take(QUEUE).collect();
        voice.say("more".to_owned());
        drop(voice.lines);
        said.extend(from);
        assert_eq!(said[0], "0");
        let told = format!("netdiag: {left_out} lines were left out here");
        assert_eq!(said[said.len() - 2..], [told, "more".to_owned()]);
        assert_eq!(said.len() as u64, (QUEUE + 11) as u64 - left_out + 2);
    }

    #[test]
    fn lines_that_are_held_no_more_are_told_first() {
        let said = |lines: usize| {
            let mut held = Held::default();
            (0..lines).for_each(|number| held.push(number.to_string()));
            held.into_lines().collect::<Vec<_>>()
        };
        assert_eq!(said(2), ["0", "1"]);
        assert_eq!(said(HELD).len(), HELD);
        let said = said(HELD + 7);
        assert_eq!(said[..2], ["netdiag: 7 lines were left out here", "7"]);
        assert_eq!(said.len(), HELD + 1);
    }
}
