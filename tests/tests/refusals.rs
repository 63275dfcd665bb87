//! Every wrong usage and every refusal: one clear line, and the exit status of the contract.

#[path = "refusals/types.rs"]
mod types;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use netdiag::{
    cli::Cli,
    signal::DEFINITIONS,
    snapshot::{Doctor, Status},
};
use netdiag_tests::{
    facts::Facts,
    machine,
    namespace::Namespace,
    netdiag::{Netdiag, binary, command, run, run_command},
    require,
    requirement::{Feature, alone},
    tool,
};
use rustix::process::Signal;

// By number, not by `netdiag::exit`: these are what scripts rely on.
const USAGE: i32 = 2;
const CANNOT_OBSERVE: i32 = 3;

/// One line on standard error that holds all of `words`, nothing on standard output, this status.
fn refused(facts: &mut Facts, what: &str, output: &Output, status: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    facts.note(format_args!("{what}: {stderr}"));
    facts.equal(format_args!("{what}: exit status"), output.status.code(), Some(status));
    facts.equal(format_args!("{what}: lines, {lines:?}"), lines.len(), 1);
    for word in words {
        facts.holds(format_args!("{what}: {stderr:?} names {word:?}"), stderr.contains(word));
    }
    facts.equal(format_args!("{what}: bytes on standard output"), output.stdout.len(), 0);
}

#[test]
fn wrong_usage() -> Result<()> {
    let _alone = alone();
    let namespace = Namespace::new("near")?;
    let name = namespace.name();
    let mistyped = name.replace("near", "naer");
    let no_pid = "4194303";
    let _listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let own = std::process::id().to_string();
    let (_end, ended) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _listening = tell.send(rustix::thread::gettid());
        let _always = ended.recv();
    });
    let thread = told.recv()?.to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["live", "--no-such-flag"], &["--no-such-flag"]),
        (&["no-such-command"], &["no-such-command"]),
        (&["live", "--port", "70000"], &["--port", "70000"]),
        (&["live", "--port", "http"], &["--port", "http"]),
        (&["live", "--local-port", "-1"], &["-1"]),
        (&["live", "--peer-port", ""], &["--peer-port"]),
        (&["live", "--pid", "bash"], &["--pid", "bash"]),
        (&["live", "--pid", no_pid], &["pid", no_pid, "most TCP sockets have"]),
        (&["live", "--pid", &thread], &["thread", &thread, "--pid", &own]),
        (&["live", "--peer", "10.0.0.0/33"], &["--peer", "10.0.0.0/33"]),
        (&["live", "--peer", "example.org"], &["--peer", "example.org"]),
        (&["live", "--netns", &mistyped], &[&mistyped, name]),
        (&["live", "--netns", "4"], &["netns", "4"]),
        (&["live", "--netns", "/run/netns/absent"], &["/run/netns/absent"]),
        (&["live", "-i", "0s"], &["0s"]),
        (&["live", "-i", "soon"], &["soon"]),
        (&["live", "-o", "yaml"], &["yaml"]),
        (&["live", "--source", "send=guess"], &["guess", "fexit"]),
        (&["live", "--source", "guess=fexit"], &["guess", "send"]),
        (&["live", "--source", "send"], &["--source"]),
        (&["live", "--ring-size", "many"], &["--ring-size", "many"]),
        (&["live", "--btf", "/absent/btf"], &["/absent/btf"]),
        (&["live", "--otlp", "https://127.0.0.1:4318"], &["--otlp", "does not encrypt"]),
        (&["live", "--otlp", "127.0.0.1:4318"], &["--otlp", "http://HOST"]),
        (&["live", "--listen-groups", "5"], &["--listen-groups", "--otlp"]),
        (&["record"], &["--out"]),
        (&["events", "--kind", "drops"], &["--kind", "drops", "there are: connect, close"]),
        (&["events", "--pid", no_pid], &["pid", no_pid, "most TCP sockets have"]),
        (
            &["events", "--kind", "close", "--source", "drop=tp_btf"],
            &["--source", "drop", "--kind"],
        ),
    ];
    let mut facts = Facts::new();
    for (arguments, words) in cases {
        refused(&mut facts, &format!("{arguments:?}"), &run(arguments)?, USAGE, words);
    }
    facts.finish();
    Ok(())
}

#[test]
fn unusable_out() -> Result<()> {
    let _alone = alone();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    fs::write(&file, "not a directory")?;
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link)?;
    let mut facts = Facts::new();
    for out in ["/proc/netdiag", &file.to_string_lossy(), &link.to_string_lossy()] {
        let arguments = ["record", "-i", "1s", "-d", "1s", "--out", out];
        refused(&mut facts, &format!("--out {out}"), &run(&arguments)?, USAGE, &[out]);
    }
    facts.finish();
    Ok(())
}

/// As another user, and as root without capabilities: first of all, so that nothing is made or waited for.
#[test]
fn no_privilege() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    // Nobody may read the directory that cargo builds into.
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("netdiag");
    fs::copy(binary()?, &copy)?;
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    // Where anybody may make one.
    let free = directory.path().join("free");
    fs::create_dir(&free)?;
    fs::set_permissions(&free, fs::Permissions::from_mode(0o777))?;
    let dumps = free.join("dumps");
    let out = dumps.to_string_lossy().into_owned();
    let attempts: &[&[&str]] = &[
        &["live", "-o", "json", "-d", "1s"],
        &["live", "-d", "1s", "--netns", "pid:1"],
        &["record", "-d", "1s", "--out", &out],
        &["events", "--wait", "--comm", "x"],
    ];
    let mut facts = Facts::new();
    let nobody: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];
    for privileges in [nobody, &["--bounding-set=-all", "--inh-caps=-all"]] {
        for arguments in attempts {
            let mut command = tool::command("setpriv")?;
            command.args(privileges).arg(&copy).args(*arguments);
            let output = run_command(command)?;
            let what = format!("{} {}", privileges.join(" "), arguments.join(" "));
            refused(&mut facts, &what, &output, CANNOT_OBSERVE, &["no privilege"]);
            facts.holds(format_args!("{what}: no directory is made"), !dumps.exists());
        }
        // That is when doctor is asked: it says what it knows, and why that is all.
        let mut command = tool::command("setpriv")?;
        command.args(privileges).arg(&copy).args(["doctor", "-o", "json"]);
        let output = run_command(command)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let doctor: Doctor = serde_json::from_str(said.trim()).context(said)?;
        facts.equal("its kernel", doctor.kernel, machine::release());
        let off = doctor.signals.iter().filter(|signal| signal.status == Status::Off).count();
        facts.equal("signals off", off, DEFINITIONS.len());
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        facts.equal("its status", output.status.code(), Some(CANNOT_OBSERVE));
        facts.holds(
            format_args!("why: {line}"),
            line.contains("privilege") && line.lines().count() == 1,
        );
    }
    facts.finish();
    Ok(())
}

#[test]
fn doctor_names_kernel_and_signals() -> Result<()> {
    let _alone = alone();
    let doctor = run(&["doctor"])?;
    let mut facts = Facts::new();
    let text = String::from_utf8_lossy(&doctor.stdout);
    facts.note(&text);
    facts.equal("exit status of doctor", doctor.status.code(), Some(0));
    for word in ["send", "retransmit", "socket", &machine::release()] {
        facts.holds(format_args!("doctor names {word}"), text.contains(word));
    }
    facts.finish();
    Ok(())
}

/// The reader of the pipe goes away; that is no failure.
#[test]
fn closed_pipe() -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    for arguments in [
        &["live", "-o", "json", "-i", "1s"][..],
        &["live", "-i", "1s"],
        &["events", "-o", "json"],
        &["events", "--pcap", "-"],
        &["doctor"],
    ] {
        let mut child =
            command(arguments)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let mut status = None;
        machine::wait_until(|| {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        facts.note(String::from_utf8_lossy(&output.stderr));
        let code = status.and_then(|status| status.code());
        facts.equal(format_args!("{arguments:?}: exit status"), code, Some(0));
    }
    facts.finish();
    Ok(())
}

#[test]
fn interrupts_end_a_run_cleanly() -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    for signal in [Signal::INT, Signal::TERM] {
        let netdiag = Netdiag::live(&[])?;
        netdiag.signal(signal)?;
        let outcome = netdiag.wait()?;
        facts.note(format_args!("{:?}", outcome.stderr));
        facts.equal(format_args!("exit status after {signal:?}"), outcome.code(), Some(0));
        facts.at_rest(outcome.total()?);
    }
    facts.finish();
    Ok(())
}

#[test]
fn help_and_version() -> Result<()> {
    let mut facts = Facts::new();
    let cli = Cli::command();
    let commands: Vec<_> = cli.get_subcommands().map(clap::Command::get_name).collect();
    facts.holds(format_args!("every command: {commands:?}"), commands.len() >= 8);
    let of_commands = commands.iter().map(|name| vec![*name, "--help"]);
    for arguments in [vec!["--help"], vec!["--version"]].into_iter().chain(of_commands) {
        let output = Command::new(binary()?).args(&arguments).output()?;
        facts.equal(format_args!("{arguments:?}: exit status"), output.status.code(), Some(0));
        facts.holds(format_args!("{arguments:?}: says something"), !output.stdout.is_empty());
        facts.equal(format_args!("{arguments:?}: on standard error"), output.stderr.len(), 0);
    }
    facts.finish();
    Ok(())
}
