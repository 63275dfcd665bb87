//! Embeds the eBPF object: `$NETDIAG_EBPF_OBJECT`, or what `cargo xtask build` made.
//!
//! Writes `ebpf_object.rs` into `OUT_DIR`, for one `include!`: a generic function
//! `ebpf_object<const EMBEDDED: bool>() -> &'static [u8]`, 8-byte aligned as ELF parsers want it.
//! Without an object it cannot be compiled, only checked: its panic is evaluated when code is
//! generated, which `cargo check` and clippy never do.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=NETDIAG_EBPF_OBJECT");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let object = env::var_os("NETDIAG_EBPF_OBJECT")
        .map_or_else(|| manifest.join("../target/ebpf/netdiag-ebpf"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let body = match fs::read(&object) {
        Ok(bytes) => {
            fs::write(out.join("netdiag-ebpf"), bytes)?;
            "aya::include_bytes_aligned!(concat!(env!(\"OUT_DIR\"), \"/netdiag-ebpf\"))"
        }
        Err(_) => {
            "const { assert!(!EMBEDDED, \"there is no eBPF object: run `cargo xtask build`\") };\n    &[]"
        }
    };
    let source = format!(
        "/// The eBPF object that this binary carries.\n\
         fn ebpf_object<const EMBEDDED: bool>() -> &'static [u8] {{\n    {body}\n}}\n"
    );
    fs::write(out.join("ebpf_object.rs"), source)?;
    Ok(())
}
