//! A server that does not answer, asked by clients that give up before they would ask again.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("every_ms", [20, 200]), Parameter::any("patience_ms", [250, 800])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(5 * MS))?;
        // Nobody has this address.
        let gone = (stage.address(99), 5432).into();
        let open = Open {
            per_second: 1000.0 / it["every_ms"] as f64,
            patience: it.ms("patience_ms"),
            ..Open::at_once(vec![gone], u64::MAX, Then::Keeps)
        };
        stage.start(Side::Client, "web", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("connections given up", seen.said("web", "timed_out"), 5_000 / it["every_ms"]);
    },
    ..Scenario::faults("short-timeouts", &[("peer-unreachable", &["peer:{99}", "backend:{99}"])])
};
