//! More half-open connections than a listener has room for: a flood of SYNs from addresses that never answer.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::new("per_s", [100, 500], [2, 4]),
        Parameter::any("backlog", [32, 128]),
        Parameter::any("cookies", [0, 1]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        stage.sysctl(Side::Server, "ipv4/tcp_max_syn_backlog", it["backlog"])?;
        stage.sysctl(Side::Server, "ipv4/tcp_syncookies", it["cookies"])?;
        let at = stage.at(443);
        let serve = Serve { backlog: it["backlog"] as i32, ..Serve::at(vec![at]) };
        stage.start(Side::Server, "proxy", Act::Serve(serve))?;
        let flood = Syns { from: stage.address(100), to: at, per_second: it["per_s"] as f64 };
        stage.start(Side::Client, "flood", Act::Syns(flood))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let [dropped, cookies] = ["TCPReqQFullDrop", "TCPReqQFullDoCookies"]
            .map(|name| seen.counter(Side::Server, name));
        claims.least("requests without room", dropped + cookies, it["per_s"] * 2);
        claims.least("in SYN-RECV", seen.sockets(Side::Server, "SYN-RECV"), it["backlog"] / 2);
    },
    ..Scenario::fault("syn-backlog-overflow", &["process:{proxy}", "namespace:{server-netns}"])
};
