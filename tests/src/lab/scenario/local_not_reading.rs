//! A process of this node that does not read what it is sent, or hardly.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: READING,
    set: reading,
    proof: |_, seen, claims| {
        claims.least("bytes that wait to be read", seen.queued(Side::Server, false), 10_000);
        claims.least("windows closed", seen.total(Side::Server, "TCPToZeroWindowAdv"), 1);
    },
    ..Scenario::fault("local-not-reading", &["process:{consumer}"])
};
