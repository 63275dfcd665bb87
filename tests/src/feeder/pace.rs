//! How fast samples are fed: slowly enough that all of them find room, or at a rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Feed;
use crate::machine;

/// Between two turns of a rate: several of the samples that are due then make one call of the kernel.
const PAUSE: Duration = Duration::from_micros(500);
/// What is late is made up for at the rate times this. Whoever stood still may have left its reader still, too.
const CATCHING_UP: f64 = 1.5;

/// What was fed at a rate.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    /// Samples, whether or not they found room.
    pub samples: u64,
    /// Those that found room.
    pub found_room: u64,
    /// How long that took.
    pub took: Duration,
}

impl Fed {
    /// Samples in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.samples as f64 / self.took.as_secs_f64()
    }
}

impl Feed {
    /// Feeds in parts of which a ring holds many; returns how many found room.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn slowly(&self, samples: u64) -> Result<u64> {
        const PART: u64 = 1_280;
        // An emulated processor takes many times as long to read a part, and less of that to feed one.
        let pause = Duration::from_millis(machine::amount(5, 50));
        let (mut left, mut found_room) = (samples, 0);
        while left > 0 {
            let now = left.min(PART);
            found_room += self.samples(now)?;
            left -= now;
            thread::sleep(pause);
        }
        Ok(found_room)
    }

    /// Feeds whole records at a rate, until as many samples were fed as that makes in so many seconds.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn steadily(&self, per_second: u64, seconds: u64) -> Result<Fed> {
        let whole = |samples: u64| samples / self.per_record * self.per_record;
        let samples = whole(per_second * seconds);
        let began = Instant::now();
        let (mut fed, mut found_room) = (0, 0);
        while fed < samples {
            let turn = Instant::now();
            let due = (began.elapsed().as_secs_f64() * per_second as f64) as u64;
            // After a turn that came late, all that is due would be more than the ring has room for.
            let now = whole(due.min(samples).saturating_sub(fed).min(self.at_once));
            found_room += self.samples(now)?;
            fed += now;
            let pause = Duration::from_secs_f64(now as f64 / (per_second as f64 * CATCHING_UP));
            thread::sleep(pause.saturating_sub(turn.elapsed()).max(PAUSE));
        }
        Ok(Fed { samples, found_room, took: began.elapsed() })
    }
}
