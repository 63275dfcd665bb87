//! A server far away.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("one_way_ms", [130, 500], [30, 70]),
        Parameter::any("per_s", [10, 30]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(it.ms("one_way_ms")))?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 16], it["per_s"] as f64)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("median answer, us", seen.said("web", "p50_us"), it["one_way_ms"] * 2000);
        claims.least("answers", seen.said("web", "answers"), 50);
    },
    ..Scenario::fault("high-rtt", &["peer:{server}", "backend:{server}"])
};
