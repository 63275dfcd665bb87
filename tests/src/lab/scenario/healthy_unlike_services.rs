//! One program that asks unlike services at the same port, one of which takes long, as it always does.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("work_ms", [10, 25]), Parameter::any("long_ms", [250, 350])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (work, long) = (it.ms("work_ms"), it.ms("long_ms"));
        // An API for payments, a store of objects, search, and a queue.
        for (host, role, work, request, reply) in [
            (11, "payments", long, 2_000, 12_000),
            (12, "objects", work, 400, 40_000),
            (13, "search", work, 300, 2_000),
            (14, "queue", work, 3_000, 600),
        ] {
            let at = stage.server_has(host)?;
            let serve = Serve { work, spread: work / 4, ..Serve::at(vec![at]) };
            stage.start(Side::Server, role, Act::Serve(serve))?;
            let ask = Ask { request, reply, ..Ask::to(vec![at; 4], 8.0) };
            stage.start(Side::Client, "web", Act::Ask(ask))?;
        }
        Ok(())
    },
    // By the servers' own clocks: of their clients, which have one name, the last one's word stands.
    proof: |it, seen, claims| {
        let long_us = seen.said("payments", "p50_us");
        claims.least("median work on payments, us", long_us, it["long_ms"] * 1000);
        for role in ["objects", "search", "queue"] {
            claims.least(&format!("the same, of four times that of {role}"), long_us, {
                4 * seen.said(role, "p50_us")
            });
        }
        for role in ["payments", "objects", "search", "queue"] {
            claims.least(&format!("answers of {role}"), seen.said(role, "answers"), 30);
        }
        claims.least("connections", seen.sockets(Side::Client, "ESTAB"), 16);
    },
    ..Scenario::healthy("unlike-services")
};
