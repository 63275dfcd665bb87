//! A server that keeps its end of connections that clients have closed.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::new("leaked", [150, 750], [20, 40]),
        Parameter::new("more_per_s", [5, 20], [0, 0]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(8080);
        stage.start(Side::Server, "orders", Act::Accept(Accept::at(vec![at], Each::Keeps)))?;
        let open = Open::at_once(vec![at], it["leaked"], Then::Closes);
        stage.start(Side::Client, "web", Act::Open(open.clone()))?;
        if it["more_per_s"] > 0 {
            let more = Open { count: u64::MAX, per_second: it["more_per_s"] as f64, ..open };
            stage.start(Side::Client, "more", Act::Open(more))?;
        }
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("in CLOSE-WAIT", seen.sockets(Side::Server, "CLOSE-WAIT"), it["leaked"]);
    },
    ..Scenario::fault("close-wait-leak", &["process:{orders}"])
};
