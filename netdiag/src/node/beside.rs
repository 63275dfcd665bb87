//! Work that may take long, on a thread of its own: who wants it waits for it a little, and has it later
//! where that is not enough.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::pace::{Pace, thread_time};

/// How long the loop that reads the rings may wait for one piece of such work.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Work of one kind: one piece at a time, and no more often than [`Pace`] lets it.
#[derive(Debug)]
pub struct Beside<T> {
    least: Duration,
    pace: Pace,
    running: Option<Receiver<(T, Duration)>>,
}

impl<T: Send + 'static> Beside<T> {
    /// Work that is begun no more often than this.
    #[must_use]
    pub const fn new(least: Duration) -> Self {
        Self { least, pace: Pace::NEW, running: None }
    }

    /// Whether it would be begun now.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.running.is_none() && self.pace.is_due()
    }

    /// Begins it if it is due.
    pub fn begin(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        if !self.is_due() {
            return;
        }
        let (tell, told) = mpsc::sync_channel(1);
        let run = move || {
            let before = thread_time();
            let result = work();
            // Nobody may want it any more.
            let _gone = tell.send((result, thread_time().saturating_sub(before)));
        };
        match thread::Builder::new().name("beside".to_owned()).spawn(run) {
            Ok(_detached) => self.running = Some(told),
            Err(_) => self.pace.spent(self.least, Duration::ZERO),
        }
    }

    /// What came of it, once, if it comes within `patience`.
    pub fn result(&mut self, patience: Duration) -> Option<T> {
        let (result, cost) = match self.running.as_ref()?.recv_timeout(patience) {
            Ok((result, cost)) => (Some(result), cost),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => (None, Duration::ZERO),
        };
        self.running = None;
        self.pace.spent(self.least, cost);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_cannot_wait_has_it_later() {
        let (go, wait) = mpsc::channel::<()>();
        let mut beside = Beside::new(LONG);
        assert_eq!(beside.result(LONG), None, "nothing was begun");
        beside.begin(move || wait.recv().is_ok());
        assert_eq!(beside.result(Duration::from_millis(1)), None);
        assert!(!beside.is_due());
        beside.begin(|| panic!("one at a time"));
        go.send(()).unwrap();
        assert_eq!(beside.result(LONG), Some(true));
        assert_eq!(beside.result(LONG), None, "once");
        assert!(!beside.is_due(), "not again so soon");
    }

    #[test]
    fn work_that_fails_is_over() {
        let mut beside = Beside::<()>::new(Duration::ZERO);
        beside.begin(|| std::panic::resume_unwind(Box::new(())));
        assert_eq!(beside.result(LONG), None);
        assert!(beside.running.is_none());
    }
}
