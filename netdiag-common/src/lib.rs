//! The ABI between netdiag's eBPF programs and its userspace, and nothing else.
//!
//! Everything here is plain data: `repr(C)`, no padding, readable from bytes without `unsafe`. The
//! two sides are always built together, yet a record carries [`header::VERSION`] so that a
//! mismatch is counted as malformed instead of being misread.
#![no_std]

pub mod batch;
pub mod counters;
pub mod estimator;
pub mod field;
pub mod flow;
pub mod globals;
pub mod header;
pub mod message;
pub mod signal;
pub mod stack;
pub mod table;
pub mod turn;
pub mod window;
