//! A queueing discipline that drops what is beyond its rate.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("kbit_per_s", [1_000, 3_000]),
        Parameter::new("percent", [150, 400], [20, 50]),
    ],
    set: |stage, it| {
        const BYTES: u64 = 1000;
        stage.link_alike(Way::delayed(MS))?;
        crate::tool::line(&format!(
            "tc -n {} qdisc add dev {} root tbf rate {}kbit burst 5000 limit 10000",
            stage.client.name(), stage.device(), it["kbit_per_s"]
        ))?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 2], 10.0)))?;
        let per_second = (it["kbit_per_s"] * 125 * it["percent"] / 100 / BYTES) as f64;
        let taker = Datagrams::taker(stage.at(5004));
        stage.start(Side::Server, "player", Act::Datagrams(taker))?;
        let video = Datagrams { bytes: BYTES as usize, ..Datagrams::to(stage.at(5004), per_second) };
        stage.start(Side::Client, "video", Act::Datagrams(video))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        // A third of what was sent at least.
        let least = it["kbit_per_s"] * 125 * 8 / 1000 / 3;
        claims.least("packets dropped by the queue", seen.queue_drops(Side::Client), least);
    },
    ..Scenario::fault("qdisc-drop", &["interface:{link}"])
};
