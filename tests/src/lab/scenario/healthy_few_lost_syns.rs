//! A SYN that is lost now and then, as happens on any path.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: &[Parameter::any("per_s", [10, 30])],
    // Of the 500 that are watched hardly more than two.
    set: |stage, it| losing_syns(stage, 1, it["per_s"]),
    ..Scenario::healthy("few-lost-syns")
};
