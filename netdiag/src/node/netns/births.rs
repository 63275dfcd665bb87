//! What shows that there may be network namespaces that were not found yet, so that processes need not be walked through
//! to see that there are none.
//!
//! Each network namespace has a loopback device of its own, and the kernel counts one uevent at least as that is made
//! (`loopback_net_init`, drivers/net/loopback.c; `netdev_register_kobject`, net/core/net-sysfs.c), whoever may hear it:
//! the count is one for all namespaces (`kobject_uevent_env`, lib/kobject_uevent.c). It rises with whatever else comes
//! and goes as well, so it only ever says that nothing was made.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

/// Uevents so far (`uevent_seqnum_show`, kernel/ksysfs.c).
const COUNT: &str = "/sys/kernel/uevent_seqnum";

/// A namespace is made before anybody can be found in it, and before it has a mount: for so long after an uevent it is
/// looked for each time.
const SETTLES: Duration = Duration::from_secs(10);

/// So long at most nobody looks: a process may enter a namespace that is older than that and was not found before.
const UNSEEN: Duration = Duration::from_secs(10);

/// Follows that count.
#[derive(Debug, Default)]
pub(super) struct Births {
    /// Open for as long as it can be read.
    file: Option<File>,
    signs: Signs,
}

impl Births {
    /// Whether there may be namespaces now that were not found by the last walk. It is to be asked before a walk, which is
    /// begun if so.
    pub(super) fn may_be(&mut self) -> bool {
        let count = self.count();
        self.signs.take(count, Instant::now())
    }

    /// Whether one may have been made since then.
    pub(super) fn since(&self, then: Instant) -> bool {
        self.signs.since(then)
    }

    fn count(&mut self) -> Option<u64> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(COUNT).ok()?,
        };
        let mut text = [0; 24];
        let length = file.read_at(&mut text, 0).ok()?;
        self.file = Some(file);
        std::str::from_utf8(&text[..length]).ok()?.trim_end().parse().ok()
    }
}

/// What was told of that count. Pure: the time is handed in.
#[derive(Debug, Default)]
struct Signs {
    count: Option<u64>,
    rose: Option<Instant>,
    looked: Option<Instant>,
}

impl Signs {
    /// Whether to look, by the count at this time. Without one there may always be others.
    fn take(&mut self, count: Option<u64>, now: Instant) -> bool {
        if count.is_none() || count != self.count {
            self.rose = Some(now);
        }
        self.count = count;
        let within = |then: Option<Instant>, time| {
            then.is_some_and(|then| now.saturating_duration_since(then) < time)
        };
        let is_due = within(self.rose, SETTLES) || !within(self.looked, UNSEEN);
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }

    /// Whether it rose after that, or so shortly before that what was made was perhaps not to be found.
    fn since(&self, then: Instant) -> bool {
        self.rose.is_some_and(|rose| rose + SETTLES >= then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_as_long_as_one_may_be_on_its_way_and_now_and_then() {
        let begin = Instant::now();
        let mut signs = Signs::default();
        for (second, count, is_due) in [
            (0, Some(7), true),
            (9, Some(7), true),
            // Ten seconds after the first look nothing is on its way any more.
            (10, Some(7), false),
            (18, Some(7), false),
            (19, Some(7), true),
            (20, Some(7), false),
            (21, Some(8), true),
            (30, Some(8), true),
            (31, Some(8), false),
            (32, None, true),
            (33, None, true),
            // Nobody knows what was made meanwhile.
            (34, Some(8), true),
            (43, Some(8), true),
            (44, Some(8), false),
        ] {
            let now = begin + Duration::from_secs(second);
            assert_eq!(signs.take(count, now), is_due, "{second}");
        }
    }

    #[test]
    fn what_was_made_shortly_before_a_look_may_have_been_missed() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut signs = Signs::default();
        assert!(!signs.since(at(0)));
        signs.take(Some(7), at(20));
        for (then, may_be) in [(0, true), (20, true), (30, true), (31, false)] {
            assert_eq!(signs.since(at(then)), may_be, "{then}");
        }
    }

    /// On every kernel that netdiag runs on.
    #[test]
    fn this_kernel_tells() {
        let mut births = Births::default();
        let first = births.count();
        assert!(first.is_some(), "{COUNT}");
        assert!(births.count() >= first && births.file.is_some());
    }
}
