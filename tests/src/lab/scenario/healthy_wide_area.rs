//! Servers on another continent, over a path whose delay varies, with an accident or two.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("one_way_ms", [20, 70]), Parameter::any("jitter_ms", [1, 8])],
    set: |stage, it| {
        let way = Way::delayed(it.ms("one_way_ms")).jitter(it.ms("jitter_ms")).loss(100);
        stage.link_alike(way)?;
        let (api, bulk) = (stage.at(443), stage.at(9000));
        let serve = Serve { work: 5 * MS, spread: 20 * MS, ..Serve::at(vec![api]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 10], 40.0)))?;
        stage.start(Side::Client, "logs", Act::Send(Send::paced(vec![bulk], 100_000)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let path_ms = 2 * it["one_way_ms"];
        claims.least("median answer, us", seen.said("web", "p50_us"), path_ms * 1000);
        claims.least("ms of a round trip", seen.most(Side::Client, "rtt") as u64, path_ms);
        claims.least("answers", seen.said("web", "answers"), 100);
        claims.least("sends", seen.said("logs", "sends"), 10);
    },
    ..Scenario::healthy("wide-area")
};
