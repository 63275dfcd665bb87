//! Two faults of two servers: one is slow, and another refuses connections.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("work_ms", [700, 2_000]), Parameter::any("every_ms", [40, 200])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (slow, gone) = (stage.at(8080), stage.server_has(9)?);
        let work = it.ms("work_ms");
        let serve = Serve { work, spread: work / 5, ..Serve::at(vec![slow]) };
        stage.start(Side::Server, "search", Act::Serve(serve))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![slow; 12], 6.0)))?;
        let refused =
            Ask { end: End::Closes, ..Ask::to(vec![gone], 1000.0 / it["every_ms"] as f64) };
        stage.start(Side::Client, "mail", Act::Ask(refused))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("median answer, us", seen.said("web", "p50_us"), it["work_ms"] * 1000);
        claims.least("connections refused", seen.said("mail", "refused"), 8_000 / it["every_ms"]);
    },
    ..Scenario::faults(
        "two-servers",
        &[
            ("slow-peer-application", &["backend:{server}", "peer:{server}"]),
            ("connection-refused", &["backend:{9}", "peer:{9}", "process:{mail}"]),
        ],
    )
};
