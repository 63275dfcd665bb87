//! The running kernel: what it is, where its structs keep their fields, which hooks it has.
//!
//! The only part of netdiag that names aya.

pub mod btf;
pub mod facts;
pub mod memlock;
pub mod missed;
mod pseudo;
pub mod symbols;
pub mod tracefs;
