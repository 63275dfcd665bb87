//! A modest rate of connections for one request each.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [5, 20])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(80);
        let serve = Serve { work: 3 * MS, ..Serve::at(vec![at]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        let ask = Ask { end: End::Closes, ..Ask::to(vec![at; 4], it["per_s"] as f64) };
        stage.start(Side::Client, "cron", Act::Ask(ask))?;
        Ok(())
    },
    // Three seconds' worth: an emulated processor may not keep up.
    proof: |it, seen, claims| {
        let opened = seen.counter(Side::Client, "ActiveOpens");
        claims.least("connections", opened, 3 * it["per_s"]);
        claims.least("answers", seen.said("cron", "answers"), 3 * it["per_s"]);
    },
    ..Scenario::healthy("short-connections")
};
