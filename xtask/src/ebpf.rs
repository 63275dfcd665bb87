//! Builds the eBPF object.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

use crate::{process, setup::EbpfTools, toolchain::Toolchain, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// `-C target-cpu` of the object. v3 (32-bit ALU and jumps) loads since Linux 5.1; v4 needs 6.6.
const CPU: &str = "v3";

/// Builds `netdiag-ebpf` and leaves the object where netdiag's build script takes it, touching it
/// only when its bytes changed so that nothing is rebuilt in vain.
pub(crate) fn build(tools: &EbpfTools) -> Result<PathBuf> {
    let directory = workspace::target().join("ebpf-build");
    let Toolchain { cargo, rustc, .. } = &tools.toolchain;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Ctarget-cpu={CPU}"),
    ];
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace::root())
        .args(["build", "--quiet", "--package", "netdiag-ebpf", "--bins", "--release"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&directory)
        .env("RUSTC_BOOTSTRAP", "1")
        // By path: PATH may hold rustup's shims, which would choose another compiler.
        .env("RUSTC", rustc)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Over the workspace's release profile: the linker optimizes the whole program itself,
        // and BTF is made from the debug information of core too.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    for outer in
        ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
    {
        command.env_remove(outer);
    }
    process::run(&mut command)
        .with_context(|| format!("the eBPF object does not build with {tools}"))?;
    let built = directory.join(TARGET).join("release/netdiag-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    check(&bytes).with_context(|| format!("{} is no eBPF object", built.display()))?;
    let bytes = without_debug(&bytes)
        .with_context(|| format!("{} cannot be written anew", built.display()))?;
    let object = workspace::ebpf_object();
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(object);
    }
    let directory = object.parent().context("the object's path has no directory")?;
    fs::create_dir_all(directory)?;
    let new = directory.join(".netdiag-ebpf.new");
    fs::write(&new, &bytes)
        .and_then(|()| fs::rename(&new, &object))
        .with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

/// Leaves out what only debuggers read, and BTF was made of: nine tenths of the object, all of whose sections are
/// read at each start.
fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut file = Builder::read(object)?;
    for section in &mut file.sections {
        let name = section.name.strip_prefix(b".rel").unwrap_or(&section.name);
        section.delete |= name.starts_with(b".debug");
    }
    file.delete_orphans();
    // LLVM keeps the names of sections among those of symbols.
    let names = file.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut bytes = Vec::new();
    file.write(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what the kernel or aya would refuse later with less to say: no ELF for BPF, no BTF.
fn check(object: &[u8]) -> Result<()> {
    /// `e_machine` of BPF (elf.h).
    const EM_BPF: u8 = 247;
    if !object.starts_with(b"\x7fELF") || object.get(18) != Some(&EM_BPF) {
        bail!("it is not an ELF file for BPF");
    }
    // The end of a section's name: `.rel.BTF` and `.BTF` may share their bytes.
    if !object.windows(5).any(|window| window == b".BTF\0") {
        bail!("it has no BTF: is bpf-linker run with --btf?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bpf_with_btf_passes() {
        let mut elf = vec![0; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 62;
        assert!(check(&elf).is_err(), "x86-64");
        elf[18] = 247;
        assert!(check(&elf).is_err(), "no BTF");
        elf.extend_from_slice(b".BTF\0");
        check(&elf).unwrap();
        assert!(check(b"\x7fEL").is_err(), "short");
    }
}
