//! More memory in TCP's queues than the machine gives them.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    needs: Needs::OwnMachine("net.ipv4.tcp_mem is one for the machine"),
    parameters: &[Parameter::new("pages", [300, 600], [60_000, 90_000])],
    set: |stage, it| {
        stage.veth([1500; 2])?;
        let pages = it["pages"];
        stage.keep(Setting::new("net/ipv4/tcp_mem", &format!("{} {pages} {}", pages / 2, pages * 2))?);
        let at = stage.at(9000);
        // As slow to read as it is quick to be sent, so that queues fill: with up to tcp_wmem and tcp_rmem
        // (4 and 6 MiB) each, of which the twin has room for twice as much.
        let slow = Receive { per_second: Some(20.0), chunk: 20_000, ..Receive::at(at) };
        stage.start(Side::Server, "store", Act::Receive(slow))?;
        stage.start(Side::Client, "backup", Act::Send(Send::to(vec![at; 12])))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        let pressures = seen.counter(Side::Client, "TCPMemoryPressures")
            + seen.counter(Side::Server, "TCPMemoryPressures")
            + seen.counter(Side::Client, "PruneCalled")
            + seen.counter(Side::Server, "PruneCalled");
        claims.least("times under pressure", pressures, 1);
    },
    ..Scenario::fault("tcp-memory-pressure", &["node:"])
};
