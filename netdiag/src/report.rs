//! Recordings of any number of nodes, merged: percentiles by group and time, findings, and both ends of a
//! conversation side by side. Pure, and bounded however much was recorded.
//!
//! Recordings are gone through twice. The first time ([`Survey`]) says when they begin and end, which groups are
//! worth a row, and which flows are two ends of one conversation. The second time ([`Fold`]) adds up their
//! histograms bucket by bucket, by group and by column of time. So every number is exact, and what is kept depends
//! on rows and columns alone.

use crate::snapshot::{Flow, Snapshot};

mod by;
mod columns;
mod conversation;
pub(crate) mod counts;
mod course;
mod ends;
mod fold;
mod lines;
mod nodes;
mod summary;
mod survey;
#[cfg(test)]
mod tests;
pub mod told;

pub use by::By;
pub use columns::{Columns, nanoseconds, rfc3339};
pub use fold::Fold;
pub use survey::{Chosen, IsWanted, Survey};
pub use told::Report;

/// Columns of time at most.
pub const COLUMNS: usize = 240;
/// Conversations of which both ends are told.
pub const CONVERSATIONS: usize = 50;

/// What a report is made of.
pub struct Asked {
    /// What makes flows one row, one table each.
    pub by: Vec<By>,
    /// Rows of each.
    pub top: usize,
    /// Intervals that begin earlier are left out, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Those that begin then or later, too.
    pub until: Option<i64>,
    /// Whether flows are left out.
    pub filtered: bool,
    /// Which flows are not.
    pub wanted: Box<dyn Fn(&Flow) -> bool>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { by, top, since, until, filtered, wanted: _ } = self;
        let mut shown = f.debug_struct("Asked");
        shown.field("by", by).field("top", top).field("since", since).field("until", until);
        shown.field("filtered", filtered).finish_non_exhaustive()
    }
}

impl Asked {
    /// Whether an interval that begins then counts.
    #[must_use]
    pub fn has(&self, start: i64) -> bool {
        self.since.is_none_or(|since| start >= since)
            && self.until.is_none_or(|until| start < until)
    }

    /// A snapshot with the flows alone that are asked for, as live filters leave it; none where all are. What it sums
    /// up cannot be asked whose it is.
    pub(crate) fn narrowed(&self, snapshot: &Snapshot) -> Option<Snapshot> {
        self.filtered.then(|| {
            let mut narrowed = Snapshot { filtered: true, ..snapshot.clone() };
            narrowed.flows.retain(|flow| (self.wanted)(flow));
            narrowed.other.metrics.clear();
            narrowed.other.counts.clear();
            narrowed
        })
    }
}

/// Where an interval is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Number of the pair of files, in the order in which they are read.
    pub pair: usize,
}
