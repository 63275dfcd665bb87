//! The loop of `events`: the rings are read ten times a second, and what was folded is told at once.

use std::{future::pending, time::Duration};

use anyhow::{Context as _, Result, bail};
use netdiag_common::globals::Filters;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Observer;
use crate::{
    clock::monotonic_ns,
    config::Watch,
    flow::Interval,
    node::Seeds,
    run::{
        listening::Listening,
        output::{STDOUT, check_reader},
        pace::Pace,
        stop::{End, Stop},
        writer::{Last, Writing},
    },
    snapshot::Listener,
};

/// Between two readings: a line is late by no more. Waking the reader for each event would cost more
/// than all the rest.
const EVERY: Duration = Duration::from_millis(100);

impl Observer {
    /// Tells of events until it is time to end; then detaches, and tells the rest and the sums. Returns
    /// whether nothing was lost or missed.
    pub(in crate::run) async fn tell(
        mut self,
        watch: &Watch,
        filters: &Filters,
        seeding: JoinHandle<Seeds>,
        mut writing: Writing,
        mut listening: Option<Listening>,
        stop: &mut Stop,
    ) -> Result<bool> {
        let ready = async {
            match &mut listening {
                Some(listening) => listening.found().await.map(drop),
                None => Ok(()),
            }
        };
        let end = match self.seed(filters, seeding, ready, stop).await? {
            Some(end) => end,
            None => self.follow(watch, &mut writing, &mut listening, stop).await?,
        };
        let (mut intake, run) = self.detach().await?;
        let progress = writing.progress().clone();
        let last = async {
            let mut teller = intake.teller.take().context("nobody tells of events")?;
            if let Some(listening) = listening {
                teller.listeners(listening.last().await?);
            }
            let cut = run.total(Interval::default());
            writing.end(Last { rest: teller.end(), cut }).await
        };
        stop.last(end, last, &progress).await
    }

    async fn follow(
        &mut self,
        watch: &Watch,
        writing: &mut Writing,
        listening: &mut Option<Listening>,
        stop: &mut Stop,
    ) -> Result<End> {
        let began = Instant::now();
        let deadline = watch.duration.map(|duration| began + duration);
        let mut pace = Pace::new(began, EVERY);
        let mut interval = Pace::new(began, watch.interval);
        let mut modules = Self::modules();
        loop {
            let until = deadline.map_or(pace.next(), |deadline| deadline.min(pace.next()));
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(End::Asked),
                () = sleep_until(until) => {
                    if deadline == Some(until) {
                        return Ok(End::Time);
                    }
                    // Without an event nothing is written for long.
                    check_reader().context(STDOUT)?;
                    self.collect()?;
                    let now = Instant::now();
                    pace.tick(now);
                    pace.cut(now);
                    if interval.next() <= now {
                        interval.tick(now);
                        interval.cut(now);
                        self.rest(listening);
                    }
                }
                found = found(listening) => {
                    let found = found?;
                    if let Some(teller) = &mut self.intake.teller {
                        teller.listeners(found);
                    }
                }
                ended = writing.ended() => {
                    ended?;
                    bail!(
                        "the thread that writes events ended before its time, so the run ends; report it \
                         with the lines above"
                    );
                }
                _ = modules.tick() => self.follow_changes()?,
                wanted = self.tracer.wanted() => {
                    wanted?;
                    self.drain_wanted();
                }
            }
        }
    }

    /// What is due once an interval: flows that are idle leave the table, and listeners are asked.
    fn rest(&mut self, listening: &mut Option<Listening>) {
        let _nobody_wants_it = self.intake.table.interval_of(monotonic_ns(), true, &mut |_| None);
        if let Some(listening) = listening {
            listening.ask();
        }
    }
}

/// Waits for what the listeners that are asked say; for ever where none is.
async fn found(listening: &mut Option<Listening>) -> Result<Vec<Listener>> {
    match listening {
        Some(listening) => listening.found().await,
        None => pending().await,
    }
}
