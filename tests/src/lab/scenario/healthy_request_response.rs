//! Requests that are answered at once.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [50, 250]), Parameter::any("reply", [200, 8_000])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS / 2))?;
        let at = stage.at(80);
        let serve = Serve { work: 2 * MS, spread: 3 * MS, ..Serve::at(vec![at]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        let ask = Ask { reply: it["reply"] as u32, ..Ask::to(vec![at; 8], it["per_s"] as f64) };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    // Three seconds' worth: an emulated processor may not keep up.
    proof: |it, seen, claims| claims.least("answers", seen.said("web", "answers"), 3 * it["per_s"]),
    ..Scenario::healthy("request-response")
};
