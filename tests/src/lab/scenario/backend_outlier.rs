//! One of several servers of a service that takes longer than the others.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("backends", [4, 6]),
        Parameter::any("work_ms", [5, 15]),
        Parameter::new("times_as_long", [6, 20], [1, 1]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let good: Vec<_> = (11..10 + it["backends"] as u8)
            .map(|host| stage.server_has(host))
            .collect::<Result<_, _>>()?;
        let bad = stage.server_has(10)?;
        let work = it.ms("work_ms");
        let serve = Serve { work, spread: work / 4, ..Serve::at(good.clone()) };
        let slow = Serve { work: work * it["times_as_long"] as u32, at: vec![bad], ..serve.clone() };
        stage.start(Side::Server, "good", Act::Serve(serve))?;
        stage.start(Side::Server, "bad", Act::Serve(slow))?;
        let all: Vec<_> = good.into_iter().chain([bad]).collect();
        let per_second = 8.0 * all.len() as f64;
        stage.start(Side::Client, "web", Act::Ask(Ask::to([&all[..]; 2].concat(), per_second)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let slow = it["work_ms"] * it["times_as_long"] * 1000;
        claims.least("slowest answers, p99 us", seen.said("web", "p99_us"), slow);
        claims.least("slowest of the median", seen.said("web", "p99_us"), {
            3 * seen.said("web", "p50_us")
        });
    },
    ..Scenario::fault("backend-outlier", &["backend:{10}", "peer:{10}"])
};
