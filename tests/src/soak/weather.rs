//! One trouble after the other, and all that is counted and judged on the way.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{
    files::Files,
    left::Before,
    life::{End, Life, Lived},
    plan::{Plan, Trouble},
    scraped::{self, Scraped},
};
use crate::{disk::Disk, facts::Facts, machine, random::Random, usage};

/// Between two looks at what netdiag tells, writes and holds.
const LOOK: Duration = Duration::from_millis(500);

/// A disk with room, and what is free on a full one: less than netdiag leaves to others.
pub(super) const ROOMY: &str = "size=4g";
const FREE: u64 = 64 << 20;

/// What was counted on the way.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) facts: Facts,
    pub(super) lives: Vec<(Lived, End)>,
    pub(super) troubles: BTreeMap<Trouble, u64>,
    files: Files,
}

impl Log {
    /// Looks at one that lives: what it told, holds and wrote.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn look(&mut self, life: &mut Life, out: &Path) -> Result<()> {
        life.look(&mut self.facts)?;
        life.wrote(self.read(out)?);
        Ok(())
    }

    /// Waits until one has told some intervals, and so has all open that it needs.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn begun(&mut self, life: &mut Life, out: &Path) -> Result<()> {
        while life.told() < 3 {
            thread::sleep(LOOK);
            self.look(life, out)?;
        }
        Ok(())
    }

    /// Reads what was written since the last time.
    fn read(&mut self, out: &Path) -> Result<u64> {
        let Self { facts, files, .. } = self;
        files.follow(out, |snapshot| {
            let mut found = Facts::new();
            found.consistent(snapshot);
            facts.adopt(format_args!("written, from {}", snapshot.start), found);
        })
    }

    /// Ends a life, which serves metrics still, and holds what it told against what it wrote.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn end(&mut self, life: Life, how: End, out: &Path) -> Result<()> {
        let at = life.metrics_at()?;
        // Before its first interval there are none.
        let serves = life.told() == 0 || machine::wait_until(|| scraped::is_told(at));
        let mut lived = life.end(how, &mut self.facts)?;
        lived.written += self.read(out)?;
        let mut found = Facts::new();
        found.holds("it served metrics to its end", serves);
        lived.is_written(how != End::Killed, &mut found);
        self.facts.adopt(format_args!("life {}, {how:?}", self.lives.len() + 1), found);
        self.lives.push((lived, how));
        Ok(())
    }

    /// Waits until it has no more descriptors open than so many; how many it has then. Some are open for a moment, once
    /// an interval.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn settled(&mut self, life: &mut Life, out: &Path, most: usize) -> Result<usize> {
        let mut least = Ok(usize::MAX);
        machine::wait_until(|| {
            least = self.least(life, out);
            !least.as_ref().is_ok_and(|least| *least > most)
        });
        least
    }

    /// The fewest descriptors that it has open in a few seconds.
    fn least(&mut self, life: &mut Life, out: &Path) -> Result<usize> {
        const LOOKS: u32 = 20;
        let mut least = usize::MAX;
        for _ in 0..LOOKS {
            thread::sleep(LOOK / 5);
            self.look(life, out)?;
            least = least.min(usage::descriptors(life.netdiag().pid())?);
        }
        Ok(least)
    }
}

/// What the weather is made of.
pub(super) struct Weather<'a> {
    pub(super) time: Duration,
    pub(super) interval: &'a str,
    pub(super) out: &'a Path,
    pub(super) disk: &'a Disk<'a>,
    pub(super) before: &'a Before,
    pub(super) scraped: &'a Scraped,
}

impl Weather<'_> {
    /// Lets one trouble follow the other; gives the one that lives at the end.
    ///
    /// # Errors
    /// When netdiag ends by itself, or something cannot be done to it.
    pub(super) fn go_on(
        &self,
        mut life: Life,
        plan: &mut Plan,
        mut random: Random,
        log: &mut Log,
    ) -> Result<Life> {
        let began = Instant::now();
        let mut full_until: Option<Instant> = None;
        while began.elapsed() < self.time {
            thread::sleep(LOOK);
            log.look(&mut life, self.out)?;
            if full_until.is_some_and(|until| Instant::now() > until) {
                self.disk.remount(ROOMY)?;
                full_until = None;
            }
            let elapsed = began.elapsed();
            let Some(trouble) = plan.due(elapsed) else { continue };
            *log.troubles.entry(trouble).or_default() += 1;
            eprintln!("{:>8.1} s  {}", elapsed.as_secs_f64(), trouble.name());
            match trouble {
                Trouble::Stopped => {
                    life.netdiag().freeze()?;
                    thread::sleep(random.up_to(plan.every()));
                    life.netdiag().signal(Signal::CONT)?;
                }
                Trouble::Full => {
                    self.disk.leave(FREE).context("a disk that is to be full")?;
                    life.has_no_room();
                    full_until = Some(Instant::now() + random.up_to(2 * plan.every()));
                }
                Trouble::Restarted => {
                    let ends = [End::Killed, End::Asked(Signal::INT), End::Asked(Signal::TERM)];
                    self.before.note()?;
                    log.end(life, ends[random.index(ends.len())], self.out)?;
                    life = Life::start(self.out, self.interval)?;
                    self.scraped.moves_to(life.metrics_at()?);
                    if full_until.is_some() {
                        life.has_no_room();
                    }
                }
            }
        }
        self.disk.remount(ROOMY)?;
        self.before.note()?;
        Ok(life)
    }
}
