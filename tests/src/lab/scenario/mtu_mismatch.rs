//! Two ends of a link that do not agree on how large a packet may be.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::new("less", [50, 200], [0, 0])],
    set: |stage, it| {
        stage.veth([1500, 1500 - it["less"] as u32])?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        let ask = Ask { request: 5_000, ..Ask::to(vec![at; 2], 20.0) };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("answers", seen.said("web", "answers"), 100);
    },
    ..Scenario::fault("mtu-mismatch", &["interface:{link}"])
};
