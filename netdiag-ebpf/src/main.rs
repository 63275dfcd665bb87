//! netdiag's eBPF programs.
//!
//! `signal/` holds the thin entries, one file per signal, around one `observe` body each; those that
//! two signals share are in `calls.rs`. Kernel memory is read in `kernel.rs` only, records leave
//! through `ring.rs` only.
#![no_std]
#![cfg_attr(target_arch = "bpf", no_main)]
// `asm!` on BPF is not stable yet; `core` has to be built for this target anyhow.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod account;
#[cfg(target_arch = "bpf")]
mod assembly;
#[cfg(target_arch = "bpf")]
mod batch;
#[cfg(target_arch = "bpf")]
mod calls;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod nested;
#[cfg(target_arch = "bpf")]
mod netns;
#[cfg(target_arch = "bpf")]
mod numbers;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod ring;
#[cfg(target_arch = "bpf")]
mod signal;
#[cfg(target_arch = "bpf")]
mod slot;
#[cfg(target_arch = "bpf")]
mod stack;
#[cfg(target_arch = "bpf")]
mod table;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod tracked;
#[cfg(target_arch = "bpf")]
mod words;

/// The kernel lets only GPL-compatible programs use the tracing helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that can reach this loop.
    loop {}
}

/// On the host this crate is empty: the programs exist for the BPF target only.
#[cfg(not(target_arch = "bpf"))]
extern crate std;
#[cfg(not(target_arch = "bpf"))]
fn main() {}
