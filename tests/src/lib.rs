//! The harness of the kernel-facing tests: real namespaces, links, faults and traffic, and the
//! netdiag binary run as a user runs it.
//!
//! A test makes a [`network::Pair`], starts a [`netdiag::Netdiag`], drives [`traffic`], and
//! compares what netdiag said with what the callers and the kernel counted. All facts go into a
//! [`facts::Facts`], which prints every one of them when any is wrong. Nothing here needs more than
//! the tools of a bare virtual machine (`ip`, `tc`, `nft`), and everything is removed on drop.

pub mod attempt;
pub mod beside;
pub mod bpf;
pub mod bpftrace;
pub mod browser;
pub mod capture;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod collector;
pub mod conntrack;
pub mod container;
pub mod counters;
pub mod disk;
pub mod dns;
pub mod dropping;
pub mod dumps;
pub mod facts;
pub mod fault;
pub mod feeder;
pub mod gate;
pub mod hiccup;
pub mod hlog;
pub mod injection;
pub mod interleaved;
pub mod lab;
pub mod load;
pub mod machine;
pub mod namespace;
pub mod netdiag;
pub mod network;
pub mod outcome;
pub mod pods;
pub mod processor;
pub mod program;
pub mod prometheus;
pub mod random;
pub mod reader;
pub mod recording;
pub mod requirement;
pub mod setting;
pub mod soak;
pub mod source;
pub mod ss;
pub mod stream;
pub mod terminal;
pub mod tool;
pub mod traffic;
pub mod tree;
pub mod usage;
pub mod witness;
pub mod workshop;
