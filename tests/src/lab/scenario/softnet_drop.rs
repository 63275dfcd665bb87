//! A backlog of packets that is too short for their bursts.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    needs: Needs::OwnMachine("net.core.netdev_max_backlog is one for the machine"),
    parameters: &[Parameter::new("backlog", [1, 2], [2000, 4000])],
    set: |stage, it| {
        stage.veth([1500; 2])?;
        // What is sent packet by packet is received packet by packet: a queue is needed that lets a burst go at once.
        stage.hold_back(5 * MS)?;
        stage.keep(Setting::new("net/core/netdev_max_backlog", &it["backlog"])?);
        let at = stage.at(9000);
        stage.start(Side::Server, "store", Act::Receive(Receive::at(at)))?;
        stage.start(Side::Client, "backup", Act::Send(Send::paced(vec![at; 4], 500_000)))?;
        let taker = Datagrams::taker(stage.at(5004));
        stage.start(Side::Server, "player", Act::Datagrams(taker))?;
        let video = Datagrams { burst: 64, ..Datagrams::to(stage.at(5004), 10.0) };
        stage.start(Side::Client, "video", Act::Datagrams(video))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("packets without room", seen.softnet_drops(), 20);
    },
    ..Scenario::fault("softnet-drop", &["node:"])
};
