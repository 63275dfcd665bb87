//! What connection tracking says of itself, per network namespace: how full its table is, and what
//! it counts.
//!
//! Asking loads no module and tracks nothing. Where connection tracking is not there, it is not asked.
//! Its statistics are read from the file that comes with it: netlink would load the module that answers,
//! and that one makes every tracked connection dearer. It is asked only where there is no such file
//! (a kernel without `CONFIG_NF_CONNTRACK_PROCFS`) and nothing would be loaded.

use std::{collections::BTreeMap, io, path::Path};

pub use self::statistics::{Counter, Counts, Statistics};
use super::{
    files::Files,
    netns::Namespace,
    reading::{self, Reading},
};

pub mod dump;
pub mod file;
pub mod listener;
pub mod netlink;
mod statistics;

/// The table of one namespace at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Connections in it.
    pub entries: u64,
    /// How many may be; none where there is no limit, or it is not told.
    pub max: Option<u64>,
    /// What was counted since the namespace was made, or the module loaded.
    pub statistics: Statistics,
}

impl Table {
    /// Whether nothing is tracked, and nothing was ever counted.
    fn is_idle(&self) -> bool {
        self.entries == 0 && self.statistics.are_zero()
    }
}

/// What is told of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Inode number of the namespace.
    pub netns: u32,
    /// Connections in its table at the end.
    pub entries: u64,
    /// How many may be; none where there is no limit, or it is not told.
    pub max: Option<u64>,
    /// By how much its counters rose.
    pub counts: Counts,
}

/// The tables of all namespaces, followed from interval to interval.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    last: Reading<Table>,
    /// Of the whole run, by inode number; those are used again, so it does not grow for ever.
    total: BTreeMap<u32, Tracked>,
    problems: BTreeMap<u32, String>,
}

impl Tables {
    /// What was counted before the run does not count.
    pub fn begin(&mut self, now: Reading<Table>) {
        self.last = now;
    }

    /// Takes over a later reading. Returns the tables in which anything is tracked or was ever counted, with what
    /// they counted since they were read last.
    pub fn advance(&mut self, now: Reading<Table>) -> Vec<Tracked> {
        let rises = now.since(&self.last, |then, now| {
            let then = then.map(|then| &then.statistics);
            (now.statistics.since(then), now)
        });
        let mut told = Vec::new();
        for (netns, (counts, table)) in rises {
            let Table { entries, max, .. } = *table;
            let tracked = Tracked { netns, entries, max, counts };
            if !table.is_idle() {
                told.push(tracked);
            } else if !self.total.contains_key(&netns) {
                continue;
            }
            let total = self.total.entry(netns);
            let total = total.or_insert_with(|| Tracked { counts: Counts::ZERO, ..tracked });
            *total = Tracked { counts: total.counts.plus(&counts), ..tracked };
        }
        self.problems = now.lasting_problems(&self.last);
        self.last.follow(now);
        told
    }

    /// Why namespaces cannot be read, one line each, by inode number.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<u32, String> {
        &self.problems
    }

    /// All of the run. A namespace that is gone is told of as it was read last.
    #[must_use]
    pub fn total(&self) -> Vec<Tracked> {
        self.total.values().copied().collect()
    }
}

/// Reads the tables of all these namespaces, one after the other.
#[must_use]
pub fn read_all(namespaces: &[Namespace]) -> Reading<Table> {
    if !is_there() {
        return Reading::default();
    }
    reading::read_all(namespaces, WHAT, read)
}

/// What is read, in words.
pub(super) const WHAT: &str = "connection tracking";

/// Whether there is connection tracking: in every namespace, or in none.
#[must_use]
pub fn is_there() -> bool {
    Path::new(file::PATH).exists() || sysctl("count").is_some()
}

/// Reads the table of the calling thread's namespace; none where there is no connection tracking. The
/// maximum is one for all namespaces, each of which may hold as many (`nf_conntrack_max`,
/// `net/netfilter/nf_conntrack_core.c`).
///
/// # Errors
/// Those of reading the file, and `InvalidData` when it makes no sense.
pub fn read() -> io::Result<Option<Table>> {
    read_by(&mut Files::once())
}

/// The same by the files of that namespace.
///
/// # Errors
/// As for [`read`].
pub(super) fn read_by(files: &mut Files<'_>) -> io::Result<Option<Table>> {
    let (entries, statistics) = match files.text(file::PATH) {
        Ok(text) => file::parse(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(entries) = sysctl_by(files, "count") else { return Ok(None) };
            // Without statistics the table is told of all the same.
            (entries, netlink::read_unless_it_loads().unwrap_or_default())
        }
        Err(error) => return Err(error),
    };
    let max = sysctl_by(files, "max").filter(|max| *max != 0);
    Ok(Some(Table { entries, max, statistics }))
}

/// `net.netfilter.nf_conntrack_NAME` of the calling thread's namespace: it is not the mount that
/// decides here, but the reader (`net/sysctl_net.c`, `net_ctl_header_lookup`).
fn sysctl(name: &str) -> Option<u64> {
    sysctl_by(&mut Files::once(), name)
}

fn sysctl_by(files: &mut Files<'_>, name: &str) -> Option<u64> {
    let text = files.text(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: u64, rows: &[[u32; 2]]) -> Table {
        let known = [Counter::InsertFailed, Counter::Drop];
        let rows = rows.iter().map(|row| known.into_iter().zip(*row).collect());
        Table { entries, max: Some(100), statistics: Statistics::new(known, rows) }
    }

    fn reading(tables: &[(u32, Table)]) -> Reading<Table> {
        Reading { namespaces: tables.iter().cloned().collect(), ..Reading::default() }
    }

    /// Namespace, entries, not inserted, dropped.
    fn told(tracked: &[Tracked]) -> Vec<(u32, u64, u64, u64)> {
        let count = |one: &Tracked, counter| one.counts.get(counter).expect("known");
        tracked
            .iter()
            .map(|one| {
                let (failed, dropped) = (Counter::InsertFailed, Counter::Drop);
                (one.netns, one.entries, count(one, failed), count(one, dropped))
            })
            .collect()
    }

    #[test]
    fn tables_are_followed() {
        let last = reading(&[(1, table(3, &[[5, 9], [0, 0]])), (2, table(0, &[]))]);
        let mut tables = Tables { last, ..Tables::default() };
        type Step<'a> = (&'a str, Reading<Table>, &'a [(u32, u64, u64, u64)]);
        let steps: &[Step<'_>] = &[
            (
                "what rose since; nothing was ever tracked in 2",
                reading(&[(1, table(4, &[[5, 10], [1, 1]])), (2, table(0, &[]))]),
                &[(1, 4, 1, 2)],
            ),
            (
                "new namespaces count from zero",
                reading(&[(1, table(4, &[[5, 10], [1, 1]])), (3, table(1, &[[0, 7]]))]),
                &[(1, 4, 0, 0), (3, 1, 0, 7)],
            ),
            ("1 was overlooked, 3 is empty", reading(&[(3, table(0, &[[0, 7]]))]), &[(3, 0, 0, 0)]),
            (
                "1 is found again, 3 is another that tracks nothing",
                reading(&[(1, table(2, &[[5, 10], [1, 4]])), (3, table(0, &[]))]),
                &[(1, 2, 0, 3)],
            ),
        ];
        for (step, now, expected) in steps {
            assert_eq!(told(&tables.advance(now.clone())), *expected, "{step}");
        }
        assert_eq!(told(&tables.total()), [(1, 2, 1, 5), (3, 0, 0, 7)]);
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let mut tables = Tables::default();
        tables.last.unread.insert(1, "shut".to_owned());
        assert_eq!(tables.advance(reading(&[(1, table(1, &[[5, 5]]))])), []);
        assert_eq!(told(&tables.advance(reading(&[(1, table(1, &[[5, 6]]))]))), [(1, 1, 0, 1)]);
    }
}
