//! The clocks of the kernel and its programs.

use rustix::time::{ClockId, clock_getres, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of events.
#[must_use]
pub fn monotonic_ns() -> u64 {
    now_ns(ClockId::Monotonic)
}

/// `CLOCK_BOOTTIME` in nanoseconds, the clock of processes, which counts while the machine sleeps.
#[must_use]
pub fn boot_ns() -> u64 {
    now_ns(ClockId::Boottime)
}

fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Microseconds that the kernel takes a tick for when it tells of times that it counts in ticks
/// (`USEC_PER_SEC / HZ`).
///
/// The resolution of a coarse clock is a tick (`posix_get_coarse_res`, kernel/time/posix-timers.c),
/// rounded to nanoseconds, so `HZ` is exact.
#[must_use]
pub fn tick_us() -> u64 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    tick_us_of(tick.tv_sec.unsigned_abs() * 1_000_000_000 + tick.tv_nsec.unsigned_abs())
}

/// 0 when that is no tick.
const fn tick_us_of(tick_ns: u64) -> u64 {
    match tick_ns {
        100_000..=100_000_000 => 1_000_000 / ((1_000_000_000 + tick_ns / 2) / tick_ns),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TICK_NSEC` is `(NSEC_PER_SEC + HZ / 2) / HZ` (include/vdso/jiffies.h).
    #[test]
    fn ticks_of_all_rates() {
        for hz in [100, 250, 300, 1_000, 1_024, 1_200] {
            let tick_ns = (1_000_000_000 + hz / 2) / hz;
            assert_eq!(tick_us_of(tick_ns), 1_000_000 / hz, "HZ={hz}");
        }
        assert_eq!((tick_us_of(0), tick_us_of(1)), (0, 0), "high-resolution");
    }
}
