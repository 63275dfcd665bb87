//! Nothing happens but a health check now and then.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("every_s", [2, 5])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        let ask = Ask { end: End::Closes, ..Ask::to(vec![at], 1.0 / it["every_s"] as f64) };
        stage.start(Side::Client, "probe", Act::Ask(ask))?;
        Ok(())
    },
    done: 2,
    ..Scenario::healthy("idle")
};
