//! Other tracers to measure netdiag beside: C programs from benches/beside, and bpftrace.

use std::{env::consts::ARCH, fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::traced::Traced;
use crate::{process, setup, workspace};

/// Those that count the same.
pub(super) struct Others {
    /// Where `load` and the objects are, which know sends alone.
    pub(super) objects: Option<PathBuf>,
    /// bpftrace's script, by its name in the load.
    pub(super) bpftrace: &'static str,
}

/// Rare events of which bpftrace has a script, by their loads.
const COUNTED: [&str; 2] = ["retransmit", "drop"];

/// Objects by name: their source in benches/beside, and what is defined for them.
const OBJECTS: [(&str, &str, &[&str]); 3] = [
    ("empty", "empty.bpf.c", &[]),
    ("histogram", "histogram.bpf.c", &[]),
    ("funclatency", "histogram.bpf.c", &["-DKEEP"]),
];

impl Others {
    /// Builds those that there are for what is traced.
    pub(super) fn build(traced: &Traced) -> Result<Option<Self>> {
        if traced.is_sends {
            return Self::of_sends(&traced.name).map(Some);
        }
        let script = COUNTED.into_iter().find(|script| *script == traced.load);
        let Some(bpftrace) = script else { return Ok(None) };
        setup::bench_tools()?;
        Ok(Some(Self { objects: None, bpftrace }))
    }

    /// On the hooks of a source of `send`.
    fn of_sends(source: &str) -> Result<Self> {
        let [begin, end] = match source {
            "fexit" => ["fentry/tcp_sendmsg", "fexit/tcp_sendmsg"],
            "kprobe" => ["kprobe/tcp_sendmsg", "kretprobe/tcp_sendmsg"],
            "tracepoints" => ["tp_btf/tcp_sendmsg_locked", "tp_btf/sock_send_length"],
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
        Ok(Self { objects: Some(directory), bpftrace: script(source) })
    }
}

/// bpftrace's script of sends beside netdiag's source of them. That for trampolines is one that nobody copies: beside
/// them bpftrace goes by kprobe.
pub(super) fn script(source: &str) -> &'static str {
    if source == "tracepoints" { "tracepoints" } else { "kprobe" }
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
