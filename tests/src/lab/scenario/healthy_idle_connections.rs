//! Thousands of connections that nothing happens on, beside some requests.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("connections", [1_500, 4_000])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        crowd(stage, it["connections"])?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 4], 40.0)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        for side in [Side::Client, Side::Server] {
            claims.least("connections", seen.sockets(side, "ESTAB"), it["connections"]);
        }
        claims.least("answers", seen.said("web", "answers"), 100);
    },
    ..Scenario::healthy("idle-connections")
};
