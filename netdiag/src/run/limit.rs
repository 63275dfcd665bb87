//! How many lines a second are told, and what was left out. Pure: the time is handed in.

use std::collections::BTreeMap;

/// Numbers of events by kind.
pub(super) type ByKind = BTreeMap<&'static str, u64>;

const SECOND_NS: u64 = 1_000_000_000;

/// Lets so many lines a second pass. Half of them are for whoever comes first; of the other half each
/// kind has its own part, so that a flood of one kind does not displace the others.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Lines a second, 0 for any number.
    most: u64,
    own: u64,
    shared: u64,
    second_ns: u64,
    passed: ByKind,
    passed_shared: u64,
    left_out: ByKind,
    said_ns: u64,
    total: ByKind,
}

impl Limiter {
    pub(super) fn new(most: u64, kinds: usize) -> Self {
        let own = most / 2 / (kinds as u64).max(1);
        Self {
            most,
            own,
            shared: most - own * kinds as u64,
            second_ns: 0,
            passed: ByKind::new(),
            passed_shared: 0,
            left_out: ByKind::new(),
            said_ns: 0,
            total: ByKind::new(),
        }
    }

    /// Whether a line of this kind may still be told in this second.
    pub(super) fn admits(&mut self, kind: &'static str, now_ns: u64) -> bool {
        if self.most == 0 {
            return true;
        }
        if now_ns.saturating_sub(self.second_ns) >= SECOND_NS {
            self.second_ns = now_ns;
            self.passed.clear();
            self.passed_shared = 0;
        }
        let passed = self.passed.entry(kind).or_default();
        if *passed < self.own {
            *passed += 1;
            return true;
        }
        let room = self.passed_shared < self.shared;
        self.passed_shared += u64::from(room);
        room
    }

    /// Events are not told.
    pub(super) fn leave_out(&mut self, kind: &'static str, events: u64) {
        *self.left_out.entry(kind).or_default() += events;
        *self.total.entry(kind).or_default() += events;
    }

    /// What was left out since that was said last, about once a second.
    pub(super) fn due(&self, now_ns: u64) -> Option<&ByKind> {
        let due = now_ns.saturating_sub(self.said_ns) >= SECOND_NS;
        (due && !self.left_out.is_empty()).then_some(&self.left_out)
    }

    /// It was said.
    pub(super) fn said(&mut self, now_ns: u64) {
        self.said_ns = now_ns;
        self.left_out.clear();
    }

    /// What is left to be said, and what was left out in all.
    pub(super) fn end(self) -> (ByKind, ByKind) {
        (self.left_out, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many lines of a kind pass at a time.
    fn passed(limiter: &mut Limiter, kind: &'static str, lines: u64, now_ns: u64) -> u64 {
        let mut passed = 0;
        for _ in 0..lines {
            if limiter.admits(kind, now_ns) {
                passed += 1;
            } else {
                limiter.leave_out(kind, 1);
            }
        }
        passed
    }

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_the_others() {
        let mut limiter = Limiter::new(100, 5);
        assert_eq!(passed(&mut limiter, "drop", 1_000, 5), 60);
        assert_eq!(passed(&mut limiter, "retransmit", 1_000, 6), 10);
        assert_eq!(passed(&mut limiter, "drop", 10, SECOND_NS - 1), 0);
        assert_eq!(passed(&mut limiter, "close", 7, SECOND_NS + 4), 7, "still the first second");
        assert_eq!(passed(&mut limiter, "drop", 1_000, SECOND_NS + 5), 60);
    }

    #[test]
    fn a_small_limit_and_none() {
        let mut limiter = Limiter::new(1, 5);
        assert_eq!(passed(&mut limiter, "drop", 3, 5), 1);
        assert_eq!(passed(&mut limiter, "close", 3, 6), 0);
        assert_eq!(passed(&mut Limiter::new(0, 5), "drop", 1_000_000, 5), 1_000_000);
    }

    #[test]
    fn what_is_left_out_is_said_once_a_second_and_adds_up() {
        let mut limiter = Limiter::new(1, 1);
        limiter.leave_out("drop", 40);
        assert_eq!(limiter.due(SECOND_NS - 1), None);
        assert_eq!(limiter.due(SECOND_NS), Some(&ByKind::from([("drop", 40)])));
        limiter.leave_out("drop", 2);
        assert_eq!(limiter.due(SECOND_NS), Some(&ByKind::from([("drop", 42)])), "not said yet");
        limiter.said(SECOND_NS);
        assert_eq!(limiter.due(9 * SECOND_NS), None);
        limiter.leave_out("close", 1);
        assert_eq!(limiter.due(2 * SECOND_NS - 1), None);
        assert_eq!(limiter.due(2 * SECOND_NS), Some(&ByKind::from([("close", 1)])));
        let total = ByKind::from([("drop", 42), ("close", 1)]);
        assert_eq!(limiter.end(), (ByKind::from([("close", 1)]), total));
    }
}
