//! A tunnel that gets damaged packets: marked as congested on the outside, and inside by no means to be
//! marked so, which RFC 6040 counts as an error (`vxlan_ecn_decapsulate`, drivers/net/vxlan).

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[Parameter::new("per_s", [20, 100], [0, 0])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let [overlay, below] = ["overlay".to_owned(), stage.device()];
        let make = format!("link add {overlay} type vxlan id 7 dstport 4789 dev {below}");
        stage.server.ip(&make)?;
        stage.server.ip(&format!("link set {overlay} up"))?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 2], 20.0)))?;
        if it["per_s"] > 0 {
            const CONGESTED: u8 = 3;
            let inner = raw::in_vxlan(stage.address(1), stage.address(2), 7);
            let damaged = Datagrams {
                tos: CONGESTED,
                payload: inner,
                ..Datagrams::to(stage.at(4789), it["per_s"] as f64)
            };
            stage.start(Side::Client, "damaged", Act::Datagrams(damaged))?;
        }
        Ok(())
    },
    proof: |it, seen, claims| {
        claims.least("errors of devices", seen.errors(Side::Server), it["per_s"] * 7);
    },
    ..Scenario::fault("interface-errors", &["interface:overlay"])
};
