//! What connection tracking counts (`struct ip_conntrack_stat`,
//! `include/linux/netfilter/nf_conntrack_common.h`): 32 bits per processor, which wrap.

/// A counter, by its name in `conntrack -S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Tuples that were found in the table when one was wanted that is free.
    Found,
    /// Packets that are part of no connection and cannot begin one.
    Invalid,
    /// Entries put in by programs.
    Insert,
    /// Entries that could not be put in; their packets were dropped.
    InsertFailed,
    /// Packets dropped: the table was full, or (most of [`Self::InsertFailed`]) the entry could not be
    /// put in.
    Drop,
    /// Entries thrown out before their time to make room.
    EarlyDrop,
    /// Packets on which tracking failed, as damaged ones.
    Error,
    /// Lookups begun again because the table changed.
    SearchRestart,
    /// Clashes of two packets for one new entry that were settled without a loss.
    ClashResolve,
    /// Entries that could not be put in because their hash chain was too long.
    ChainTooLong,
}

/// How many there are.
const COUNTERS: usize = Counter::ALL.len();

impl Counter {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Found,
        Self::Invalid,
        Self::Insert,
        Self::InsertFailed,
        Self::Drop,
        Self::EarlyDrop,
        Self::Error,
        Self::SearchRestart,
        Self::ClashResolve,
        Self::ChainTooLong,
    ];

    /// Name in `conntrack -S`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Invalid => "invalid",
            Self::Insert => "insert",
            Self::InsertFailed => "insert_failed",
            Self::Drop => "drop",
            Self::EarlyDrop => "early_drop",
            Self::Error => "error",
            Self::SearchRestart => "search_restart",
            Self::ClashResolve => "clash_resolve",
            Self::ChainTooLong => "chaintoolong",
        }
    }
}

/// What the processors counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Which counters this kernel has.
    known: [bool; COUNTERS],
    /// Row by processor. Rows of zeros at the end are left out: most namespaces track nothing.
    rows: Vec<Row>,
}

/// Those of one processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row([u32; COUNTERS]);

impl FromIterator<(Counter, u32)> for Row {
    fn from_iter<I: IntoIterator<Item = (Counter, u32)>>(counters: I) -> Self {
        let mut row = Self::default();
        for (counter, value) in counters {
            row.0[counter as usize] = value;
        }
        row
    }
}

impl Statistics {
    /// Those of which these are known.
    pub(super) fn new(
        known: impl IntoIterator<Item = Counter>,
        rows: impl IntoIterator<Item = Row>,
    ) -> Self {
        let mut statistics = Self { rows: rows.into_iter().collect(), ..Self::default() };
        for counter in known {
            statistics.known[counter as usize] = true;
        }
        let used = statistics.rows.iter().rposition(|row| *row != Row::default());
        statistics.rows.truncate(used.map_or(0, |last| last + 1));
        statistics
    }

    /// Whether nothing was ever counted.
    #[must_use]
    pub fn are_zero(&self) -> bool {
        self.rows.is_empty()
    }

    /// The sums.
    #[must_use]
    pub fn sums(&self) -> Counts {
        self.since(None)
    }

    /// What was counted since an earlier reading. Of a namespace that is new everything was, and so of
    /// one of which a counter fell: it is another one with the same number.
    #[must_use]
    pub fn since(&self, then: Option<&Self>) -> Counts {
        let then = then.filter(|then| !self.fell_since(then));
        let mut counts = Counts::default();
        for counter in Counter::ALL {
            let was_known = then.is_none_or(|then| then.known[counter as usize]);
            if self.known[counter as usize] && was_known {
                let rises = self.rises(then, counter);
                counts.0[counter as usize] = Some(rises.map(u64::from).sum());
            }
        }
        counts
    }

    /// By how much a counter rose, processor by processor.
    fn rises(&self, then: Option<&Self>, counter: Counter) -> impl Iterator<Item = u32> {
        let of = move |statistics: &Self, cpu| {
            statistics.rows.get(cpu).map_or(0, |row: &Row| row.0[counter as usize])
        };
        let cpus = self.rows.len().max(then.map_or(0, |then| then.rows.len()));
        (0..cpus).map(move |cpu| {
            let before = then.map_or(0, |then| of(then, cpu));
            of(self, cpu).wrapping_sub(before)
        })
    }

    /// Half of the range forward is too much for one interval, so it was a step back.
    fn fell_since(&self, then: &Self) -> bool {
        Counter::ALL
            .into_iter()
            .any(|counter| self.rises(Some(then), counter).any(|rise| rise > u32::MAX / 2))
    }
}

/// Sums over the processors, none of what this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([Option<u64>; COUNTERS]);

impl Counts {
    /// All known and zero.
    pub const ZERO: Self = Self([Some(0); COUNTERS]);

    /// One of them.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> Option<u64> {
        self.0[counter as usize]
    }

    /// Sums of two; unknown where one is.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (one, other) in sum.0.iter_mut().zip(other.0) {
            *one = one.zip(other).map(|(one, other)| one.saturating_add(other));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [Counter; 2] = [Counter::Drop, Counter::Invalid];

    /// From the drops of each processor.
    fn drops(cpus: &[u32]) -> Statistics {
        Statistics::new(KNOWN, cpus.iter().map(|drops| Row::from_iter([(Counter::Drop, *drops)])))
    }

    #[test]
    fn the_order_is_that_of_the_list() {
        for (at, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, at, "{counter:?}");
        }
    }

    #[test]
    fn rises() {
        type Case = (&'static str, Option<&'static [u32]>, &'static [u32], u64);
        let cases: &[Case] = &[
            ("new", None, &[3, 4], 7),
            ("plain", Some(&[3, 4]), &[3, 9], 5),
            ("a processor that had counted nothing", Some(&[3]), &[3, 0, 2], 2),
            ("one wraps", Some(&[u32::MAX - 1, 4]), &[2, 4], 4),
            ("another namespace", Some(&[9, 4]), &[2, 8], 10),
            ("another one that tracks nothing", Some(&[9, 4]), &[], 0),
        ];
        for (case, then, now, expected) in cases {
            let then = then.map(drops);
            let counts = drops(now).since(then.as_ref());
            assert_eq!(counts.get(Counter::Drop), Some(*expected), "{case}");
            assert_eq!(counts.get(Counter::Invalid), Some(0), "{case}");
            assert_eq!(counts.get(Counter::ChainTooLong), None, "{case}");
        }
    }

    #[test]
    fn what_was_never_counted_takes_no_room() {
        assert!(drops(&[0, 0, 0]).are_zero());
        assert_eq!(drops(&[0, 1, 0, 0]).rows.len(), 2);
    }

    proptest! {
        #[test]
        fn rises_add_up(steps in proptest::collection::vec((0usize..4, 0u32..1 << 31), 1..40)) {
            let (mut cpus, mut before, mut sum) = ([0; 4], drops(&[0; 4]), Counts::ZERO);
            for (cpu, step) in &steps {
                cpus[*cpu] = u32::wrapping_add(cpus[*cpu], *step);
                let now = drops(&cpus);
                sum = sum.plus(&now.since(Some(&before)));
                before = now;
            }
            let expected: u64 = steps.iter().map(|(_, step)| u64::from(*step)).sum();
            prop_assert_eq!(sum.get(Counter::Drop), Some(expected));
            prop_assert_eq!(sum.get(Counter::Found), None);
        }
    }
}
