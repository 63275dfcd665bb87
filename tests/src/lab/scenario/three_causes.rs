//! A path that loses segments, a server that refuses connections, and an application that leaks.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("lost_ppm", [30_000, 60_000]),
        Parameter::any("every_ms", [40, 200]),
        Parameter::any("leaked", [200, 600]),
    ],
    set: |stage, it| {
        let way = Way::delayed(3 * MS);
        stage.link([way.loss(it["lost_ppm"]), way])?;
        let (bulk, gone) = (stage.at(9000), stage.server_has(9)?);
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        stage.start(Side::Client, "backup", Act::Send(Send::paced(vec![bulk; 4], 150_000)))?;
        let refused =
            Ask { end: End::Closes, ..Ask::to(vec![gone], 1000.0 / it["every_ms"] as f64) };
        stage.start(Side::Client, "mail", Act::Ask(refused))?;
        let leak = (stage.address(1), 8080).into();
        stage.start(Side::Client, "orders", Act::Accept(Accept::at(vec![leak], Each::Keeps)))?;
        let open = Open::at_once(vec![leak], it["leaked"], Then::Closes);
        stage.start(Side::Server, "mobile", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("segments sent again", seen.counter(Side::Client, "RetransSegs"), 50);
        claims.least("connections refused", seen.said("mail", "refused"), 3_000 / it["every_ms"]);
        claims.least("in CLOSE-WAIT", seen.sockets(Side::Client, "CLOSE-WAIT"), it["leaked"]);
    },
    ..Scenario::faults(
        "three-causes",
        &[
            ("packet-loss", &["peer:{server}", "backend:{server}"]),
            ("connection-refused", &["backend:{9}", "peer:{9}", "process:{mail}"]),
            ("close-wait-leak", &["process:{orders}"]),
        ],
    )
};
