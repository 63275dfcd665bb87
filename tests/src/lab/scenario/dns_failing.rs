//! A server of names that fails.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("bad_permille", [200, 1000], [0, 5]),
        Parameter::any("per_s", [10, 30]),
    ],
    set: |stage, it| {
        const SERVFAIL: u8 = 2;
        let dns = Dns {
            bad: it["bad_permille"],
            how: Bad::Code(SERVFAIL),
            ..Dns::at(stage.at(53))
        };
        names(stage, dns, it["per_s"])
    },
    proof: |it, seen, claims| {
        let least = it["per_s"] * 7 * it["bad_permille"] / 1000;
        claims.least("bad answers", seen.said("resolver", "answered_badly"), least);
    },
    ..Scenario::fault("dns-failing", &["backend:{server}", "peer:{server}"])
};
