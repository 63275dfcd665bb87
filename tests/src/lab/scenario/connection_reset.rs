//! A server that resets connections instead of an answer.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("one_in", [2, 5], [100_000, 100_000]),
        Parameter::any("per_s", [20, 60]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(8080);
        let serve = Serve { resets_one_in: it["one_in"], ..Serve::at(vec![at]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        let ask = Ask { end: End::Closes, ..Ask::to(vec![at; 4], it["per_s"] as f64) };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = it["per_s"] * 7 / it["one_in"];
        claims.least("connections reset", seen.counter(Side::Client, "EstabResets"), least);
        claims.least("resets sent by the server", seen.counter(Side::Server, "OutRsts"), least);
    },
    ..Scenario::fault("connection-reset", &["backend:{server}", "peer:{server}", "process:{web}"])
};
