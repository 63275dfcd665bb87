//! A server of names that leaves queries without an answer.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("bad_permille", [200, 1000], [0, 5]),
        Parameter::any("per_s", [10, 30]),
    ],
    set: |stage, it| {
        let dns = Dns {
            bad: it["bad_permille"],
            how: Bad::Silence,
            ..Dns::at(stage.at(53))
        };
        names(stage, dns, it["per_s"])
    },
    proof: |_, seen, claims| {
        claims.least("queries without an answer", seen.said("resolver", "timed_out"), 10);
    },
    ..Scenario::fault("dns-unanswered", &["backend:{server}", "peer:{server}"])
};
