//! A table of connections without room: each datagram comes from another port, and makes an entry.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    takes: Some("conntrack limit"),
    parameters: &[
        Parameter::any("limit", [1_000, 3_000]),
        Parameter::any("per_s", [100, 300]),
        // Of what there is room for, before the first datagram.
        Parameter::new("filled_percent", [101, 110], [20, 30]),
        Parameter::new("more", [1, 1], [0, 0]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        track(stage, Side::Client)?;
        crowd(stage, it["limit"] * it["filled_percent"] / 100)?;
        stage.keep(Setting::new(MAX, &it["limit"])?);
        let per_second = if it["more"] == 0 { 10.0 } else { it["per_s"] as f64 };
        let many = Datagrams { from_many: it["more"] > 0, ..Datagrams::to(stage.at(8125), per_second) };
        stage.start(Side::Client, "metrics", Act::Datagrams(many))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("entries", seen.tracked(Side::Client), it["limit"] * 95 / 100);
        claims.least("packets dropped for it", seen.tracking(Side::Client, "drop"), 50);
        claims.least("datagrams not let out", seen.said("metrics", "unsent"), 100);
    },
    ..Scenario::fault("conntrack-full", &["namespace:{client-netns}", "node:"])
};
