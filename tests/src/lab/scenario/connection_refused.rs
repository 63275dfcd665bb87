//! A port that nobody listens at.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("every_ms", [40, 200], [9_000, 12_000])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let per_second = 1000.0 / it["every_ms"] as f64;
        let ask = Ask { end: End::Closes, ..Ask::to(vec![stage.at(8443)], per_second) };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = 8_000 / it["every_ms"];
        claims.least("attempts that failed", seen.counter(Side::Client, "AttemptFails"), least);
        claims.least("connections refused", seen.said("web", "refused"), least);
    },
    // The twin asks once in ten seconds.
    done: 2,
    ..Scenario::fault(
        "connection-refused",
        &["backend:{server}", "peer:{server}", "process:{web}"],
    )
};
