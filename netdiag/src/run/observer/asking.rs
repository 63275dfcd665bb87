//! Asking the kernel beside the loop for what no program told, and saying what it did not answer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use netdiag_common::flow::FlowKey;
use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time,
};

use super::Observer;
use crate::{
    clock::monotonic_ns,
    run::{
        refresh::{Answers, CONSEQUENCE, Refresher},
        stop::Stop,
        voice::Few,
    },
};

/// How long the kernel may take to tell the last counters.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// What is said in place of more of them.
const MORE: &str = "more could not be asked of the kernel, of which no further lines tell: the outputs have no counters of \
                    flows that it did not answer for";

/// Who asks, and what was asked.
pub(in crate::run) struct Asking {
    host_root: PathBuf,
    /// None while it is asking.
    refresher: Option<Refresher>,
    question: Option<Question>,
    problems: Few,
}

/// What was asked and is not answered.
struct Question {
    /// An interval before it was asked: states that were told since then are those of this interval.
    since_ns: u64,
    wanted: Arc<Vec<(FlowKey, u64)>>,
    answer: JoinHandle<(Refresher, Answers)>,
}

impl Asking {
    pub(in crate::run) fn new(host_root: &Path) -> Self {
        Self {
            host_root: host_root.to_owned(),
            refresher: None,
            question: None,
            problems: Few::new(MORE),
        }
    }

    /// Says what went wrong, each once.
    fn say(&mut self, problems: &[String]) {
        problems.iter().for_each(|problem| self.problems.say_once(problem));
    }
}

impl Observer {
    /// Asks the kernel for the counters that were not told in the last tenth of an interval; `None`
    /// when asked to end before it answers.
    pub(super) async fn refresh(
        &mut self,
        interval: Duration,
        stop: &mut Stop,
    ) -> Result<Option<()>> {
        let Some(mut question) = self.ask(before(interval / 10), interval) else {
            return Ok(Some(()));
        };
        let answer = self.beside(stop, &mut question.answer).await?;
        let ended = answer.is_none();
        match answer {
            Some(answer) => self.answered(&question, answer),
            None => self.keep(question),
        }
        Ok((!ended).then_some(()))
    }

    /// Asks for all counters once more, and waits for the answer, but not for ever.
    pub(super) async fn refresh_last(&mut self, interval: Duration) {
        let until = time::Instant::now() + LAST_ANSWER;
        let before = self.asking.as_mut().and_then(|asking| asking.question.take());
        if let Some(question) = before
            && !self.wait(question, until).await
        {
            return;
        }
        if let Some(question) = self.ask(u64::MAX, interval) {
            self.wait(question, until).await;
        }
    }

    /// Waits for an answer; returns whether it came.
    async fn wait(&mut self, mut question: Question, until: time::Instant) -> bool {
        if let Ok(answer) = time::timeout_at(until, &mut question.answer).await {
            self.answered(&question, answer);
            return true;
        }
        self.nothing_answered(&question);
        self.problem(format!(
            "the kernel did not tell the last counters within {LAST_ANSWER:?}: {CONSEQUENCE}; \
             compare with `ss -ti`"
        ));
        false
    }

    /// Begins to ask for the counters that were not told since then; `None` where nobody asks, or all were told.
    fn ask(&mut self, since_ns: u64, interval: Duration) -> Option<Question> {
        self.asking.as_ref()?;
        // What was told is not asked for.
        self.drain();
        let wanted = Arc::new(self.intake.table.untold(since_ns));
        let asking = self.asking.as_mut()?;
        if wanted.is_empty() {
            asking.refresher.iter_mut().for_each(Refresher::rest);
            return None;
        }
        let mut refresher =
            asking.refresher.take().unwrap_or_else(|| Refresher::new(&asking.host_root));
        Some(Question {
            since_ns: before(interval),
            wanted: Arc::clone(&wanted),
            answer: spawn_blocking(move || {
                let answers = refresher.ask(&wanted);
                (refresher, answers)
            }),
        })
    }

    fn answered(&mut self, question: &Question, answer: Result<(Refresher, Answers), JoinError>) {
        // What ended meanwhile is known to have ended.
        self.drain();
        match answer {
            Ok((refresher, answers)) => {
                let now_ns = monotonic_ns();
                answers.fresh.iter().for_each(|fresh| self.intake.table.refresh(fresh, now_ns));
                self.unanswered(answers.unanswered.iter(), question.since_ns);
                if let Some(asking) = &mut self.asking {
                    asking.refresher = Some(refresher);
                    asking.say(&answers.problems);
                }
            }
            // Another one asks the next time.
            Err(error) => {
                self.nothing_answered(question);
                self.problem(format!(
                    "the thread that asks the kernel for counters ended: {error}: {CONSEQUENCE}; \
                     please report it"
                ));
            }
        }
    }

    fn nothing_answered(&mut self, question: &Question) {
        self.unanswered(question.wanted.iter().map(|(key, _)| key), question.since_ns);
    }

    fn unanswered<'a>(&mut self, keys: impl Iterator<Item = &'a FlowKey>, since_ns: u64) {
        keys.for_each(|key| self.intake.table.unanswered(key, since_ns));
    }

    fn keep(&mut self, question: Question) {
        if let Some(asking) = &mut self.asking {
            asking.question = Some(question);
        }
    }

    fn problem(&mut self, line: String) {
        if let Some(asking) = &mut self.asking {
            asking.say(&[line]);
        }
    }
}

/// So long before now.
fn before(duration: Duration) -> u64 {
    monotonic_ns().saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
