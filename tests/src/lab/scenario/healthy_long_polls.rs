//! Requests whose answers come when something happens: their server has no work, it waits on purpose.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("wait_s", [10, 25]), Parameter::any("connections", [3, 10])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (poll, api) = (stage.at(8080), stage.at(80));
        let work = Duration::from_secs(it["wait_s"]);
        let serve = Serve { work, spread: work / 3, ..Serve::at(vec![poll]) };
        stage.start(Side::Server, "push", Act::Serve(serve))?;
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![api])))?;
        let connections = vec![poll; it["connections"] as usize];
        let per_second = it["connections"] as f64;
        stage.start(Side::Client, "app", Act::Ask(Ask::to(connections, per_second)))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 4], 30.0)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let [asked, answers, median_us] =
            ["requests", "answers", "p50_us"].map(|what| seen.said("app", what));
        // One that has just been answered is about to ask again.
        claims.least("polls that wait", asked.saturating_sub(answers), it["connections"] / 2);
        // Natively most of them wait for longer than they are watched.
        let wait_us = it["wait_s"] * 1_000_000;
        claims.least("median poll, us", median_us, if answers > 0 { wait_us } else { 0 });
        claims.least("connections", seen.sockets(Side::Client, "ESTAB"), it["connections"]);
        claims.least("answers beside them", seen.said("web", "answers"), 50);
    },
    ..Scenario::healthy("long-polls")
};
