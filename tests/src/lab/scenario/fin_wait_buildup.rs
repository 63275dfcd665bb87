//! A peer that does not close its end of connections that were ended here.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("ended", [600, 3_000], [50, 250])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(8080);
        stage.start(Side::Server, "orders", Act::Accept(Accept::at(vec![at], Each::Keeps)))?;
        let open = Open::at_once(vec![at], it["ended"], Then::HalfCloses);
        stage.start(Side::Client, "web", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("in FIN-WAIT-2", seen.sockets(Side::Client, "FIN-WAIT-2"), it["ended"]);
    },
    ..Scenario::fault(
        "fin-wait-buildup",
        &["peer:{server}", "backend:{server}", "namespace:{client-netns}", "process:{web}"],
    )
};
