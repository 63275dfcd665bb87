//! Numbers that differ from run to run, and can be had again.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::machine;

/// Begins with the time, unless `NETDIAG_SEED` says otherwise (SplitMix64).
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    /// Says with what it begins.
    fn default() -> Self {
        let seed = Self::seed();
        eprintln!("NETDIAG_SEED={seed}");
        Self(seed)
    }
}

impl Random {
    /// Begins with this, in silence.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// What to begin with: the time, unless the environment says otherwise.
    #[must_use]
    pub fn seed() -> u64 {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |it| it.as_secs());
        Self::given().unwrap_or_else(clock)
    }

    /// What the environment says to begin with.
    #[must_use]
    pub fn given() -> Option<u64> {
        env::var("NETDIAG_SEED").ok()?.parse().ok()
    }

    /// At least 0 and below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Which of so many.
    pub fn index(&mut self, of: usize) -> usize {
        self.below(of as u64) as usize
    }

    /// Less than that.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.below(1_000) as f64 / 1_000.0)
    }

    /// Over a range of ten times its least, which is longer where everything takes longer.
    pub fn pause(&mut self) -> Duration {
        let least = machine::amount(3_000, 20_000);
        Duration::from_micros(least + self.below(9 * least))
    }
}
