//! What a link does to packets, one way: a pure plan of when each arrives, if it does.

use std::time::Duration;

use crate::random::Random;

/// A rate, and the queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second, headers of IP and above included.
    pub bytes_per_second: u64,
    /// Bytes that wait at most; a packet that finds no room is lost.
    pub queue: u64,
}

/// More delay at times: from each multiple of `every` on, for `lasts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    /// From one beginning to the next.
    pub every: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What a packet takes longer meanwhile.
    pub extra: Duration,
}

/// One way of a link. The default takes no time and loses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    delay: Duration,
    jitter: Duration,
    /// Packets in a million.
    loss: u64,
    /// Packets that are lost in a row.
    burst: u64,
    /// Packets in a million that are late, and by how much.
    late: (u64, Duration),
    rate: Option<Rate>,
    largest: Option<usize>,
    spell: Option<Spell>,
}

impl Way {
    /// One that takes so long.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, burst: 1, ..Self::default() }
    }

    /// Takes up to `jitter` longer; packets stay in order.
    #[must_use]
    pub const fn jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// Loses packets at random, so many in a million.
    #[must_use]
    pub const fn loss(self, per_million: u64) -> Self {
        Self { loss: per_million, ..self }
    }

    /// Loses so many in a row each time, at the same share in all.
    #[must_use]
    pub const fn burst(self, packets: u64) -> Self {
        Self { burst: packets, ..self }
    }

    /// Lets so many in a million arrive later by this, behind those that left after them.
    #[must_use]
    pub const fn late(self, per_million: u64, by: Duration) -> Self {
        Self { late: (per_million, by), ..self }
    }

    /// Carries no more than this, behind a queue.
    #[must_use]
    pub const fn rate(self, rate: Rate) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Loses packets of more bytes, and tells nobody.
    #[must_use]
    pub const fn largest(self, bytes: usize) -> Self {
        Self { largest: Some(bytes), ..self }
    }

    /// Takes longer at times.
    #[must_use]
    pub const fn spell(self, spell: Spell) -> Self {
        Self { spell: Some(spell), ..self }
    }
}

/// Packets of one way so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// That came to the link.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// That the link lost at random.
    pub lost: u64,
    /// That found no room in its queue.
    pub overflowed: u64,
    /// That were too large for it.
    pub too_large: u64,
    /// That arrived behind later ones.
    pub late: u64,
    /// The longest that one waited in the queue.
    pub longest_wait: Duration,
}

/// Says of each packet when it arrives. Times are since the link was laid.
#[derive(Debug)]
pub struct Schedule {
    way: Way,
    random: Random,
    /// When the queue is empty.
    free: Duration,
    /// When the last one arrives that kept its place.
    last: Duration,
    /// Still to be lost in this row.
    losing: u64,
    carried: Carried,
}

impl Schedule {
    /// For one way.
    #[must_use]
    pub const fn new(way: Way, random: Random) -> Self {
        let carried = Carried {
            packets: 0,
            bytes: 0,
            lost: 0,
            overflowed: 0,
            too_large: 0,
            late: 0,
            longest_wait: Duration::ZERO,
        };
        let (free, last) = (Duration::ZERO, Duration::ZERO);
        Self { way, random, free, last, losing: 0, carried }
    }

    /// What came of all so far.
    #[must_use]
    pub const fn carried(&self) -> Carried {
        self.carried
    }

    /// When a packet of so many bytes that is sent `now` arrives; `None` when it is lost.
    pub fn arrival(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        self.carried.packets += 1;
        self.carried.bytes += bytes as u64;
        if self.way.largest.is_some_and(|largest| bytes > largest) {
            self.carried.too_large += 1;
            return None;
        }
        let leaves = self.leaves(now, bytes as u64)?;
        if self.is_lost() {
            self.carried.lost += 1;
            return None;
        }
        let jitter = self.way.jitter.as_nanos() as u64;
        let jitter = Duration::from_nanos(self.random.below(jitter.max(1)));
        let extra = self.way.spell.filter(|spell| {
            let into = leaves.as_nanos() % spell.every.as_nanos().max(1);
            into < spell.lasts.as_nanos()
        });
        let delay = self.way.delay + jitter + extra.map_or(Duration::ZERO, |spell| spell.extra);
        let (late, by) = self.way.late;
        if self.random.below(1_000_000) < late {
            self.carried.late += 1;
            return Some(self.last.max(leaves + delay) + by);
        }
        self.last = self.last.max(leaves + delay);
        Some(self.last)
    }

    /// When it has passed the queue.
    fn leaves(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let Some(rate) = self.way.rate else { return Some(now) };
        let takes = |bytes: u64| {
            Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.bytes_per_second)
        };
        let wait = self.free.saturating_sub(now);
        if wait + takes(bytes) > takes(rate.queue) {
            self.carried.overflowed += 1;
            return None;
        }
        self.carried.longest_wait = self.carried.longest_wait.max(wait);
        self.free = now + wait + takes(bytes);
        Some(self.free)
    }

    fn is_lost(&mut self) -> bool {
        if self.losing == 0 {
            let burst = self.way.burst.max(1);
            if self.random.below(1_000_000 * burst) >= self.way.loss {
                return false;
            }
            self.losing = burst;
        }
        self.losing -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn schedule(way: Way) -> Schedule {
        Schedule::new(way, Random::of(7))
    }

    #[test]
    fn jitter_keeps_the_order() {
        let mut link = schedule(Way::delayed(10 * MS).jitter(5 * MS));
        let mut before = Duration::ZERO;
        for number in 0..1000 {
            let now = MS * number;
            let at = link.arrival(now, 100).expect("nothing is lost");
            assert!(at >= before && at >= now + 10 * MS && at <= before.max(now + 15 * MS));
            before = at;
        }
    }

    #[test]
    fn losses_are_as_many_as_asked_for_in_rows_too() {
        for burst in [1, 5] {
            let mut link = schedule(Way::delayed(MS).loss(50_000).burst(burst));
            let lost = (0..100_000).filter(|_| link.arrival(MS, 100).is_none()).count();
            assert!((4_000..=6_000).contains(&lost), "{lost} in rows of {burst}");
            assert_eq!(link.carried().lost, lost as u64);
        }
    }

    #[test]
    fn a_queue_delays_and_overflows() {
        let rate = Rate { bytes_per_second: 1_000_000, queue: 10_000 };
        let mut link = schedule(Way::delayed(MS).rate(rate));
        let arrivals: Vec<_> = (0..12).map(|_| link.arrival(MS, 1000)).collect();
        assert_eq!(arrivals[0], Some(3 * MS));
        assert_eq!(arrivals[9], Some(12 * MS));
        assert_eq!(arrivals[10..], [None, None]);
        let carried = link.carried();
        assert_eq!((carried.overflowed, carried.longest_wait), (2, 9 * MS));
        // It has emptied meanwhile.
        assert_eq!(link.arrival(100 * MS, 1000), Some(102 * MS));
    }

    #[test]
    fn a_late_packet_lets_others_pass() {
        let mut link = schedule(Way::delayed(MS).late(1_000_000, 5 * MS));
        assert_eq!(link.arrival(MS, 100), Some(7 * MS));
        link.way.late.0 = 0;
        assert_eq!(link.arrival(MS, 100), Some(2 * MS));
    }

    #[test]
    fn what_is_too_large_is_lost_and_spells_come_and_go() {
        let spell = Spell { every: 100 * MS, lasts: 10 * MS, extra: 30 * MS };
        let mut link = schedule(Way::delayed(MS).largest(1400).spell(spell));
        assert_eq!(link.arrival(MS, 1401), None);
        assert_eq!(link.arrival(50 * MS, 1400), Some(51 * MS));
        assert_eq!(link.arrival(105 * MS, 1400), Some(136 * MS));
        assert_eq!(link.arrival(150 * MS, 1400), Some(151 * MS));
    }
}
