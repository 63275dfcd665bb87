//! The running kernel: what it is, where its structs keep their fields, which hooks it has.
//!
//! The only part of netdiag that names aya.

mod account;
mod ahead;
pub mod attach;
pub mod btf;
mod cgroups;
pub mod cost;
mod ctnetlink;
mod drops;
pub mod facts;
mod hooks;
pub mod memlock;
pub mod missed;
mod modules;
mod object;
mod packets;
pub mod plan;
mod pseudo;
pub mod ring;
pub mod stacks;
mod stranded;
pub mod symbols;
pub mod tracefs;
pub mod tracer;
