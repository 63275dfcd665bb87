//! To be written.
#![no_std]
#![cfg_attr(target_arch = "bpf", no_main)]
#[cfg(not(target_arch = "bpf"))]
extern crate std;
#[cfg(not(target_arch = "bpf"))]
fn main() {}
