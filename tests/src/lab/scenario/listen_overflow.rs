//! A server that accepts too late for its backlog.

use super::prelude::*;
use crate::machine;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::any("per_s", [20, 100]),
        Parameter::new("backlog", [2, 10], [512, 1024]),
        Parameter::new("pause_ms", [200, 1000], [1, 3]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let at = stage.at(8080);
        let pause = it.ms("pause_ms");
        let accept = Accept {
            backlog: it["backlog"] as i32,
            pause,
            ..Accept::at(vec![at], Each::Closes)
        };
        stage.start(Side::Server, "tomcat", Act::Accept(accept))?;
        // An emulated processor takes milliseconds for each, and others play beside it.
        let open = Open {
            per_second: it["per_s"] as f64 * machine::amount(1.0, 0.25),
            count: u64::MAX,
            ..Open::at_once(vec![at], 0, Then::Closes)
        };
        for role in ["web", "mobile"] {
            stage.start(Side::Client, role, Act::Open(open.clone()))?;
        }
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("overflows", seen.counter(Side::Server, "ListenOverflows"), 10);
    },
    ..Scenario::fault("listen-overflow", &["process:{tomcat}", "namespace:{server-netns}"])
};
