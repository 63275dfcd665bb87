//! netdiag: why is this node's network slow?
//!
//! Data flows one way: hook → record → event → flow → snapshot → finding → view. See
//! ARCHITECTURE.md for the map and the invariants.

pub mod cli;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod definition;
pub mod diagnosis;
pub mod event;
pub mod exit;
pub mod finding;
pub mod flow;
pub mod format;
#[cfg(test)]
mod hostile;
pub mod kernel;
pub mod labels;
pub mod node;
pub mod owner;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod signal;
pub mod snapshot;
pub mod view;
pub mod watched;
