//! Where everything is built: this machine, or the one below a guest that is shown it
//! (`cargo xtask vm --share`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{container::Container, tool};

/// Names the directory of a guest where the machine below is.
pub const BELOW: &str = "NETDIAG_MACHINE";

/// What cargo is found by. In a guest these are the guest's own; those of the machine below have [`BELOW`] and
/// a `_` before their names.
const VARIABLES: [&str; 5] = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];

/// Directories that every container has of its own, or that hold nothing that builds.
const OWN: [&str; 8] = ["proc", "sys", "dev", "tmp", "host", "run", "var", "lost+found"];

/// The machine with the toolchain and the work tree.
#[derive(Debug)]
pub struct Workshop {
    /// Where its root is seen.
    root: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Workshop {
    /// Finds it; none where a guest is shown nothing.
    #[must_use]
    pub fn find() -> Option<Self> {
        let below = env::var_os(BELOW).map(PathBuf::from);
        let prefix = if below.is_some() { format!("{BELOW}_") } else { String::new() };
        let value = |name| Some((name, env::var(format!("{prefix}{name}")).ok()?));
        let variables = VARIABLES.into_iter().filter_map(value).collect();
        let workshop = Self { root: below.unwrap_or_else(|| "/".into()), variables };
        workshop.is_whole().then_some(workshop)
    }

    fn is_whole(&self) -> bool {
        let path = self.variables.iter().find(|(name, _)| *name == "PATH");
        let mut directories = path.into_iter().flat_map(|(_, path)| env::split_paths(path));
        // A link may lead out of a root that is not ours.
        let has_cargo =
            |directory: PathBuf| self.seen(&directory.join("cargo")).symlink_metadata().is_ok();
        directories.any(has_cargo) && self.seen(&tree()).join("Cargo.toml").is_file()
    }

    /// Where a path of that machine is seen.
    fn seen(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether this is another machine than the one that the test runs on.
    #[must_use]
    pub fn is_below(&self) -> bool {
        self.root != Path::new("/")
    }

    /// A container in which everything is there that builds, at its own path and read-only but for the work
    /// tree's target; it begins in the work tree.
    ///
    /// # Errors
    /// When its root or target is not there.
    pub fn furnish(&self, container: Container) -> Result<Furnished> {
        let mut container = container.without_mounts("/usr");
        for directory in fs::read_dir(&self.root)?.flatten() {
            let (path, name) = (directory.path(), directory.file_name());
            if !OWN.iter().any(|own| name == *own) && path.is_dir() {
                container =
                    container.with_mount(&path, &Path::new("/").join(name).to_string_lossy(), true);
            }
        }
        let tree = tree();
        let target = tree.join("target");
        ensure!(self.seen(&target).is_dir(), "nothing is built: there is no {}", target.display());
        let layer = if self.is_below() { Some(Layer::over(&self.seen(&target))?) } else { None };
        let writable = layer.as_ref().map_or_else(|| target.clone(), Layer::merged);
        container = container.with_mount(&writable, &target.to_string_lossy(), false);
        for (name, value) in &self.variables {
            container = container.with_env(name, value);
        }
        Ok(Furnished { container: container.in_directory(&tree), _layer: layer })
    }
}

/// A container to build in, and what is written there.
#[derive(Debug)]
pub struct Furnished {
    /// It goes before what it uses.
    pub container: Container,
    _layer: Option<Layer>,
}

/// A directory that can be written to, over one that cannot; what is written goes with it.
#[derive(Debug)]
struct Layer(TempDir);

impl Layer {
    fn over(lower: &Path) -> Result<Self> {
        let layer = Self(tempfile::tempdir()?);
        for name in ["upper", "work", "merged"] {
            fs::create_dir(layer.0.path().join(name))?;
        }
        let at = |name| layer.0.path().join(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), at("upper"), at("work"));
        tool::run("mount", &["-t", "overlay", "-o", &options, "overlay", &at("merged")])?;
        Ok(layer)
    }

    fn merged(&self) -> PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let merged = self.merged().display().to_string();
        if let Err(error) = tool::run("umount", &[&merged]) {
            eprintln!("{merged} may stay mounted: {error:#}");
        }
    }
}

/// The work tree that this test was built from, by its path where it was built.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}
