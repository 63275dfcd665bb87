//! Being asked to end: ^C and SIGTERM, and what they mean while the output stands still.

use std::{
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use super::{output::Progress, voice::say};
use crate::exit::{self, Status};

/// An output that has not moved for so long at the end is said to stand still.
const STILL: Duration = Duration::from_secs(1);
/// A signal so soon after the programs were detached is the first one, come twice: timeout(1) and
/// service managers signal a process and its group.
const ECHO: Duration = Duration::from_millis(1);

/// Why a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By a signal.
    Asked,
    /// After `--duration`.
    Time,
}

/// ^C or SIGTERM; of a full screen also its keys, and its terminal's end.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// SIGHUP, where there is a full screen: others may be meant to outlive their terminal.
    hangup: Option<Signal>,
    /// Somebody wants to quit.
    quit: Arc<Notify>,
}

impl Stop {
    /// From now on neither ends the process by itself.
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: None,
            quit: Arc::default(),
        })
    }

    /// Also ends when its terminal does, and when this is notified.
    pub(super) fn hear_screen(&mut self, quit: Arc<Notify>) -> Result<()> {
        self.hangup = Some(signal(SignalKind::hangup()).context("cannot listen for signals")?);
        self.quit = quit;
        Ok(())
    }

    /// Waits until one comes.
    pub(super) async fn asked(&mut self) {
        let Self { interrupt, terminate, hangup, quit } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
            () = quit.notified() => {}
        }
    }

    /// Does what may take its time on a thread, so that it hears of being asked meanwhile; `None` when asked before
    /// that is done.
    ///
    /// # Errors
    /// When that panicked.
    pub(super) async fn unless_asked<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        tokio::select! {
            done = spawn_blocking(work) => Ok(Some(done.context("a thread ended before its work was done")?)),
            () = self.asked() => Ok(None),
        }
    }

    /// Waits for what comes after the end of a run; `None` when asked to end once more before that is done.
    pub(super) async fn unless_asked_again<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        // What ended the run may have come twice.
        let _echo = timeout(Duration::ZERO, self.asked()).await;
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.asked() => None,
        }
    }

    /// Waits for the last outputs as long as they move, and as long as nobody asks again.
    ///
    /// # Errors
    /// Those of `work`, and [`Status::Failed`] when it was given up.
    pub(super) async fn last<T>(
        &mut self,
        end: End,
        work: impl Future<Output = Result<T>>,
        progress: &Progress,
    ) -> Result<T> {
        let mut work = pin!(work);
        let mut patience = Patience::new(end, progress.steps());
        if let Ok(done) = timeout(ECHO, &mut work).await {
            return done;
        }
        let _echo = timeout(Duration::ZERO, self.asked()).await;
        let mut look = Instant::now() + STILL;
        loop {
            let verdict = tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.asked() => patience.asked(),
                () = sleep_until(look) => {
                    look += STILL;
                    patience.looked(progress.steps())
                }
            };
            match verdict {
                Verdict::Wait => {}
                Verdict::Tell => say(
                    "the output stands still, so the last interval and the total are not written \
                     yet; make it go on, or interrupt again to end without them",
                ),
                Verdict::GiveUp => {
                    return Err(exit::Error::new(
                        Status::Failed,
                        "interrupted again while the output stood still: the last interval and \
                         the total were not written; see that the output is read to its end",
                    )
                    .into());
                }
            }
        }
    }
}

/// How long the last outputs are waited for. Pure.
#[derive(Debug)]
struct Patience {
    signals: u32,
    steps: u64,
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Tell,
    GiveUp,
}

impl Patience {
    fn new(end: End, steps: u64) -> Self {
        Self { signals: u32::from(end == End::Asked), steps, told: false }
    }

    /// Asked to end, once more.
    fn asked(&mut self) -> Verdict {
        self.signals += 1;
        if self.told { Verdict::GiveUp } else { Verdict::Wait }
    }

    /// A while has passed since the last look; the outputs have made so many steps in all.
    fn looked(&mut self, steps: u64) -> Verdict {
        if std::mem::replace(&mut self.steps, steps) != steps {
            Verdict::Wait
        } else if self.signals > 1 {
            Verdict::GiveUp
        } else if self.told {
            Verdict::Wait
        } else {
            self.told = true;
            Verdict::Tell
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict::*, *};

    enum Then {
        Asked,
        Looked(u64),
    }
    use Then::*;

    /// What it shows, why the run ends, and what follows upon what.
    type Case = (&'static str, End, &'static [(Then, Verdict)]);

    #[tokio::test]
    async fn it_is_heard_while_work_stands_still() {
        use rustix::process::{Signal, getpid, kill_process};
        let mut stop = Stop::new().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(stop.unless_asked(move || wait.recv()).await.unwrap(), None);
        drop(go);
        assert_eq!(stop.unless_asked(|| 7).await.unwrap(), Some(7));
        // The same signal, come twice, asks for nothing more; another one does.
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(stop.unless_asked_again(async { 7 }).await, Some(7));
        let later = async {
            kill_process(getpid(), Signal::TERM).unwrap();
            pending::<u8>().await
        };
        assert_eq!(stop.unless_asked_again(later).await, None);
    }

    #[test]
    fn outputs_that_stand_still_are_given_up_when_asked_again() {
        #[rustfmt::skip]
        let cases: [Case; 7] = [
            ("asked again after it was told", End::Asked,
                &[(Looked(0), Tell), (Looked(0), Wait), (Asked, GiveUp)]),
            ("asked again before: at the next look", End::Asked,
                &[(Asked, Wait), (Looked(0), GiveUp)]),
            ("asked again, but it moves", End::Asked,
                &[(Asked, Wait), (Looked(5), Wait), (Looked(6), Wait), (Looked(6), GiveUp)]),
            ("moves, then stands still", End::Asked,
                &[(Looked(5), Wait), (Looked(5), Tell), (Asked, GiveUp)]),
            ("moves again after it was told", End::Asked,
                &[(Looked(0), Tell), (Looked(1), Wait), (Looked(1), Wait), (Asked, GiveUp)]),
            ("nobody has asked yet", End::Time,
                &[(Asked, Wait), (Looked(0), Tell), (Asked, GiveUp)]),
            ("asked for the first time after it was told", End::Time,
                &[(Looked(0), Tell), (Asked, GiveUp)]),
        ];
        for (name, end, steps) in cases {
            let mut patience = Patience::new(end, 0);
            for (at, (then, expected)) in steps.iter().enumerate() {
                let verdict = match then {
                    Asked => patience.asked(),
                    Looked(steps) => patience.looked(*steps),
                };
                assert_eq!(verdict, *expected, "{name}: {at}");
            }
        }
    }
}
