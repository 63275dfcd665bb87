//! A SYN that is lost now and then, as happens on any path.

use std::sync::Arc;

use super::prelude::*;
use crate::fault;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("per_s", [10, 30])],
    set: |stage, it| {
        // Of the 500 that are watched hardly more than two, and mostly none.
        losing_syns(stage, 1, it["per_s"])?;
        // So one is lost in any case.
        let server = Arc::clone(stage.side(Side::Server));
        let one = syns_dropped("once", "numgen inc mod 1000000 < 1");
        stage.after(Duration::from_secs(2), move || fault::load(&server, &one));
        Ok(())
    },
    proof: |_, seen, claims| {
        let [again, asked] =
            ["TCPSynRetrans", "ActiveOpens"].map(|name| seen.counter(Side::Client, name));
        claims.least("SYNs sent again", again, 1);
        claims.least("connections asked for, of 30 to each of these", asked, 30 * again);
    },
    ..Scenario::healthy("few-lost-syns")
};
