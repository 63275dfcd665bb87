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
    ..Scenario::healthy("short-connections")
};
