//! A slow link behind a long queue, which a stream fills.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::any("kbit_per_s", [2_000, 5_000]),
        Parameter::any("queue_ms", [1_000, 2_000]),
        // The twin's stream leaves room.
        Parameter::new("percent", [0, 0], [30, 60]),
    ],
    set: |stage, it| {
        let bytes_per_second = it["kbit_per_s"] * 125;
        let queue = bytes_per_second * it["queue_ms"] / 1000;
        let way = Way::delayed(5 * MS);
        stage.link([way.rate(Rate { bytes_per_second, queue }), way])?;
        let (bulk, api) = (stage.at(9000), stage.at(80));
        stage.start(Side::Server, "store", Act::Receive(Receive::at(bulk)))?;
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![api])))?;
        let send = match it["percent"] {
            0 => Send::to(vec![bulk]),
            share => Send::paced(vec![bulk], bytes_per_second * share / 100),
        };
        stage.start(Side::Client, "backup", Act::Send(send))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 4], 20.0)))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        let wait = seen.carried(Side::Client).longest_wait;
        claims.least("ms that a packet waited at most", wait.as_millis() as u64, 100);
        claims.least("median answer, us", seen.said("web", "p50_us"), 60_000);
    },
    ..Scenario::fault("bufferbloat", &["peer:{server}", "backend:{server}"])
};
