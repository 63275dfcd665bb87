//! A server that is replaced: it ends its old connections by resets, once, and clients connect anew.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("after_ms", [5_000, 9_000]), Parameter::any("connections", [4, 12])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (old, new) = (stage.at(80), stage.at(81));
        let serve = Serve { ends_after: Some(it.ms("after_ms")), ..Serve::at(vec![old]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        stage.start(Side::Server, "next", Act::Serve(Serve::at(vec![new])))?;
        let connections = it["connections"] as usize;
        let ask = Ask::to(vec![old; connections], 5.0 * connections as f64);
        // What is sent to the one that ends is for the next.
        let ask = Ask { then: Some(new), ..ask };
        stage.start(Side::Client, "web", Act::Ask(ask))?;
        Ok(())
    },
    // In all its life: an emulated processor may be late to watch it.
    proof: |it, seen, claims| {
        let all = it["connections"];
        claims.least("connections reset", seen.said("web", "reset"), all);
        claims.least("resets received", seen.total(Side::Client, "EstabResets"), all);
        claims.least("resets sent", seen.total(Side::Server, "OutRsts"), all);
        claims.least("answers of the old server", seen.said("api", "answers"), 5 * all);
        claims.least("answers of the next", seen.said("next", "answers"), 5 * all);
    },
    ..Scenario::healthy("deploy")
};
