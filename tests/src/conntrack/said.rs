//! What netdiag said of connection tracking in its last line.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use netdiag::snapshot::{self, Conntrack, Endpoint};

use super::table::{Entry, Tuple};
use crate::{netdiag::Netdiag, outcome::Outcome};

/// Every count, as it is named.
pub const COUNTS: [&str; 7] =
    ["new", "confirmed", "insert_failed", "clash", "table_full", "early_drop", "destroyed"];

/// A count over entries and `other`; `None` when the source cannot see it. Known and unknown ones do not
/// stand side by side.
///
/// # Errors
/// When they do.
pub fn sum(said: &Conntrack, name: &str) -> Result<Option<u64>> {
    let rows = said.entries.iter().map(|row| &row.counts).chain([&said.other.counts]);
    let numbers = rows.map(|counts| counts.get(name).copied().context("it is not told"));
    let numbers = numbers.collect::<Result<Vec<_>>>().context(name.to_owned())?;
    let (known, unknown): (Vec<_>, Vec<_>) = numbers.into_iter().partition(Option::is_some);
    ensure!(known.is_empty() || unknown.is_empty(), "{name} is known of some: {said:#?}");
    Ok((!known.is_empty()).then(|| known.into_iter().flatten().sum()))
}

/// The same of these namespaces alone: others may still be on their way out.
///
/// # Errors
/// As for [`sum`].
pub fn sum_in(said: &Conntrack, namespaces: &[u32], name: &str) -> Result<Option<u64>> {
    let belongs =
        |row: &&snapshot::Entry| row.netns.is_none_or(|netns| namespaces.contains(&netns));
    let entries = said.entries.iter().filter(belongs).cloned().collect();
    sum(&Conntrack { entries, ..said.clone() }, name)
}

/// Rows of exactly this entry.
#[must_use]
pub fn of<'a>(said: &'a Conntrack, entry: &Entry) -> Vec<&'a snapshot::Entry> {
    said.entries.iter().filter(|row| one(row).as_ref() == Some(entry)).collect()
}

/// The one entry that a row stands for.
fn one(row: &snapshot::Entry) -> Option<Entry> {
    Some(Entry {
        netns: row.netns?,
        zone: row.zone,
        protocol: row.protocol.clone()?,
        original: tuple(&row.original)?,
        reply: tuple(row.reply.as_ref()?)?,
    })
}

fn tuple(told: &snapshot::Tuple) -> Option<Tuple> {
    Some(Tuple { source: end(&told.source)?, destination: end(&told.destination)? })
}

/// An end, where all of it is known.
#[must_use]
pub fn end(told: &Endpoint) -> Option<SocketAddr> {
    Some((told.ip?, told.port?).into())
}

/// A count; `None` when the source cannot see it.
#[must_use]
pub fn count(row: &snapshot::Entry, name: &str) -> Option<u64> {
    row.counts.get(name).copied().flatten()
}

/// Every count, in the order of [`COUNTS`].
#[must_use]
pub fn counts(row: &snapshot::Entry) -> [Option<u64>; 7] {
    COUNTS.map(|name| count(row, name))
}

/// The process that made an entry.
#[must_use]
pub fn pid(row: &snapshot::Entry) -> Option<u32> {
    row.creator.as_ref()?.pid
}

/// Interrupts netdiag and returns what it said in its life, and of connection tracking in its last line.
///
/// # Errors
/// When it does not end, or says nothing of connection tracking.
pub fn stop(netdiag: Netdiag) -> Result<(Outcome, Conntrack)> {
    let outcome = netdiag.stop()?;
    let said = outcome.total()?.conntrack.clone();
    Ok((outcome, said.context("netdiag says nothing of conntrack")?))
}
