//! A server that goes without a word while connections to it stand.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("after_ms", [500, 2500]),
        Parameter::any("connections", [4, 20]),
        // For the twin it comes back.
        Parameter::new("gone_ms", [60_000, 60_000], [50, 150]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(2 * MS))?;
        let at = stage.at(6379);
        stage.start(Side::Server, "cache", Act::Serve(Serve::at(vec![at])))?;
        let connections = it["connections"] as usize;
        let ask = Ask::to(vec![at; connections], 10.0 * connections as f64);
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        let Some(cut) = stage.relay().map(crate::network::relay::Relay::cut) else { return Ok(()) };
        let back = cut.clone();
        stage.after(it.ms("after_ms"), move || {
            cut.set(true);
            Ok(())
        });
        if it["gone_ms"] < 10_000 {
            stage.after(it.ms("after_ms") + it.ms("gone_ms"), move || {
                back.set(false);
                Ok(())
            });
        }
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("connections that stand", seen.sockets(Side::Client, "ESTAB"), it["connections"]);
        claims.least("timeouts", seen.counter(Side::Client, "TCPTimeouts"), it["connections"] * 3);
    },
    ..Scenario::fault("half-open-peer", &["peer:{server}", "backend:{server}", "flow:{server}"])
};
