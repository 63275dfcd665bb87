//! A server before which some SYNs are dropped, and nothing else.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("lost_per_mille", [200, 450]), Parameter::any("per_s", [10, 30])],
    set: |stage, it| losing_syns(stage, it["lost_per_mille"], it["per_s"]),
    proof: |_, seen, claims| {
        claims.least("SYNs sent again", seen.counter(Side::Client, "TCPSynRetrans"), 10);
        claims.least("answers", seen.said("web", "answers"), 50);
    },
    ..Scenario::faults("some-syns", &[("peer-unreachable", &["backend:{server}"])])
};
