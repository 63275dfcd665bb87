//! The same read in every network namespace, one interval apart.

use std::{collections::BTreeMap, io};

use super::netns::{self, Namespace};

/// Namespaces that are remembered although they were not found again.
const REMEMBERED: usize = 4096;

/// What several namespaces said at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// By inode number of the namespace.
    pub namespaces: BTreeMap<u32, T>,
    /// Namespaces that were there and could not be read, with why not in one line.
    pub unread: BTreeMap<u32, String>,
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self { namespaces: BTreeMap::new(), unread: BTreeMap::new() }
    }
}

impl<T> Reading<T> {
    /// Takes over a later reading. A namespace that was not found this time keeps its numbers: it
    /// may be found again, and is not new then.
    pub fn follow(&mut self, later: Self) {
        let mut before = std::mem::replace(self, later);
        before.namespaces.retain(|inode, _| !self.namespaces.contains_key(inode));
        let room = REMEMBERED.saturating_sub(self.namespaces.len());
        self.namespaces.extend(before.namespaces.into_iter().take(room));
    }

    /// Why namespaces could not be read, of those that could not be read the time before either: one that
    /// is on its way out is no problem.
    pub fn lasting_problems(&self, before: &Self) -> BTreeMap<u32, String> {
        let unread = self.unread.iter().filter(|(inode, _)| before.unread.contains_key(inode));
        unread.map(|(inode, problem)| (*inode, problem.clone())).collect()
    }

    /// What happened from an earlier reading to this one, by what `rise` makes of a namespace before
    /// and after.
    ///
    /// A namespace that is only in this reading is new, unless the earlier one failed on it, and then
    /// it is left out, as nothing is known; one that was read before that has its growth since. A namespace that is gone is left out: what it counted last
    /// was not read.
    pub fn since<'a, R>(
        &'a self,
        before: &Self,
        mut rise: impl FnMut(Option<&T>, &'a T) -> R,
    ) -> BTreeMap<u32, R> {
        self.namespaces
            .iter()
            .filter(|(inode, _)| {
                !before.unread.contains_key(inode) || before.namespaces.contains_key(inode)
            })
            .map(|(inode, now)| (*inode, rise(before.namespaces.get(inode), now)))
            .collect()
    }
}

/// Reads all these namespaces, one after the other. A namespace that has none of it says so by nothing. `what` is
/// read, in words.
pub fn read_all<T: Send>(
    namespaces: &[Namespace],
    what: &str,
    mut read: impl FnMut() -> io::Result<Option<T>> + Send,
) -> Reading<T> {
    collect(namespaces, what, netns::enter_all(namespaces, |_| read()))
}

/// What namespaces answered, in their order.
pub(super) fn collect<T>(
    namespaces: &[Namespace],
    what: &str,
    answers: impl IntoIterator<Item = Result<io::Result<Option<T>>, String>>,
) -> Reading<T> {
    let mut reading = Reading::default();
    for (namespace, answer) in namespaces.iter().zip(answers) {
        let answer = answer.and_then(|read| {
            read.map_err(|error| {
                format!("cannot read the {what} of {}: {error}", namespace.describe())
            })
        });
        match answer {
            Ok(None) => {}
            Ok(Some(said)) => {
                reading.namespaces.insert(namespace.inode, said);
            }
            Err(problem) => {
                let problem = format!("{problem}: its {what} are missing in this interval");
                reading.unread.insert(namespace.inode, problem);
            }
        }
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_failed_loses_nothing_and_is_told_when_it_lasts() {
        let reading = |read: &[(u32, u64)], unread: &[u32]| Reading {
            namespaces: read.iter().copied().collect(),
            unread: unread.iter().map(|inode| (*inode, format!("{inode} is shut"))).collect(),
        };
        let rise = |then: Option<&u64>, now: &u64| now - then.unwrap_or(&0);
        let mut last = reading(&[(1, 5)], &[2]);
        let failed = reading(&[], &[1, 2]);
        assert_eq!(failed.since(&last, rise), BTreeMap::new());
        assert_eq!(failed.lasting_problems(&last), [(2, "2 is shut".to_owned())].into());
        last.follow(failed);
        let now = reading(&[(1, 9), (2, 7)], &[]);
        // Nobody knows what 2 counted before.
        assert_eq!(now.since(&last, rise), BTreeMap::from([(1, 4)]));
        assert_eq!(now.lasting_problems(&last), BTreeMap::new());
    }
}
