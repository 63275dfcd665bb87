//! A path that takes longer at regular times.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    // Four cycles, and part of one before the first.
    lasts: |it| it.ms("every_ms").mul_f64(4.6),
    parameters: &[
        Parameter::any("every_ms", [4_000, 20_000]),
        Parameter::any("lasts_ms", [300, 1_500]),
        Parameter::new("extra_ms", [100, 500], [0, 1]),
    ],
    set: |stage, it| {
        let spell = Spell {
            every: it.ms("every_ms"),
            lasts: it.ms("lasts_ms"),
            extra: it.ms("extra_ms"),
        };
        let way = Way::delayed(MS);
        stage.link([way.spell(spell), way])?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 16], 160.0)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("longest answers, us", seen.said("web", "max_us"), it["extra_ms"] * 1000);
        claims.least("longest of the median", seen.said("web", "p99_us"), {
            5 * seen.said("web", "p50_us")
        });
    },
    ..Scenario::fault(
        "periodic-latency",
        &["node:", "peer:{server}", "backend:{server}", "namespace:{client-netns}", "process:{web}"],
    )
};
