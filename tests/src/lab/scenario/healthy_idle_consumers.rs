//! Consumers of a queue without news: its broker holds each request until a timer ends, and they ask again.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    lasts: |it| it.ms("wait_ms") * 8,
    parameters: &[Parameter::any("wait_ms", [1_000, 2_500]), Parameter::any("connections", [2, 8])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(9092);
        let broker = Serve { work: it.ms("wait_ms"), ..Serve::at(vec![at]) };
        stage.start(Side::Server, "broker", Act::Serve(broker))?;
        let connections = it["connections"];
        // More often than answers come, so at once.
        let per_second = 10.0 * connections as f64;
        let to = vec![at; connections as usize];
        let ask = Ask { request: 100, reply: 60, ..Ask::to(to, per_second) };
        stage.start(Side::Client, "consumer", Act::Ask(ask))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let [median_us, slow_us] = ["p50_us", "p90_us"].map(|at| seen.said("consumer", at));
        claims.least("median answer, us", median_us, it["wait_ms"] * 1000);
        claims.least("all but a tenth of the slowest tenth's, us", median_us, slow_us * 9 / 10);
        claims.least("answers", seen.said("consumer", "answers"), 6 * it["connections"]);
        claims.least("connections", seen.sockets(Side::Client, "ESTAB"), it["connections"]);
    },
    ..Scenario::healthy("idle-consumers")
};
