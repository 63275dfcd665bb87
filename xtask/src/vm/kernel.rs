//! Debian's stock kernels, fetched as packages into `target/vm/kernels/SERIES` and never installed.
//!
//! A kernel is fetched once: delete its directory to get a newer build.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{apt::Apt, archive::Archive};
use crate::{process, version, workspace};

/// A kernel ready to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// `6.12`
    pub(crate) series: String,
    /// Release and package version: `6.12.117+deb12-cloud-amd64 (6.12.117-1~deb12u1)`.
    pub(crate) build: String,
    pub(crate) vmlinuz: PathBuf,
    /// Its modules as a cpio archive.
    pub(crate) modules: PathBuf,
}

/// The newest series that Debian builds.
pub(crate) const NEWEST: &str = "newest";

/// Suites that carry a series.
fn suites(series: &str) -> &'static [&'static str] {
    match series {
        "5.10" => &["bullseye", "bullseye-updates", "bullseye-security"],
        "6.1" => &["bookworm", "bookworm-updates", "bookworm-security"],
        "6.12" => &["bookworm-backports", "bookworm-security"],
        _ => &["sid"],
    }
}

impl Kernel {
    /// The kernel of `series` (`6.12`, or `newest`), fetched when it is not here yet.
    pub(crate) fn get(series: &str) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!("virtual machines need an x86-64 host: the kernels are Debian's cloud-amd64");
        }
        if series == NEWEST {
            return Self::get(&newest()?);
        }
        let directory = kernels().join(series);
        if let Some(kernel) = Self::cached(&directory) {
            return Ok(kernel);
        }
        fs::create_dir_all(&directory)?;
        let lock = fs::File::create(directory.join("lock"))?;
        lock.lock().context("cannot lock the kernel's directory")?;
        if let Some(kernel) = Self::cached(&directory) {
            return Ok(kernel);
        }
        fetch(series, &directory).with_context(|| format!("cannot get a {series} kernel"))?;
        Self::cached(&directory).context("the kernel was fetched but is not whole")
    }

    /// `build` is written last: it tells that all the rest is there.
    fn cached(directory: &Path) -> Option<Self> {
        let build = fs::read_to_string(directory.join("build")).ok()?;
        let (major, minor) = version::major_minor(&build)?;
        Some(Self {
            series: format!("{major}.{minor}"),
            build,
            vmlinuz: directory.join("vmlinuz"),
            modules: directory.join("modules.cpio"),
        })
    }
}

fn kernels() -> PathBuf {
    workspace::target().join("vm/kernels")
}

/// The newest series, looked up once.
fn newest() -> Result<String> {
    let known = kernels().join("newest");
    if let Ok(series) = fs::read_to_string(&known) {
        return Ok(series);
    }
    let names = Apt::new(suites(NEWEST))?.images()?;
    let series = all_series(&names).pop().context("Debian's newest suite has no kernel")?;
    fs::create_dir_all(kernels())?;
    fs::write(known, series)?;
    Ok(series.to_owned())
}

fn fetch(series: &str, directory: &Path) -> Result<()> {
    eprintln!("vm: fetching Debian's kernel {series}: it is not under target/vm yet");
    let apt = Apt::new(suites(series))?;
    let names = apt.images()?;
    let images = images(&names, series);
    if images.is_empty() {
        let mut offered = all_series(&names);
        offered.dedup();
        bail!("{} has no such series, but: {}", suites(series).join(", "), offered.join(" "));
    }
    // The index may name builds that the mirror has dropped: take the newest one that is there.
    let mut refusal = None;
    for image in &images {
        let work = tempfile::tempdir_in(directory)?;
        match download(&apt, image, work.path()) {
            Ok(version) => return unpack(work.path(), &version, directory),
            Err(error) => refusal = Some(error.context(format!("{image} cannot be fetched"))),
        }
    }
    Err(refusal.context("no image was tried")?)
}

/// Image packages of `series` among `names`, the newest first.
fn images<'a>(names: &'a str, series: &str) -> Vec<&'a str> {
    let mut images: Vec<(&str, &str)> = names
        .lines()
        .filter_map(|name| Some((release(name)?, name)))
        .filter(|(release, _)| {
            release.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    images.sort_by(|(a, _), (b, _)| version::compare(b, a));
    images.into_iter().map(|(_, name)| name).collect()
}

/// The series among `names`, the newest last.
fn all_series(names: &str) -> Vec<&str> {
    let mut series: Vec<&str> = names
        .lines()
        .filter_map(|name| {
            let release = release(name)?;
            let end = release.match_indices('.').nth(1)?.0;
            Some(&release[..end])
        })
        .collect();
    series.sort_by(|a, b| version::compare(a, b));
    series
}

/// `6.12.117+deb12` of `linux-image-6.12.117+deb12-cloud-amd64`; none of metapackages
/// (`linux-image-6.12-cloud-amd64`), unsigned images and debug symbols.
fn release(name: &str) -> Option<&str> {
    let release = name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
    (release.starts_with(|c: char| c.is_ascii_digit()) && release.matches('.').count() >= 2)
        .then_some(release)
}

/// Fetches `image`, and its parts where the image is split, into `work`; gives its version.
fn download(apt: &Apt, image: &str, work: &Path) -> Result<String> {
    let record = apt.run("apt-cache", &["show", "--no-all-versions", image])?;
    let field =
        |name: &str| record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let version = field("Version").context("apt-cache shows no version")?;
    let mut packages = vec![image.to_owned()];
    packages.extend(parts(field("Depends").unwrap_or_default()));
    for package in &packages {
        eprintln!("vm: fetching {package} {version}");
    }
    process::run(
        apt.command("apt-get").args(["-qq", "download"]).args(&packages).current_dir(work),
    )?;
    Ok(version.to_owned())
}

/// Newer images only depend on the packages with the kernel, its modules and their lists.
fn parts(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|name| {
            ["linux-base-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|part| name.starts_with(part))
        })
        .map(str::to_owned)
        .collect()
}

/// Makes the kernel's directory out of the packages in `work`.
fn unpack(work: &Path, version: &str, directory: &Path) -> Result<()> {
    let root = work.join("root");
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            process::run(Command::new("dpkg-deb").arg("-x").args([&path, &root]))?;
        }
    }
    let (modules, release) = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|modules| {
            let entry = fs::read_dir(root.join(modules)).ok()?.flatten().next()?;
            Some((entry.path(), entry.file_name().to_string_lossy().into_owned()))
        })
        .context("the packages hold no modules")?;
    let vmlinuz = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")]
        .into_iter()
        .find(|path| path.exists())
        .context("the packages hold no vmlinuz")?;
    fs::copy(vmlinuz, directory.join("vmlinuz"))?;
    super::modules::archive(
        &modules,
        &release,
        work,
        Archive::create(&directory.join("modules.cpio"))?,
    )?;
    fs::write(directory.join("build"), format!("{release} ({version})"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-image-6.12-cloud-amd64\nlinux-image-6.12.95+deb12-cloud-amd64\n\
                         linux-image-6.12.117+deb12-cloud-amd64\n\
                         linux-image-6.12.117+deb12-cloud-amd64-unsigned\n\
                         linux-image-6.12.117+deb12-amd64\nlinux-image-6.1.0-9-cloud-amd64\n\
                         linux-image-6.1.0-47-cloud-amd64\nlinux-image-7.2.13+deb14-cloud-amd64\n\
                         linux-image-7.2.13+deb14-cloud-amd64-dbg\nlinux-image-cloud-amd64\n";

    #[test]
    fn images_of_a_series_come_newest_first() {
        let of = |series| images(NAMES, series);
        assert_eq!(
            of("6.12"),
            ["linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.95+deb12-cloud-amd64"]
        );
        assert_eq!(
            of("6.1"),
            ["linux-image-6.1.0-47-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"]
        );
        assert_eq!(of("7.2"), ["linux-image-7.2.13+deb14-cloud-amd64"]);
        assert!(of("5.10").is_empty());
    }

    #[test]
    fn series_come_newest_last() {
        assert_eq!(all_series(NAMES), ["6.1", "6.1", "6.12", "6.12", "7.2"]);
    }

    #[test]
    fn split_images_name_their_parts() {
        assert_eq!(
            parts(
                "linux-base (>= 4), linux-base-7.2-x (= 7.2.13-1), linux-binary-7.2-x (= 7.2.13-1), linux-modules-7.2-x (= 7.2.13-1)"
            ),
            ["linux-base-7.2-x", "linux-binary-7.2-x", "linux-modules-7.2-x"]
        );
        assert!(parts("kmod, linux-base (>= 4.3~)").is_empty());
    }
}
