//! All of it by IPv6.

use super::prelude::*;
use crate::machine;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [20, 80]), Parameter::any("one_way_ms", [1, 20])],
    set: |stage, it| {
        // An emulated processor takes tens of milliseconds for an answer that waits for nothing.
        stage.link_alike(Way::delayed(it.ms("one_way_ms") / machine::amount(1, 2)))?;
        let (api, bulk, names) = (stage.at_v6(80), stage.at_v6(9000), stage.at_v6(53));
        let serve = Serve { work: 4 * MS, ..Serve::at(vec![api]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        stage.start(Side::Server, "named", Act::Dns(Dns::at(names)))?;
        let per_second = it["per_s"] as f64 / machine::amount(1.0, 4.0);
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 6], per_second)))?;
        let bulk = Send::paced(vec![bulk], machine::amount(200_000, 50_000));
        stage.start(Side::Client, "logs", Act::Send(bulk))?;
        let resolve = Resolve { to: names, per_second: 10.0, patience: Duration::from_secs(5) };
        stage.start(Side::Client, "resolver", Act::Resolve(resolve))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        // Three seconds' worth of what an emulated processor is asked.
        claims.least("answers", seen.said("web", "answers"), 3 * it["per_s"] / 4);
        claims.least("names", seen.said("resolver", "answered"), 20);
        claims.least("sends", seen.said("logs", "sends"), 3);
    },
    ..Scenario::healthy("ipv6")
};
