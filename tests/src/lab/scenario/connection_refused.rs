//! A port that nobody listens at.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("per_s", [5, 25], [20, 20]), Parameter::new("times", [0, 0], [1, 1])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let ask = Ask {
            end: End::Closes,
            connections: if it["times"] == 0 { 4 } else { 1 },
            times: it["times"],
            ..Ask::to(vec![stage.at(8443)], it["per_s"] as f64)
        };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = it["per_s"] * 8;
        claims.least("attempts that failed", seen.counter(Side::Client, "AttemptFails"), least);
        claims.least("connections refused", seen.said("web", "refused"), least);
    },
    ..Scenario::fault("connection-refused", &["backend:{server}", "peer:{server}", "process:{web}"])
};
