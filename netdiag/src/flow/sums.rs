//! What a flow counted and measured: made for flows with few samples, of which there may be a hundred thousand.
//!
//! A latency with few samples has one word for each bucket that has any; those of all metrics stand in one list. What
//! does not go into that has a histogram of its own ([`Latency`]); the sum of both counts.

use smallvec::SmallVec;

use super::{
    counts::Counts,
    latency::{self, Latency},
    packed::{Bytes, Packed, get, get_counts, packed, put, put_counts},
    tally::{Tally, merge_latencies},
};
use crate::signal::{CountId, Label, METRICS, MetricId};

/// Words of the list at most.
const MOST: usize = 256;

/// Samples in a bucket: metric, bucket and number, from the highest bits to the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u32);

const NUMBER_BITS: u32 = 15;
const BUCKET_BITS: u32 = 13;
const METRIC_BITS: u32 = u32::BITS - BUCKET_BITS - NUMBER_BITS;
const MOST_OF_ONE: u64 = (1 << NUMBER_BITS) - 1;
const _: () = assert!(latency::BUCKETS <= 1 << BUCKET_BITS && METRICS <= 1 << METRIC_BITS);

/// Metric and bucket.
const fn place(metric: MetricId, bucket: u16) -> u32 {
    (metric.0 as u32) << BUCKET_BITS | bucket as u32
}

impl Word {
    const fn place(self) -> u32 {
        self.0 >> NUMBER_BITS
    }

    const fn metric(self) -> MetricId {
        MetricId((self.place() >> BUCKET_BITS) as u16)
    }

    const fn bucket(self) -> u16 {
        (self.place() & ((1 << BUCKET_BITS) - 1)) as u16
    }

    const fn number(self) -> u64 {
        self.0 as u64 & MOST_OF_ONE
    }
}

/// Latencies and counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    counts: Counts,
    /// By ascending place.
    few: SmallVec<[Word; 8]>,
    /// Latencies that do not go into the list, and labelled counts.
    more: Option<Box<Tally>>,
}

impl Sums {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.few.is_empty() && self.more.is_none()
    }

    #[inline]
    pub(super) fn latency(&mut self, metric: MetricId, nanoseconds: u64) {
        match latency::bucket(nanoseconds) {
            Some(bucket) => self.add(metric, bucket, 1),
            None => self.more().latency(metric, nanoseconds),
        }
    }

    #[inline]
    pub(super) fn count(&mut self, count: CountId, n: u64) {
        self.counts.add(count, n);
    }

    pub(super) fn labelled(&mut self, count: CountId, label: Label, n: u64) {
        self.more().labelled(count, label, n);
    }

    fn more(&mut self) -> &mut Tally {
        self.more.get_or_insert_default()
    }

    /// Adds samples to a bucket.
    #[inline]
    fn add(&mut self, metric: MetricId, bucket: u16, n: u64) {
        if let Some(more) = &mut self.more
            && let Ok(at) = more.latencies.binary_search_by_key(&metric, |entry| entry.0)
        {
            return more.latencies[at].1.add(bucket, n);
        }
        let place = place(metric, bucket);
        match self.few.binary_search_by_key(&place, |word| word.place()) {
            Ok(at) if self.few[at].number() + n <= MOST_OF_ONE => self.few[at].0 += n as u32,
            Err(at) if self.few.len() < MOST && n <= MOST_OF_ONE => {
                if self.few.len() == self.few.capacity() {
                    // Doubling would waste a third of what short flows take.
                    self.few.reserve_exact((self.few.len() / 4).max(4));
                }
                self.few.insert(at, Word(place << NUMBER_BITS | n as u32));
            }
            _ => {
                self.outgrow(metric);
                self.more().merge_bucket(metric, bucket, n);
            }
        }
    }

    /// A metric has a histogram of its own from now on.
    #[cold]
    fn outgrow(&mut self, metric: MetricId) {
        let mut own = Latency::default();
        self.few.retain(|word| {
            if word.metric() == metric {
                own.add(word.bucket(), word.number());
            }
            word.metric() != metric
        });
        merge_latencies(&mut self.more().latencies, &[(metric, own)]);
    }

    /// Adds all of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, n) in other.counts.iter() {
            self.count(count, n);
        }
        for word in &other.few {
            self.add(word.metric(), word.bucket(), word.number());
        }
        if let Some(more) = &other.more {
            self.more().merge(more);
        }
    }

    /// As what leaves the table has it.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally { counts: self.counts.iter().collect(), ..Tally::default() };
        for words in self.few.chunk_by(|one, next| one.metric() == next.metric()) {
            let mut latency = Latency::default();
            words.iter().for_each(|word| latency.add(word.bucket(), word.number()));
            tally.latencies.push((words[0].metric(), latency));
        }
        if let Some(more) = &self.more {
            tally.merge(more);
        }
        tally
    }
}

/// What a flow counted until it was frozen last: added to once an interval, and read when it goes. So it is packed, into
/// about three bytes for a number.
#[derive(Debug, Default)]
pub(super) struct Past {
    bytes: Packed,
    more: Option<Box<Tally>>,
}

impl Past {
    /// Adds what came since.
    pub(super) fn add(&mut self, fresh: &Sums) {
        if fresh.is_empty() {
            return;
        }
        if self.bytes.is_none() && self.more.is_none() {
            // The first interval, and of most flows the only one.
            *self = Self { bytes: pack(fresh), more: fresh.more.clone() };
            return;
        }
        let mut sums = std::mem::take(self).into_sums();
        sums.merge(fresh);
        *self = Self { bytes: pack(&sums), more: sums.more };
    }

    /// All of it.
    pub(super) fn sums(&self) -> Sums {
        Sums { more: self.more.clone(), ..self.unpacked() }
    }

    fn into_sums(mut self) -> Sums {
        Sums { more: self.more.take(), ..self.unpacked() }
    }

    fn unpacked(&self) -> Sums {
        let Some(mut bytes) = self.bytes.as_deref() else { return Sums::default() };
        let mut sums = Sums { counts: get_counts(&mut bytes), ..Sums::default() };
        let mut place = 0;
        while !bytes.is_empty() {
            place += get(&mut bytes) as u32;
            sums.few.push(Word(place << NUMBER_BITS | get(&mut bytes) as u32));
        }
        sums
    }
}

/// All but what has a histogram or labels; none where there is nothing else.
fn pack(sums: &Sums) -> Packed {
    let Sums { counts, few, more: _ } = sums;
    if counts.is_empty() && few.is_empty() {
        return None;
    }
    let mut bytes = Bytes::new();
    put_counts(&mut bytes, counts);
    let mut last = 0;
    for word in few {
        put(&mut bytes, (word.place() - last).into());
        put(&mut bytes, word.number());
        last = word.place();
    }
    packed(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::signal::COUNTS;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Latency(u16, u64),
        Count(u16, u64),
        Labelled(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let latency = prop_oneof![0..1_000_u64, any::<u64>(), 1_000_000..2_000_000_u64];
        prop_oneof![
            20 => (0..METRICS as u16, latency).prop_map(|(metric, ns)| Step::Latency(metric, ns)),
            5 => (0..COUNTS as u16, any::<u32>()).prop_map(|(id, n)| Step::Count(id, n.into())),
            1 => (0..4_u16).prop_map(Step::Labelled),
        ]
    }

    /// What is compared of one: buckets and what was out of range of each metric, counts, and how many labelled ones.
    type Told = (Vec<(MetricId, Vec<(u64, u64)>, u64)>, Vec<(CountId, u64)>, usize);

    fn told(tally: &Tally) -> Told {
        let latencies = tally.latencies.iter().map(|(metric, latency)| {
            (*metric, latency.buckets().collect(), latency.out_of_range())
        });
        (latencies.collect(), tally.counts.clone(), tally.labelled.len())
    }

    fn take(step: Step, sums: &mut Sums, model: &mut Tally) {
        match step {
            Step::Latency(metric, ns) => {
                sums.latency(MetricId(metric), ns);
                model.latency(MetricId(metric), ns);
            }
            Step::Count(id, n) => {
                sums.count(CountId(id), n);
                model.count(CountId(id), n);
            }
            Step::Labelled(id) => {
                sums.labelled(CountId(id), Label::GivenUp, 1);
                model.labelled(CountId(id), Label::GivenUp, 1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// In parts, packed and merged, or all at once: the same.
        #[test]
        fn add_up_as_plain_lists_do(parts in vec(vec(step(), 0..300), 0..5)) {
            let (mut past, mut model, mut all) = (Past::default(), Tally::default(), Sums::default());
            for part in parts {
                let mut fresh = Sums::default();
                for step in part {
                    take(step, &mut fresh, &mut model);
                }
                past.add(&fresh);
                all.merge(&fresh);
                prop_assert_eq!(told(&past.sums().tally()), told(&model));
            }
            prop_assert_eq!(told(&all.tally()), told(&model));
        }
    }

    #[test]
    fn many_samples_of_one_value_outgrow_a_word() {
        let (mut sums, metric) = (Sums::default(), MetricId(1));
        for _ in 0..3 * MOST_OF_ONE {
            sums.latency(metric, 5_000);
        }
        let tally = sums.tally();
        assert_eq!(tally.latencies[0].1.count(), 3 * MOST_OF_ONE);
        assert!(sums.few.is_empty());
    }
}
