//! A receiver whose window is small for the distance.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("receive_buffer_kb", [12, 48], [512, 1024]),
        Parameter::any("one_way_ms", [20, 60]),
        // The twin sends at a pace that its window has room for.
        Parameter::new("kb_per_s", [0, 0], [50, 150]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(it.ms("one_way_ms")))?;
        let at = stage.at(873);
        let buffer = Some(it["receive_buffer_kb"] as usize * 1024);
        let receive = Receive { receive_buffer: buffer, ..Receive::at(at) };
        stage.start(Side::Server, "mirror", Act::Receive(receive))?;
        let send = match it["kb_per_s"] {
            0 => Send::to(vec![at]),
            pace => Send::paced(vec![at], pace * 1000),
        };
        stage.start(Side::Client, "rsync", Act::Send(send))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        let limited = seen.most(Side::Client, "rwnd_limited") as u64;
        claims.least("ms limited by the window, of those busy", limited * 2, {
            seen.most(Side::Client, "busy") as u64
        });
        claims.least("ms busy", seen.most(Side::Client, "busy") as u64, 5000);
    },
    ..Scenario::fault("window-limited", &["peer:{server}", "backend:{server}", "flow:{server}"])
};
