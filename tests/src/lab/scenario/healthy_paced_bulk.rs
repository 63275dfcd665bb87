//! Streams at a pace that the link has room for.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("kb_per_s", [300, 1500]), Parameter::any("one_way_ms", [1, 10])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(it.ms("one_way_ms")))?;
        let at = stage.at(9000);
        stage.start(Side::Server, "store", Act::Receive(Receive::at(at)))?;
        let send = Send::paced(vec![at; 2], it["kb_per_s"] * 500);
        stage.start(Side::Client, "backup", Act::Send(send))?;
        Ok(())
    },
    // Three seconds' worth: an emulated processor may not keep up.
    proof: |it, seen, claims| {
        claims.least("bytes", seen.bytes(Side::Client), 3_000 * it["kb_per_s"]);
    },
    ..Scenario::healthy("paced-bulk")
};
