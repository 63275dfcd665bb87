//! All of it by IPv6.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [20, 80]), Parameter::any("one_way_ms", [1, 20])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(it.ms("one_way_ms")))?;
        let (api, bulk, names) = (stage.at_v6(80), stage.at_v6(9000), stage.at_v6(53));
        let serve = Serve { work: 4 * MS, ..Serve::at(vec![api]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        stage.start(Side::Server, "named", Act::Dns(Dns::at(names)))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 6], it["per_s"] as f64)))?;
        stage.start(Side::Client, "logs", Act::Send(Send::paced(vec![bulk], 200_000)))?;
        let resolve = Resolve { to: names, per_second: 10.0, patience: Duration::from_secs(5) };
        stage.start(Side::Client, "resolver", Act::Resolve(resolve))?;
        Ok(())
    },
    ..Scenario::healthy("ipv6")
};
