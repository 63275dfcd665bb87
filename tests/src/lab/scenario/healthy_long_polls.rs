//! Requests whose answers come when something happens: their server has no work, it waits on purpose.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("wait_s", [10, 25]), Parameter::any("connections", [3, 10])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (poll, api) = (stage.at(8080), stage.at(80));
        let work = Duration::from_secs(it["wait_s"]);
        let serve = Serve { work, spread: work / 3, ..Serve::at(vec![poll]) };
        stage.start(Side::Server, "push", Act::Serve(serve))?;
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![api])))?;
        let connections = vec![poll; it["connections"] as usize];
        let per_second = it["connections"] as f64;
        stage.start(Side::Client, "app", Act::Ask(Ask::to(connections, per_second)))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 4], 30.0)))?;
        Ok(())
    },
    ..Scenario::healthy("long-polls")
};
