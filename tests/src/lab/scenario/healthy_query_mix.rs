//! A database's mix: most queries are quick, a few take their time, as they always do.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [30, 120]), Parameter::any("long_ms", [150, 400])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS / 2))?;
        let at = stage.at(5432);
        let serve = Serve {
            work: 2 * MS,
            spread: 15 * MS,
            one_in: 25,
            long: it.ms("long_ms"),
            ..Serve::at(vec![at])
        };
        stage.start(Side::Server, "db", Act::Serve(serve))?;
        let ask = Ask { reply: 4_000, ..Ask::to(vec![at; 16], it["per_s"] as f64) };
        stage.start(Side::Client, "app", Act::Ask(ask))?;
        Ok(())
    },
    // Three seconds' worth: an emulated processor may not keep up.
    proof: |it, seen, claims| {
        claims.least("answers", seen.said("app", "answers"), 3 * it["per_s"]);
        claims.least("slowest query, us", seen.said("db", "max_us"), it["long_ms"] * 1000);
    },
    ..Scenario::healthy("query-mix")
};
