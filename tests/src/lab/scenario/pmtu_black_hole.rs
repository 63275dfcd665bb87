//! A hop that drops what is too large for it and tells nobody.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::new("largest", [1100, 1450], [1500, 1500]),
        Parameter::any("one_way_ms", [2, 10]),
    ],
    set: |stage, it| {
        let way = Way::delayed(it.ms("one_way_ms"));
        stage.link([way, way.largest(it["largest"] as usize)])?;
        let at = stage.at(443);
        stage.start(Side::Server, "files", Act::Serve(Serve::at(vec![at])))?;
        let large = Ask {
            reply: 20_000,
            end: End::Closes,
            patience: Duration::from_secs(8),
            ..Ask::to(vec![at; 6], 6.0)
        };
        stage.start(Side::Client, "browser", Act::Ask(large))?;
        let small = Ask { reply: 300, ..Ask::to(vec![at; 2], 20.0) };
        stage.start(Side::Client, "pings", Act::Ask(small))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("packets too large", seen.carried(Side::Server).too_large, 20);
        claims.least("segments sent again", seen.counter(Side::Server, "RetransSegs"), 12);
        claims.least("small answers", seen.said("pings", "answers"), 100);
    },
    ..Scenario::fault("pmtu-black-hole", &["peer:{client}", "flow:{client}", "backend:{server}"])
};
