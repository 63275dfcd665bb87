//! Photos from phones: requests that take long to arrive, and that their server has soon worked on.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: UPLOADS,
    set: uploads,
    proof: uploaded,
    ..Scenario::healthy("slow-uploads")
};
