//! A peer that does not read what it is sent, or hardly.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: READING,
    set: reading,
    proof: |_, seen, claims| {
        claims.least("bytes that wait to be sent", seen.queued(Side::Client, true), 10_000);
        claims.least("windows closed", seen.total(Side::Server, "TCPToZeroWindowAdv"), 1);
    },
    ..Scenario::fault("peer-not-reading", &["peer:{server}", "backend:{server}", "flow:{server}"])
};
