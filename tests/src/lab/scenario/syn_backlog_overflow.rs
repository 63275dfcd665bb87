//! More half-open connections than a listener has room for: a flood of SYNs from addresses that never answer.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::new("per_s", [100, 500], [2, 4]),
        Parameter::any("backlog", [32, 128]),
        // Below the backlog the kernel keeps a quarter for clients that it knows.
        Parameter::any("syn_backlog", [32, 1024]),
        Parameter::any("cookies", [0, 1]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        stage.sysctl(Side::Server, "ipv4/tcp_max_syn_backlog", &it["syn_backlog"])?;
        stage.sysctl(Side::Server, "ipv4/tcp_syncookies", &it["cookies"])?;
        let at = stage.at(443);
        let serve = Serve { backlog: it["backlog"] as i32, ..Serve::at(vec![at]) };
        stage.start(Side::Server, "proxy", Act::Serve(serve))?;
        let flood = Syns { from: stage.address(100), to: at, per_second: it["per_s"] as f64 };
        stage.start(Side::Client, "flood", Act::Syns(flood))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let without_room = ["TCPReqQFullDrop", "TCPReqQFullDoCookies", "ListenDrops"]
            .map(|name| seen.counter(Side::Server, name));
        claims.least("requests without room", without_room.iter().sum(), it["per_s"] * 2);
        let room = it["backlog"].min(it["syn_backlog"]);
        claims.least("in SYN-RECV", seen.sockets(Side::Server, "SYN-RECV"), room / 2);
    },
    ..Scenario::fault("syn-backlog-overflow", &["process:{proxy}", "namespace:{server-netns}"])
};
