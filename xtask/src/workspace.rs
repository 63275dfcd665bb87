//! Where things stand in the work tree.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::{Context, Result};

/// The workspace's root: as cargo says when it runs this program, since the tree may have been moved
/// after it was built.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = || env!("CARGO_MANIFEST_DIR").into();
        let xtask = env::var_os("CARGO_MANIFEST_DIR").map_or_else(built, PathBuf::from);
        xtask.parent().expect("xtask/ stands in the workspace's root").to_path_buf()
    });
    &ROOT
}

/// The root's `target`, where everything that xtask makes goes.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Tools built from the registry (`cargo install --root`), kept out of the user's PATH.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The eBPF object that netdiag embeds.
pub(crate) fn ebpf_object() -> PathBuf {
    target().join("ebpf/netdiag-ebpf")
}

/// The userspace binary of a cargo profile directory (`debug` or `release`).
pub(crate) fn netdiag(profile: &str) -> PathBuf {
    target().join(profile).join("netdiag")
}

/// Where cargo puts what it builds for this machine: `target/TRIPLE`, as the build target is named
/// in .cargo/config.toml.
pub(crate) fn host_target() -> Result<PathBuf> {
    let xtask = xtask()?;
    let profile = xtask.parent().context("this program stands in no directory")?;
    Ok(profile.parent().context("this program stands in no target directory")?.to_path_buf())
}

/// This very program. Where cargo has built it anew since it began, for other features of what it depends
/// on, the new one stands in its place and does the same.
pub(crate) fn xtask() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot tell where this program stands")?;
    Ok(living(&path))
}

/// The path of a program without the mark that the kernel gives to one whose file was replaced
/// (`fs/d_path.c`, Linux 6.12).
fn living(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)).into()
}

/// Copies what cargo builds from: all but hidden files and what was built.
pub(crate) fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (name, to) = (entry.file_name(), to.join(entry.file_name()));
        if name == "target" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_sources(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| format!("cannot make {}", to.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_stands_where_it_stood() {
        assert_eq!(living(Path::new("/t/debug/xtask (deleted)")), Path::new("/t/debug/xtask"));
        assert_eq!(living(Path::new("/t/debug/xtask")), Path::new("/t/debug/xtask"));
    }
}
