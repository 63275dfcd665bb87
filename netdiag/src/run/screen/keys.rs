//! The thread that reads keys.

use std::{
    io,
    sync::mpsc::{SyncSender, TrySendError},
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use tokio::sync::Notify;

use super::Told;
use crate::{run::full_screen, view::screen::Key};

/// Between two looks whether there is a screen still.
const WAIT: Duration = Duration::from_millis(200);
/// How long a key waits for a screen that stands still.
const LOST: Duration = Duration::from_secs(2);

/// Reads keys for as long as there is a full screen: what is typed afterwards is the shell's. A terminal that has
/// hung up ends the run.
pub(super) fn read_keys(told: &SyncSender<Told>, quit: &Notify) {
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
