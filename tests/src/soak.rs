//! A long run in bad weather: `cargo xtask soak`.
//!
//! One netdiag records a node on which loads come and go (`load`), and serves metrics that somebody scrapes. It has
//! troubles (`weather`): it is stopped, its disk is full, it is asked to end or killed and another one begins (`life`).
//! Others of its kind come and go beside it (`guest`). Each interval that it tells or writes must balance, it must not
//! grow, and nothing of it may be left when all is over. What is drawn comes from a seed.

mod figures;
mod files;
mod guest;
mod left;
mod life;
mod load;
mod plan;
mod scraped;
pub mod trend;
mod weather;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use rustix::process::Signal;

use self::{
    figures::Figures,
    guest::Guests,
    left::Before,
    life::{End, Life},
    load::Driven,
    plan::Plan,
    scraped::Scraped,
    weather::{Log, ROOMY, Weather},
};
use crate::{disk::Disk, facts::Facts, netdiag, random::Random, tool};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// How long it lasts, but for its beginning and its end.
    pub time: Duration,
    /// What all is drawn from.
    pub seed: u64,
    /// Loads side by side.
    pub grounds: u8,
    /// Other netdiags side by side, at most.
    pub guests: u8,
    /// Time between two intervals, as netdiag takes it.
    pub interval: &'static str,
    /// Bytes that it may grow by in the time in which its longest life is looked at; none where that is too short to
    /// tell growth from what it needs once.
    pub growth_bytes: Option<f64>,
}

/// What came of it.
#[derive(Debug)]
pub struct Soaked {
    /// Figures, for people.
    pub table: String,
    /// All that must hold.
    pub facts: Facts,
}

/// Runs it.
///
/// # Errors
/// When netdiag ends by itself, or the machine does not do what it is told.
///
/// # Panics
/// When a thread does.
pub fn run(soak: &Soak) -> Result<Soaked> {
    let mut random = Random::of(soak.seed);
    let before = Before::now()?;
    let directory = tempfile::tempdir()?;
    let disk = Disk::mount(directory.path(), ROOMY)?;
    let [out, other] = ["watched", "others"].map(|name| directory.path().join(name));
    let scraped = Scraped::default();
    let (mut log, mut driven, mut guests) = (Log::default(), Driven::default(), Guests::default());
    let mut life = Life::start(&out, soak.interval)?;
    scraped.moves_to(life.metrics_at()?);
    // Before there is anything to see.
    log.begun(&mut life, &out)?;
    let idle = log.settled(&mut life, &out, usize::MAX)?;
    let mut plan = Plan::new(soak.time, draw(&mut random));
    let longest = 3 * plan.every();
    let over = AtomicBool::new(false);
    let (answers, settled) = thread::scope(|scope| -> Result<_> {
        let (before, scraped, over, other) = (&before, &scraped, &over, other.as_path());
        // Whatever comes of it, they end.
        let _end = Ends(over);
        let mut grounds = Vec::new();
        for number in 1..=soak.grounds {
            let random = draw(&mut random);
            grounds.push(scope.spawn(move || load::drive(number, random, longest, over)));
        }
        let mut others = Vec::new();
        for _ in 0..soak.guests {
            let random = draw(&mut random);
            others.push(
                scope.spawn(move || guest::come_and_go(random, longest, other, before, over)),
            );
        }
        let scraping = scope.spawn(move || scraped.ask(over));
        let Soak { time, interval, .. } = *soak;
        let weather = Weather { time, interval, out: &out, disk: &disk, before, scraped };
        life = weather.go_on(life, &mut plan, draw(&mut random), &mut log)?;
        over.store(true, Ordering::Relaxed);
        for ground in grounds {
            driven.add(&ground.join().expect("a ground panicked"));
        }
        for other in others {
            let came = other.join().expect("who lets others come panicked")?;
            guests = std::mem::take(&mut guests).with(came);
        }
        let answers = scraping.join().expect("who scrapes panicked");
        let settled = log.settled(&mut life, &out, idle)?;
        log.end(life, End::Asked(Signal::INT), &out)?;
        Ok((answers, settled))
    })?;
    is_read(&out, &mut log.facts)?;
    drop(disk);
    let (descriptors, left) = ([idle, settled], before.left());
    Ok(Figures { log, driven, guests, answers, descriptors, left }.judge(soak))
}

fn draw(random: &mut Random) -> Random {
    Random::of(random.below(u64::MAX))
}

/// Tells threads to end when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// That what is left of the recordings is read back whole.
fn is_read(out: &Path, facts: &mut Facts) -> Result<()> {
    let report = netdiag::run(&["report", &out.display().to_string(), "-o", "json"])?;
    let read = tool::finish("netdiag report", &report);
    facts.holds(format_args!("recordings are read: {:?}", read.as_ref().err()), read.is_ok());
    Ok(())
}
