//! Builds the eBPF object.

mod btf;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

use crate::{process, setup::EbpfTools, toolchain::Toolchain, workspace};

/// What the programs of the kernel are built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// `-C target-cpu` of the object. v3 (32-bit ALU and jumps) loads since Linux 5.1; v4 needs 6.6.
const CPU: &str = "v3";

/// Builds `netdiag-ebpf` and leaves the object where netdiag's build script takes it, touching it
/// only when its bytes changed so that nothing is rebuilt in vain.
pub(crate) fn build(tools: &EbpfTools) -> Result<PathBuf> {
    let bytes = compile(tools, workspace::root(), &workspace::target().join("ebpf-build"))?;
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

/// Builds the object again, from a copy of the sources elsewhere, and fails when its bytes are others: who
/// has the sources can tell whether a binary runs them in the kernel.
pub(crate) fn reproduce(tools: &EbpfTools) -> Result<()> {
    let first = fs::read(build(tools)?)?;
    let elsewhere = tempfile::tempdir().context("no directory for a copy of the sources")?;
    let copy = elsewhere.path().join("sources");
    workspace::copy_sources(workspace::root(), &copy)?;
    let again = compile(tools, &copy, &elsewhere.path().join("built"))?;
    if let Some(path) = machine_path(&again, elsewhere.path()) {
        bail!(
            "the eBPF object holds a path of this machine, {path}: see `names` in xtask/src/ebpf.rs"
        );
    }
    if first != again {
        let at = first.iter().zip(&again).take_while(|(one, other)| one == other).count();
        bail!(
            "the eBPF object differs from byte {at} on where it is built in another directory ({} and {} \
             bytes): who builds it cannot tell whether it is the same",
            first.len(),
            again.len()
        );
    }
    Ok(())
}

/// A path that tells where it was built, if `object` has one.
fn machine_path(object: &[u8], sources: &Path) -> Option<String> {
    let homes = [Some(sources.to_path_buf()), cargo_home()];
    homes.into_iter().flatten().find_map(|home| {
        let home = home.to_string_lossy().into_owned();
        let is_there = object.windows(home.len()).any(|bytes| bytes == home.as_bytes());
        is_there.then_some(home)
    })
}

/// Compiles the object from the sources at `root` into `directory`, and gives its bytes.
fn compile(tools: &EbpfTools, root: &Path, directory: &Path) -> Result<Vec<u8>> {
    let Toolchain { cargo, rustc, .. } = &tools.toolchain;
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Ctarget-cpu={CPU}"),
    ];
    flags.extend(names(root, rustc)?);
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--quiet", "--package", "netdiag-ebpf", "--bins", "--release"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(directory)
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
    without_debug(&bytes).with_context(|| format!("{} cannot be written anew", built.display()))
}

/// What tells the compiler to name source files by where they are in the sources, the registry or the
/// compiler, not by where those lie on this machine: BTF has the names.
fn names(root: &Path, rustc: &Path) -> Result<Vec<String>> {
    let sysroot = process::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let mut names = vec![(root.to_path_buf(), "")];
    if let Ok(library) = library.canonicalize() {
        names.push((library, "rustc"));
    }
    names.push((library, "rustc"));
    let registries = cargo_home().map(|home| home.join("registry/src"));
    // A registry that is not there yet has no source in the object either: xtask is built from it as well.
    let registries =
        registries.and_then(|sources| fs::read_dir(sources).ok()).into_iter().flatten();
    names.extend(registries.filter_map(|entry| Some((entry.ok()?.path(), "registry"))));
    let flag = |(from, to): (PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(names.into_iter().map(flag).collect())
}

/// Where cargo keeps what it downloads.
fn cargo_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// Leaves out what only debuggers read, of which BTF was made, and the lines in BTF. Every section is read at each
/// start, and these are more than nine tenths of the object: of 11.7 MB 1.0 is left.
fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut file = Builder::read(object)?;
    let mut parts = [None, None];
    for section in &mut file.sections {
        let name = section.name.strip_prefix(b".rel").unwrap_or(&section.name);
        let of_instructions = &section.name[..] == b".rel.BTF.ext";
        section.delete |= name.starts_with(b".debug") || of_instructions;
        let part = [&b".BTF"[..], b".BTF.ext"].iter().position(|part| section.name[..] == **part);
        if let (Some(part), SectionData::Data(data)) = (part, &mut section.data) {
            parts[part] = Some(data);
        }
    }
    let [Some(types), Some(instructions)] = parts else { bail!("it has not all of BTF") };
    let (new_types, new_instructions) = btf::without_lines(types, instructions)?;
    *types = new_types.into();
    *instructions = new_instructions.into();
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
