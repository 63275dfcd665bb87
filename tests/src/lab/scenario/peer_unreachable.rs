//! A server that does not answer, whatever it is asked.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("per_s", [4, 20], [1, 1]),
        Parameter::new("attempts", [0, 0], [1, 1]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(5 * MS))?;
        // Nobody has this address.
        let gone = (stage.address(99), 5432).into();
        let count = if it["attempts"] == 0 { u64::MAX } else { it["attempts"] };
        let open = Open {
            per_second: it["per_s"] as f64,
            patience: Duration::from_secs(5),
            ..Open::at_once(vec![gone], count, Then::Keeps)
        };
        stage.start(Side::Client, "web", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("in SYN-SENT", seen.sockets(Side::Client, "SYN-SENT"), it["per_s"] * 2);
        claims.least("SYNs sent again", seen.counter(Side::Client, "TCPSynRetrans"), it["per_s"] * 5);
    },
    ..Scenario::fault("peer-unreachable", &["peer:{99}", "backend:{99}"])
};
