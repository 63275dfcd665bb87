//! Connections that hang: what tells one whose large segments get lost from one whose peer is gone.

use crate::watched::{Group, Seen, Stall};

/// Payload of segments that only a path's MTU keeps from passing: the smallest MTU of IPv6 is 1280, and a
/// tunnel or two take from 1500.
pub(super) const LARGE_BYTES: u64 = 1_000;
/// Timeouts in a row that are no accident.
pub(super) const TIMEOUTS: u64 = 3;
/// Seconds that a connection hangs at least: three timeouts take 1.4 s on the shortest path.
const HANGS_S: f64 = 1.0;

/// Whether a connection hung in the window: all that it sent again in some timeouts was in vain.
pub(super) fn hangs(flow: &Seen) -> bool {
    let stall = flow.course.longest_stall();
    stall.in_vain() >= TIMEOUTS && stall.at_least_s() > HANGS_S
}

/// Whether it hangs at the end of the window, too: it did not get over what was lost.
pub(super) fn hangs_on(flow: &Seen) -> bool {
    let stall = flow.course.stall;
    stall.in_vain() >= TIMEOUTS && stall.at_least_s() > HANGS_S
}

/// Whether the peer is there while a connection to it hangs.
fn is_heard(stall: &Stall, peer: &Group<'_>) -> bool {
    peer.seconds(|course| course.heard).after(stall.since)
}

/// Whether only large segments to the peer get lost: this connection hangs with them and none has passed,
/// while the peer is heard.
pub(super) fn is_too_large(flow: &Seen, peer: &Group<'_>) -> bool {
    let stall = flow.course.longest_stall();
    let passed = flow.sums.at_least("bytes_acked");
    let passed = passed.checked_div(flow.sums.at_least("delivered")).unwrap_or(0);
    hangs(flow)
        && stall.segment_bytes() >= LARGE_BYTES
        && passed < LARGE_BYTES
        && is_heard(&stall, peer)
}

#[cfg(test)]
pub(super) mod kit {
    use crate::{snapshot::Flow, watched::kit};

    /// A connection that sends a segment of so many bytes again each second, of which the peer acknowledges
    /// nothing; so many segments come from it.
    pub(in crate::finding) fn stalled(id: &str, bytes: u64, received: u64) -> Flow {
        kit::flow(id)
            .count("segments_received", received)
            .count("bytes_acked", 0)
            .count("delivered", 0)
            .count("unacknowledged", 4)
            .count("unsent_bytes", 8_000)
            .count("data_segments_sent", 1)
            .count("retransmits.rto", 1)
            .count("retransmits.fast", 0)
            .count("retransmit_bytes", bytes)
    }

    /// One to which nothing happens.
    pub(in crate::finding) fn sound(id: &str) -> Flow {
        kit::flow(id)
            .count("segments_received", 20)
            .count("bytes_acked", 5_000)
            .count("delivered", 20)
            .count("unacknowledged", 0)
            .count("data_segments_sent", 20)
            .count("retransmits.rto", 0)
            .count("retransmits.fast", 0)
            .count("retransmit_bytes", 0)
    }
}
