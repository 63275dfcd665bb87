//! The node's clock, which may be set where a machine is made for a test.

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// A clock that was set by so many seconds; it is set back by as many when this is dropped.
#[derive(Debug)]
#[must_use = "the clock is set back when this is dropped"]
pub struct Shifted(i64);

impl Shifted {
    /// Sets it: forward, or back where there are fewer than none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn by(seconds: i64) -> Result<Self> {
        shift(seconds)?;
        Ok(Self(seconds))
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        if let Err(error) = shift(-self.0) {
            eprintln!("the clock stays {} s off: {error:#}", self.0);
        }
    }
}

fn shift(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec { tv_sec: now.tv_sec + seconds, ..now };
    clock_settime(ClockId::Realtime, then).context("the clock cannot be set")
}
