//! A path on which packets overtake others.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("late_ppm", [20_000, 100_000], [20, 60]),
        Parameter::any("late_ms", [2, 6]),
    ],
    set: |stage, it| {
        let way = Way::delayed(10 * MS);
        stage.link([way.late(it["late_ppm"], it.ms("late_ms")), way])?;
        let at = stage.at(9000);
        stage.start(Side::Server, "store", Act::Receive(Receive::at(at)))?;
        // Several segments a send, so that there is something to overtake.
        let send = Send { chunk: 30_000, per_second: 12.0, ..Send::to(vec![at; 2]) };
        stage.start(Side::Client, "backup", Act::Send(send))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("packets that were overtaken", seen.carried(Side::Client).late, 50);
        let seen_late = seen.counter(Side::Server, "TCPOFOQueue");
        claims.least("segments that arrived before others", seen_late, 50);
    },
    ..Scenario::fault("reordering", &["peer:{server}", "backend:{server}"])
};
