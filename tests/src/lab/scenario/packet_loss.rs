//! A path that loses segments at random.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("lost_ppm", [15_000, 75_000], [100, 400]),
        Parameter::any("one_way_ms", [2, 10]),
        Parameter::any("kb_per_s", [400, 800]),
    ],
    set: |stage, it| {
        let way = Way::delayed(it.ms("one_way_ms"));
        stage.link([way.loss(it["lost_ppm"]), way])?;
        stage.start(Side::Server, "store", Act::Receive(Receive::at(stage.at(9000))))?;
        let to = vec![stage.at(9000); 4];
        stage.start(Side::Client, "backup", Act::Send(Send::paced(to, it["kb_per_s"] * 250)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let sent = seen.counter(Side::Client, "OutSegs").max(1);
        let again = seen.counter(Side::Client, "RetransSegs");
        claims.least("segments sent again in a million", again * 1_000_000 / sent, it["lost_ppm"] / 2);
        claims.least("packets lost by the link", seen.carried(Side::Client).lost, 20);
    },
    ..Scenario::fault("packet-loss", &["peer:{server}", "backend:{server}"])
};
