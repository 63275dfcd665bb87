//! No port is left for one more connection to one destination.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("ports", [200, 1_000]),
        Parameter::new("percent", [100, 110], [40, 70]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let range = format!("40000 {}", 40_000 + it["ports"] - 1);
        stage.sysctl(Side::Client, "ipv4/ip_local_port_range", &range)?;
        let at = stage.at(3306);
        stage.start(Side::Server, "db", Act::Accept(Accept::at(vec![at], Each::Keeps)))?;
        let open = Open::at_once(vec![at], it["ports"] * it["percent"] / 100, Then::Keeps);
        stage.start(Side::Client, "pool", Act::Open(open.clone()))?;
        if it["percent"] >= 100 {
            let more = Open { count: u64::MAX, per_second: 10.0, ..open };
            stage.start(Side::Client, "worker", Act::Open(more))?;
        }
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("ports in use", seen.sockets(Side::Client, "ESTAB"), it["ports"]);
        claims.least("connections without a port", seen.said("worker", "no_port"), 50);
    },
    ..Scenario::fault(
        "ephemeral-ports-exhausted",
        &["backend:{server}", "peer:{server}", "namespace:{client-netns}", "process:{pool}"],
    )
};
