//! A sender whose own buffer is small for the distance.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[
        Parameter::new("send_buffer_kb", [4, 20], [512, 1024]),
        Parameter::any("one_way_ms", [20, 60]),
        // The twin sends at a pace that its buffer has room for.
        Parameter::new("kb_per_s", [0, 0], [50, 150]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(it.ms("one_way_ms")))?;
        let at = stage.at(873);
        stage.start(Side::Server, "mirror", Act::Receive(Receive::at(at)))?;
        let send = match it["kb_per_s"] {
            0 => Send::to(vec![at]),
            pace => Send::paced(vec![at], pace * 1000),
        };
        let send_buffer = Some(it["send_buffer_kb"] as usize * 1024);
        // Paced, or the kernel does not see it: a full buffer counts from when its last segment leaves.
        let send = Send { send_buffer, pacing: Some(5_000_000), ..send };
        stage.client.ip(&format!("link set {} gso_max_segs 1", stage.device()))?;
        stage.start(Side::Client, "rsync", Act::Send(send))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        let limited = seen.most(Side::Client, "sndbuf_limited") as u64;
        let busy = seen.most(Side::Client, "busy") as u64;
        claims.least("ms limited by the send buffer, of those busy", limited * 2, busy);
        claims.least("ms busy", busy, 5000);
    },
    ..Scenario::fault(
        "send-buffer-limited",
        &["process:{rsync}", "peer:{server}", "backend:{server}", "flow:{server}"],
    )
};
