//! A server that takes its time, over a short path.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("work_ms", [700, 3500], [50, 250]),
        Parameter::any("one_way_us", [100, 1000]),
        Parameter::any("connections", [8, 24]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(Duration::from_micros(it["one_way_us"])))?;
        let at = stage.at(8080);
        let work = it.ms("work_ms");
        let server = Serve { work, spread: work / 5, ..Serve::at(vec![at]) };
        stage.start(Side::Server, "search", Act::Serve(server))?;
        // Each asks again when it has its answer.
        let connections = vec![at; it["connections"] as usize];
        let per_second = it["connections"] as f64 / work.as_secs_f64() / 2.0;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(connections, per_second)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("median answer, us", seen.said("web", "p50_us"), it["work_ms"] * 1000);
        claims.least("answers", seen.said("web", "answers"), 10);
    },
    ..Scenario::fault("slow-peer-application", &["backend:{server}", "peer:{server}"])
};
