//! What goes wrong and may go well the next time, as on a node that is short of memory or descriptors: it ends no run,
//! and is said once as long as it lasts.

use std::collections::BTreeSet;

use anyhow::Result;

use super::voice::say;

/// What goes wrong at present.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    told: BTreeSet<&'static str>,
}

impl Trouble {
    /// What came out, if anything did. `consequence` says what becomes of it.
    pub(super) fn past<T>(&mut self, consequence: &'static str, result: Result<T>) -> Option<T> {
        let (value, line) = self.judge(consequence, result);
        line.iter().for_each(|line| say(line));
        value
    }

    fn judge<T>(
        &mut self,
        consequence: &'static str,
        result: Result<T>,
    ) -> (Option<T>, Option<String>) {
        match result {
            Ok(value) => {
                self.told.remove(consequence);
                (Some(value), None)
            }
            Err(error) => {
                let line = self.told.insert(consequence).then(|| {
                    format!("{consequence} ({error:#}); see limits of memory and open files")
                });
                (None, line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_lasts_is_said_once() {
        let mut trouble = Trouble::default();
        let mut said = |result: Result<u8>| trouble.judge("it comes later", result).1.is_some();
        let all =
            [Err(()), Err(()), Ok(1), Err(())].map(|one| said(one.map_err(|()| anyhow!("full"))));
        assert_eq!(all, [true, false, false, true]);
        let (none, line) = trouble.judge::<u8>("another", Err(anyhow!("full")));
        assert_eq!((none, trouble.judge("another", Ok(3)).0), (None, Some(3)));
        assert!(line.is_some_and(|line| line.starts_with("another (full);")));
    }
}
