//! A client that opens a connection for each request.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("per_s", [150, 400], [5, 15])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(9200);
        stage.start(Side::Server, "index", Act::Serve(Serve::at(vec![at])))?;
        let ask = Ask { end: End::Closes, ..Ask::to(vec![at; 8], it["per_s"] as f64) };
        stage.start(Side::Client, "php", Act::Ask(ask))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("connections", seen.counter(Side::Client, "ActiveOpens"), it["per_s"] * 7);
    },
    ..Scenario::fault("connection-churn", &["process:{php}", "backend:{server}", "peer:{server}"])
};
