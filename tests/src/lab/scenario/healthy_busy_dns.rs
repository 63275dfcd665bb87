//! Many queries for names, all answered, some with the news that there is no such name.

use super::prelude::*;
use crate::machine;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("per_s", [60, 300]), Parameter::any("work_ms", [0, 5])],
    set: |stage, it| {
        const NO_SUCH_NAME: u8 = 3;
        let dns = Dns {
            work: it.ms("work_ms"),
            bad: 150,
            how: Bad::Code(NO_SUCH_NAME),
            ..Dns::at(stage.at(53))
        };
        // A quarter of that is still too much for an emulated processor where others play beside it.
        names(stage, dns, it["per_s"] / machine::amount(1, 16))
    },
    proof: |_, seen, claims| {
        claims.least("names that there are", seen.said("resolver", "answered"), 20);
        claims.least("names that there are not", seen.said("resolver", "answered_badly"), 1);
    },
    ..Scenario::healthy("busy-dns")
};
