//! `cargo xtask image`: the image for containers, made without an engine.
//!
//! The Dockerfile runs this, too, and copies the root file system that it leaves: both ways give the
//! same image.

mod archive;
mod recipe;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use self::recipe::Recipe;
use crate::{build, process, workspace};

/// Make the image for containers, without an engine
#[derive(clap::Args)]
#[command(
    after_help = "Leaves target/image/rootfs, its root file system, and target/image/netdiag.tar, the image.

Examples:
  cargo xtask image
  podman load --input target/image/netdiag.tar
  docker load --input target/image/netdiag.tar
  ctr --namespace k8s.io images import target/image/netdiag.tar      on a node"
)]
pub(crate) struct Args {}

/// What the root file system may take. Every node fetches it, perhaps over the network that is slow.
const MOST_BYTES: u64 = 25_000_000;

/// Mount points, which nobody can make on a root that is read-only.
const DIRECTORIES: [&str; 7] = ["dev", "etc", "host", "proc", "sys", "tmp", "var/lib/netdiag"];

const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// Runs `doctor` by the image's root file system at /image, which has what an engine mounts and no more.
pub(crate) const DOCTOR: &str = "mount -t proc proc /image/proc && mount -t sysfs sysfs /image/sys && \
                                 chroot /image netdiag doctor";

pub(crate) fn main(_: &Args) -> Result<ExitCode> {
    let (root, size) = root_file_system(&build::netdiag(true)?)?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = size as f64 / 1e6;
    eprintln!("image: {} has {megabytes:.1} MB", root.display());
    let recipe = fs::read_to_string(workspace::root().join("Dockerfile"))?;
    let recipe = Recipe::parse(&recipe).context("the Dockerfile cannot be followed")?;
    let image = root.with_file_name("netdiag.tar");
    archive::write(&root, &recipe, &image)?;
    eprintln!("image: {} is {}", image.display(), archive::name());
    Ok(ExitCode::SUCCESS)
}

/// Makes it anew around the binary `netdiag`; gives where it is, and the bytes of all its files.
pub(crate) fn root_file_system(netdiag: &Path) -> Result<(PathBuf, u64)> {
    let root = workspace::target().join("image/rootfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in DIRECTORIES.into_iter().chain(["usr/bin", "usr/share/doc/netdiag"]) {
        fs::create_dir_all(root.join(directory))?;
    }
    // Without the lines of the sources, which take twice as much as all the rest.
    let binary = root.join("usr/bin/netdiag");
    process::run(Command::new("strip").arg("-o").args([&*binary, netdiag]))?;
    let mut size = fs::metadata(&binary)?.len();
    for licence in LICENCES {
        let to = root.join("usr/share/doc/netdiag").join(licence);
        size += fs::copy(workspace::root().join(licence), to)?;
    }
    if size > MOST_BYTES {
        bail!("the image would have {size} bytes, {MOST_BYTES} are the most: what made it grow?");
    }
    Ok((root, size))
}
