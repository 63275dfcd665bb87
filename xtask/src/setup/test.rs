//! What the tests need beyond what netdiag needs: other tracers to stand beside, the readers of
//! histogram logs in other languages, the linters.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{cargo_install, programs, vm_tools};
use crate::{packages, process, workspace};

const CARGO_DENY: &str = "0.20.2";
const PYTHON_READER: &str = "hdrhistogram==0.10.8";
const JAVASCRIPT_READER: &str = "hdr-histogram-js@3.0.1";

/// Installs all of it: Debian's packages by apt, the rest under `target`.
pub(crate) fn tools() -> Result<()> {
    vm_tools()?;
    programs(&[("bpftrace", "bpftrace")], "a test that traces beside another tracer")?;
    linters()?;
    readers()
}

/// Where the readers of other languages go.
fn directory() -> PathBuf {
    workspace::target().join("test-tools")
}

/// rustfmt and clippy for the cargo that runs us, and cargo-deny.
fn linters() -> Result<()> {
    let works = |tool: &str| process::output(process::cargo().args([tool, "--version"])).is_ok();
    let missing: Vec<&str> = ["fmt", "clippy"].into_iter().filter(|tool| !works(tool)).collect();
    if !missing.is_empty() {
        let components = missing.iter().map(|tool| if *tool == "fmt" { "rustfmt" } else { tool });
        let why = "the tests check format and lints";
        let ours = process::which("cargo").unwrap_or_default();
        if ours == Path::new("/usr/bin/cargo") && packages::has_apt() {
            // They come from the same source package as the compiler, whichever that is.
            let web = !packages::candidates(&["rustfmt-web"])?.is_empty();
            let names =
                if web { ["rustfmt-web", "rust-web-clippy"] } else { ["rustfmt", "rust-clippy"] };
            packages::install(&names, why)?;
        } else {
            eprintln!("setup: adding rustfmt and clippy to the toolchain: {why}");
            process::run(Command::new("rustup").args(["component", "add"]).args(components))
                .context("install rustfmt and clippy for this toolchain, then try again")?;
        }
    }
    let deny = workspace::tools().join("bin/cargo-deny");
    let current = format!("cargo-deny {CARGO_DENY}");
    if deny.exists() && process::output(Command::new(&deny).arg("--version"))?.trim() == current {
        return Ok(());
    }
    eprintln!(
        "setup: building cargo-deny {CARGO_DENY} into target/tools: the tests check licences and sources (about 2 minutes)"
    );
    // It runs for a second: optimizing it would take longer than it saves.
    cargo_install("cargo-deny", CARGO_DENY, &["--force", "--debug"], &[])
}

/// Java's, Python's and JavaScript's readers of histogram logs.
fn readers() -> Result<()> {
    let why = "netdiag's dumps are held against other readers";
    programs(
        &[
            ("javac", "default-jdk-headless"),
            ("python3", "python3-venv"),
            ("node", "nodejs"),
            ("npm", "npm"),
        ],
        why,
    )?;
    let jars = ["/usr/share/java/HdrHistogram.jar", "/usr/share/java/hdrhistogram.jar"];
    if !jars.iter().any(|jar| Path::new(jar).exists()) {
        if !packages::has_apt() {
            bail!("HdrHistogram.jar is missing, needed for {why}: put it at {}", jars[0]);
        }
        packages::install(&["libhdrhistogram-java"], why)?;
    }
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let python = directory.join("python");
    pinned(&directory.join("python.version"), PYTHON_READER, || {
        if process::output(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
            packages::install(&["python3-venv"], why)?;
        }
        eprintln!("setup: installing {PYTHON_READER} from PyPI into target/test-tools: {why}");
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&python))?;
        process::run(Command::new(python.join("bin/python3")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            PYTHON_READER,
        ]))
    })?;
    pinned(&directory.join("javascript.version"), JAVASCRIPT_READER, || {
        eprintln!("setup: installing {JAVASCRIPT_READER} from npm into target/test-tools: {why}");
        process::run(
            Command::new("npm")
                .args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix"])
                .arg(&directory)
                .arg(JAVASCRIPT_READER),
        )
    })
}

/// Runs `install` unless `record` says that `version` is there already.
fn pinned(record: &Path, version: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    if fs::read_to_string(record).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    install().with_context(|| format!("cannot install {version}"))?;
    Ok(fs::write(record, version)?)
}
