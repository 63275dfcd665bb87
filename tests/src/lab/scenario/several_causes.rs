//! A path that loses segments and a server of names that is slow, and an application that leaks.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("lost_ppm", [30_000, 60_000]),
        Parameter::any("work_ms", [150, 400]),
        Parameter::any("leaked", [200, 600]),
    ],
    set: |stage, it| {
        let way = Way::delayed(3 * MS);
        stage.link([way.loss(it["lost_ppm"]), way])?;
        let (bulk, names) = (stage.at(9000), stage.server_has(9)?);
        let names = (names.ip(), 53).into();
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        let dns = Dns { work: it.ms("work_ms"), ..Dns::at(names) };
        stage.start(Side::Server, "named", Act::Dns(dns))?;
        stage.start(Side::Client, "backup", Act::Send(Send::paced(vec![bulk; 4], 150_000)))?;
        let resolve = Resolve { to: names, per_second: 15.0, patience: Duration::from_secs(5) };
        stage.start(Side::Client, "resolver", Act::Resolve(resolve))?;
        let leak = (stage.address(1), 8080).into();
        stage.start(Side::Client, "orders", Act::Accept(Accept::at(vec![leak], Each::Keeps)))?;
        let open = Open::at_once(vec![leak], it["leaked"], Then::Closes);
        stage.start(Side::Server, "mobile", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("segments sent again", seen.counter(Side::Client, "RetransSegs"), 50);
        claims.least("median answer, us", seen.said("resolver", "p50_us"), it["work_ms"] * 1000);
        claims.least("in CLOSE-WAIT", seen.sockets(Side::Client, "CLOSE-WAIT"), it["leaked"]);
    },
    ..Scenario::faults(
        "three-causes",
        &[
            ("packet-loss", &["peer:{server}", "backend:{server}"]),
            ("dns-slow", &["backend:{9}", "peer:{9}"]),
            ("close-wait-leak", &["process:{orders}"]),
        ],
    )
};
