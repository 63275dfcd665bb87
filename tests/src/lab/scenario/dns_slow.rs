//! A server of names that takes its time.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("work_ms", [120, 600], [5, 20]),
        Parameter::any("per_s", [8, 12]),
    ],
    set: |stage, it| {
        let dns = Dns { work: it.ms("work_ms"), ..Dns::at(stage.at(53)) };
        names(stage, dns, it["per_s"])
    },
    proof: |it, seen, claims| {
        claims.least("median answer, us", seen.said("resolver", "p50_us"), it["work_ms"] * 1000);
        claims.least("answers", seen.said("resolver", "answered"), 50);
    },
    ..Scenario::fault("dns-slow", &["backend:{server}", "peer:{server}"])
};
