//! The programs, one file per signal: thin entries around one body.

pub(crate) mod conntrack;
pub(crate) mod dns;
pub(crate) mod drop;
pub(crate) mod reset;
pub(crate) mod retransmit;
pub(crate) mod rtt;
pub(crate) mod send;
pub(crate) mod socket;
pub(crate) mod turn;
