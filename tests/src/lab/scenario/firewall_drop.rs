//! A rule of this node that drops what clients send to a server on it.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[
        Parameter::new("every_ms", [40, 200], [9_000, 12_000]),
        Parameter::any("port", [8000, 9000]),
    ],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let (good, bad) = (stage.at(80), stage.at(it["port"] as u16));
        stage.nft(Side::Server, &format!(
            "table inet guard {{\n chain input {{\n type filter hook input priority 0;\n \
             tcp dport {} drop\n }}\n}}\n", bad.port()
        ))?;
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![good, bad])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![good; 2], 20.0)))?;
        let open = Open {
            per_second: 1000.0 / it["every_ms"] as f64,
            ..Open::at_once(vec![bad], u64::MAX, Then::Closes)
        };
        stage.start(Side::Client, "other", Act::Open(open))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let least = 2_000 / it["every_ms"];
        claims.least("clients without an answer", seen.sockets(Side::Client, "SYN-SENT"), least);
        claims.least("SYNs sent again", seen.counter(Side::Client, "TCPSynRetrans"), 3 * least);
        claims.least("answers at the other port", seen.said("web", "answers"), 100);
    },
    ..Scenario::fault(
        "firewall-drop",
        &["namespace:{server-netns}", "process:{api}", "backend:{server}", "peer:{client}", "flow:{client}"],
    )
};
