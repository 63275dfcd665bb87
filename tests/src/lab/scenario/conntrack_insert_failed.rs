//! Datagrams of two sockets that would leave as one conversation: the second finds its place in the table taken.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    takes: Some("conntrack limit"),
    parameters: &[Parameter::new("per_s", [200, 500], [0, 0])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        track(stage, Side::Client)?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 2], 20.0)))?;
        if it["per_s"] == 0 {
            return Ok(());
        }
        let [first, second] = [stage.address(1), stage.address(3)];
        stage.client.ip(&format!("addr add {second}/24 dev {}", stage.device()))?;
        // Time between the choice of a port and its place in the table.
        let slow = " ip daddr 192.0.2.1\n".repeat(1000);
        stage.nft(Side::Client, &format!(
            "table ip raced {{\n chain source {{\n type nat hook postrouting priority 100;\n \
             ip saddr {second} snat to {first}\n }}\n \
             chain slow {{\n type filter hook postrouting priority 200;\n{slow} }}\n}}\n"
        ))?;
        let taker = Datagrams::taker(stage.at(53));
        stage.start(Side::Server, "names", Act::Datagrams(taker))?;
        let races = Races { from: [first, second], to: stage.at(53), per_second: it["per_s"] as f64 };
        stage.start(Side::Client, "resolver", Act::Races(races))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("entries without a place", seen.tracking(Side::Client, "insert_failed"), 20);
        claims.least("datagrams not let out", seen.said("resolver", "unsent"), 20);
    },
    ..Scenario::fault("conntrack-insert-failed", &["namespace:{client-netns}", "process:{resolver}"])
};
