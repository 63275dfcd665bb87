//! Files that a client hands over at once, and that its kernel takes its time to send: nobody is slow.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    parameters: UPLOADS,
    set: uploads,
    proof: uploaded,
    ..Scenario::healthy("large-requests")
};
