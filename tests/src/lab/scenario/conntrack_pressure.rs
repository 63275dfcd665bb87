//! A table of connections that is nearly full.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    takes: Some("conntrack limit"),
    parameters: &[
        Parameter::any("limit", [2_000, 4_000]),
        Parameter::new("filled_percent", [83, 92], [50, 70]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        track(stage, Side::Client)?;
        stage.keep(Setting::new(MAX, &it["limit"])?);
        crowd(stage, it["limit"] * it["filled_percent"] / 100)
    },
    proof: |it, seen, claims| {
        claims.least("entries", seen.tracked(Side::Client), it["limit"] * 80 / 100);
    },
    ..Scenario::fault("conntrack-pressure", &["namespace:{client-netns}", "node:"])
};
