//! All scenarios, one file and one line each.

use super::Scenario;

macro_rules! scenarios {
    ($($module:ident)*) => {
        $(mod $module;)*

        /// All of them.
        pub static SCENARIOS: &[&Scenario] = &[$(&$module::SCENARIO),*];
    };
}

scenarios! {
    close_wait_leak
    connection_refused
    high_rtt
    packet_loss
    slow_peer_application
}

/// The scenario of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
}

/// What most scenarios need.
mod prelude {
    pub(super) use std::time::Duration;

    pub(super) use crate::{
        lab::{
            Expect, Needs, Parameter, Scenario, Side,
            act::{
                Accept, Act, Ask, Bad, Datagrams, Dns, Each, End, Open, Receive, Resolve, Send,
                Serve, Then,
            },
        },
        network::link::{Rate, Spell, Way},
    };

    pub(super) const MS: Duration = Duration::from_millis(1);
}
