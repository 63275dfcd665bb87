//! Tests that are exact unless something spoils a run: they run again, and say why.

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, bail};
use netdiag::snapshot::Snapshot;

use crate::{counters::TcpCounters, facts::Facts, hiccup::Hiccups, namespace::Namespace};

/// Why the numbers of a run are not those of the plan, though nobody is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// Tasks were preempted inside netdiag's programs, and the kernel skipped other runs of them.
    Skipped,
    /// A processor came so late that TCP took a segment for lost.
    SentAgain,
    /// Processors came so late, or so much waited for them, that nothing was on time.
    StoodStill,
}

impl Display for Spoilt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skipped => "the kernel skipped programs",
            Self::SentAgain => "the kernel sent segments again that were not lost",
            Self::StoodStill => "the machine did not keep up",
        })
    }
}

/// Runs of a test that may be spoilt.
const ATTEMPTS: usize = 10;

/// Runs a test until nothing has spoilt it, which `run` tells: what is exact then is bounded otherwise,
/// and `run` asks for that.
///
/// # Errors
/// Those of `run`, or each run was spoilt.
pub fn until_whole(mut run: impl FnMut() -> Result<Option<Spoilt>>) -> Result<()> {
    let mut reasons = Vec::new();
    for _ in 0..ATTEMPTS {
        let Some(spoilt) = run()? else { return Ok(()) };
        // For `cargo xtask test` to count: a test that needs many attempts shows little.
        eprintln!("RETRIED: {spoilt}");
        reasons.push(spoilt);
    }
    bail!("each of {ATTEMPTS} attempts was spoilt: {reasons:?}");
}

/// Judges facts that hold of a machine whose processors are on time; where they do not and those were late, the run
/// is spoilt.
///
/// # Panics
/// When a fact is wrong, and the processors were on time.
#[track_caller]
pub fn judge_on_time(facts: Facts, hiccups: Hiccups) -> Option<Spoilt> {
    let why = hiccups.stood_still();
    if let Some(why) = why.filter(|_| facts.any_wrong()) {
        eprintln!("{why}: {facts:?}");
        return Some(Spoilt::StoodStill);
    }
    facts.finish();
    None
}

/// Whether the kernel skipped programs of one of these signals.
#[must_use]
pub fn skipped(total: &Snapshot, signals: &[&str]) -> Option<Spoilt> {
    let missed = |name: &&str| total.accounting.get(*name).is_some_and(|it| it.missed > 0);
    signals.iter().any(missed).then_some(Spoilt::Skipped)
}

/// Namespaces whose links lose nothing, watched for segments that are sent again all the same.
#[derive(Debug)]
pub struct Watched<'a>(Vec<(&'a Namespace, TcpCounters)>);

impl<'a> Watched<'a> {
    /// From now on.
    ///
    /// # Errors
    /// When counters cannot be read.
    pub fn new(namespaces: impl IntoIterator<Item = &'a Namespace>) -> Result<Self> {
        let each = namespaces.into_iter().map(|it| Ok((it, TcpCounters::read(it)?)));
        Ok(Self(each.collect::<Result<_>>()?))
    }

    /// Whether there was one so far, by the kernel's own counters.
    ///
    /// # Errors
    /// When counters cannot be read.
    pub fn sent_again(&self) -> Result<Option<Spoilt>> {
        for (namespace, before) in &self.0 {
            if TcpCounters::read(namespace)?.since(before)["RetransSegs"] > 0 {
                return Ok(Some(Spoilt::SentAgain));
            }
        }
        Ok(None)
    }
}
