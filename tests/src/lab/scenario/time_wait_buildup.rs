//! Ports that wait for the last segments of connections that were closed a short time ago.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("closed", [12_000, 24_000], [1_000, 4_000])],
    set: |stage, it| {
        stage.veth([1500; 2])?;
        stage.sysctl(Side::Client, "ipv4/tcp_max_tw_buckets", &100_000)?;
        // Not one destination's ports alone.
        let to = vec![stage.at(80), stage.at(81), stage.at(82)];
        stage.start(Side::Server, "api", Act::Accept(Accept::at(to.clone(), Each::Closes)))?;
        let open = Open::at_once(to, it["closed"], Then::Closes);
        stage.start(Side::Client, "batch", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("in TIME-WAIT", seen.sockets(Side::Client, "TIME-WAIT"), it["closed"] * 9 / 10);
    },
    ..Scenario::fault("time-wait-buildup", &["namespace:{client-netns}", "process:{batch}"])
};
