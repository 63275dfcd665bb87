//! An interface that carries all that its link can.

use super::prelude::*;
use crate::network::relay::set_speed;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("mbit_per_s", [12, 30]),
        Parameter::new("percent", [96, 99], [30, 60]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (device, speed) = (stage.device(), it["mbit_per_s"] as u32);
        stage.client.run(|| set_speed(&device, speed))?;
        let at = stage.at(9000);
        stage.start(Side::Server, "store", Act::Receive(Receive::at(at)))?;
        // Of each segment 52 bytes are headers.
        let bytes = it["mbit_per_s"] * 1250 * it["percent"] * 1448 / 1500;
        stage.start(Side::Client, "backup", Act::Send(Send::paced(vec![at; 2], bytes / 2)))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = it["mbit_per_s"] * 125_000 * 9;
        claims.least("bytes that the link took", seen.bytes(Side::Client), least);
    },
    ..Scenario::fault("interface-saturated", &["interface:{link}"])
};
