//! Where the time of a flow went: its own application, its own kernel, the network, the peer's
//! application.
//!
//! A response is the path there and back, what the path took beyond its best, what was lost and sent
//! again, and the rest: the peer's application. Each part is known by itself, and none is more than what
//! is left of the response.

use super::{PATH, PEER_APPLICATION, QUEUEING, STALLS};
use crate::signal::Fold;

/// Parts of a response, in nanoseconds; they add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The path at its best: the smallest round trip of late.
    pub(super) path_ns: u64,
    /// What the round trip takes beyond that now.
    pub(super) queueing_ns: u64,
    /// From the last byte sent to the last time that some of it was sent again.
    pub(super) stalls_ns: u64,
    /// The peer's application.
    pub(super) peer_ns: u64,
}

impl Parts {
    /// Of a response that took `latency_ns` on a path whose smallest round trip is `rtt_min_ns`. For
    /// `stalled_ns` of it something was lost, and a round trip in it without the peer's delay took
    /// `prompt_ns`, 0 where there was none.
    pub(super) fn of(latency_ns: u64, rtt_min_ns: u64, stalled_ns: u64, prompt_ns: u64) -> Self {
        let mut left = latency_ns;
        let mut take = |most: u64| {
            let taken = most.min(left);
            left -= taken;
            taken
        };
        let path_ns = take(rtt_min_ns);
        let stalls_ns = take(stalled_ns);
        let queueing_ns = take(prompt_ns.saturating_sub(rtt_min_ns));
        Self { path_ns, queueing_ns, stalls_ns, peer_ns: left }
    }

    /// Adds them to what a flow spent.
    pub(super) fn count(self, row: &mut impl Fold) {
        for (count, ns) in [
            (PATH, self.path_ns),
            (QUEUEING, self.queueing_ns),
            (STALLS, self.stalls_ns),
            (PEER_APPLICATION, self.peer_ns),
        ] {
            row.count(count, ns);
        }
    }

    /// The same of several that took `all_ns` together, of which this one took `latency_ns`.
    pub(super) fn scaled(self, latency_ns: u64, all_ns: u64) -> Self {
        let scale = |part: u64| {
            let scaled = u128::from(part) * u128::from(all_ns) / u128::from(latency_ns.max(1));
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let [path_ns, queueing_ns, stalls_ns] =
            [self.path_ns, self.queueing_ns, self.stalls_ns].map(scale);
        let network_ns = path_ns.saturating_add(queueing_ns).saturating_add(stalls_ns);
        Self { path_ns, queueing_ns, stalls_ns, peer_ns: all_ns.saturating_sub(network_ns) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(latency_ns: u64, stalled_ns: u64, prompt_ns: u64) -> [u64; 4] {
        let parts = Parts::of(latency_ns, 10, stalled_ns, prompt_ns);
        [parts.path_ns, parts.queueing_ns, parts.stalls_ns, parts.peer_ns]
    }

    #[test]
    fn a_response_is_the_path_and_what_comes_on_top() {
        assert_eq!(parts(100, 0, 0), [10, 0, 0, 90]);
        assert_eq!(parts(100, 0, 30), [10, 20, 0, 70]);
        assert_eq!(parts(100, 60, 30), [10, 20, 60, 10]);
    }

    #[test]
    fn no_part_is_more_than_what_is_left() {
        assert_eq!(parts(100, 95, 30), [10, 0, 90, 0]);
        assert_eq!(parts(5, 0, 0), [5, 0, 0, 0]);
        assert_eq!(parts(100, 0, 9), [10, 0, 0, 90]);
    }

    proptest! {
        #[test]
        fn parts_add_up(
            latency_ns in 1..u64::MAX >> 8, others_ns in 0..u64::MAX >> 8, rtt_min_ns: u64,
            stalled_ns: u64, prompt_ns: u64,
        ) {
            let parts = Parts::of(latency_ns, rtt_min_ns, stalled_ns, prompt_ns);
            let sum = |parts: Parts| {
                parts.path_ns + parts.queueing_ns + parts.stalls_ns + parts.peer_ns
            };
            prop_assert_eq!(sum(parts), latency_ns);
            let all_ns = latency_ns + others_ns;
            prop_assert_eq!(sum(parts.scaled(latency_ns, all_ns)), all_ns);
        }
    }
}
