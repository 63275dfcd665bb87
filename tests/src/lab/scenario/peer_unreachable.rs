//! A server that does not answer, whatever it is asked.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::new("every_ms", [50, 250], [9_000, 12_000])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(5 * MS))?;
        let server = stage.at(5432);
        stage.start(Side::Server, "db", Act::Serve(Serve::at(vec![server])))?;
        stage.start(Side::Client, "report", Act::Ask(Ask::to(vec![server; 2], 20.0)))?;
        // Nobody has this address.
        let gone = (stage.address(99), 5432).into();
        let open = Open {
            per_second: 1000.0 / it["every_ms"] as f64,
            ..Open::at_once(vec![gone], u64::MAX, Then::Keeps)
        };
        stage.start(Side::Client, "web", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = 2_000 / it["every_ms"];
        claims.least("in SYN-SENT", seen.sockets(Side::Client, "SYN-SENT"), least);
        claims.least("SYNs sent again", seen.counter(Side::Client, "TCPSynRetrans"), 3 * least);
    },
    ..Scenario::fault("peer-unreachable", &["peer:{99}", "backend:{99}"])
};
