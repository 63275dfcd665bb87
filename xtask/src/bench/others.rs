//! Other tracers to measure netdiag beside: C programs from benches/beside, and bpftrace.

use std::{env::consts::ARCH, fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{process, setup, workspace};

/// Built for one pair of hooks.
pub(super) struct Others {
    /// Where `load` and the objects are.
    pub(super) directory: PathBuf,
    /// The hooks of bpftrace's script, by their name in the load.
    pub(super) bpftrace: &'static str,
}

/// Objects by name: their source in benches/beside, and what is defined for them.
const OBJECTS: [(&str, &str, &[&str]); 3] = [
    ("empty", "empty.bpf.c", &[]),
    ("histogram", "histogram.bpf.c", &[]),
    ("funclatency", "histogram.bpf.c", &["-DKEEP"]),
];

impl Others {
    /// Builds them for the hooks of a source of `send`.
    pub(super) fn build(source: &str) -> Result<Self> {
        // The script for trampolines is one that nobody copies: beside them bpftrace goes by kprobe.
        let ([begin, end], bpftrace) = match source {
            "fexit" => (["fentry/tcp_sendmsg", "fexit/tcp_sendmsg"], "kprobe"),
            "kprobe" => (["kprobe/tcp_sendmsg", "kretprobe/tcp_sendmsg"], "kprobe"),
            "tracepoints" => {
                (["tp_btf/tcp_sendmsg_locked", "tp_btf/sock_send_length"], "tracepoints")
            }
            _ => bail!(
                "send has no source {source} that others are measured beside: see netdiag doctor"
            ),
        };
        setup::bench_tools()?;
        let directory = workspace::target().join("bench").join(source);
        fs::create_dir_all(&directory)?;
        let sources = workspace::root().join("benches/beside");
        for (name, file, defined) in OBJECTS {
            let mut clang = Command::new("clang");
            clang.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"]);
            // The kernel's headers need this machine's part of them.
            clang.arg(format!("-I/usr/include/{ARCH}-linux-gnu"));
            clang.args([format!("-DBEGIN=\"{begin}\""), format!("-DEND=\"{end}\"")]).args(defined);
            clang.arg("-c").arg(sources.join(file));
            process::run(clang.arg("-o").arg(directory.join(format!("{name}.o"))))?;
        }
        let mut pkg_config = Command::new("pkg-config");
        let libraries = process::output(pkg_config.args(["--static", "--libs", "libbpf"]))?;
        let mut clang = Command::new("clang");
        clang.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static"]).arg(sources.join("load.c"));
        clang.arg("-o").arg(directory.join("load")).args(libraries.split_whitespace());
        process::run(&mut clang)?;
        Ok(Self { directory, bpftrace })
    }
}

/// Versions, without which figures mean nothing.
pub(super) fn versions() -> Result<Value> {
    let first = |program: &str, arguments: &[&str]| -> Result<String> {
        let said = process::output(Command::new(program).args(arguments))?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    };
    Ok(json!({
        "bpftrace": first("bpftrace", &["--version"])?,
        "clang": first("clang", &["--version"])?,
        "libbpf": first("pkg-config", &["--modversion", "libbpf"])?,
    }))
}
