//! Outputs with pseudonyms: no clear address or name stands in any of them.

#[path = "redact/payload.rs"]
mod payload;

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    facts::Facts,
    netdiag::{Netdiag, run},
    network::{LEFT_V4, LEFT_V6, Pair, RIGHT_V4, RIGHT_V6},
    requirement::alone,
    traffic::{
        Connection, FAMILIES,
        process::{COMM, Shell},
        request::{Exchange, exchange},
    },
};

const SENDS: usize = 20;

/// A process called like a table of iptables, whose name stays where it is the table's.
const NAMESAKE: &str = "mangle";

/// What may not be told: addresses, names of processes, of interfaces and of the cgroup.
fn clear() -> Result<BTreeSet<String>> {
    let mut clear = BTreeSet::from([
        LEFT_V4.to_string(),
        RIGHT_V4.to_string(),
        LEFT_V6.to_string(),
        RIGHT_V6.to_string(),
        // As the harness calls its link.
        "wire".to_owned(),
        COMM.to_owned(),
        fs::read_to_string("/proc/self/comm")?.trim().to_owned(),
    ]);
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let paths = groups.lines().filter_map(|line| line.rsplit(':').next());
    clear.extend(paths.filter(|path| *path != "/").map(str::to_owned));
    Ok(clear)
}

/// The words of an output: what stands between anything that is part of no address, name or path.
fn words(text: &str) -> BTreeSet<&str> {
    let ends = |letter: char| !(letter.is_alphanumeric() || "._-:/".contains(letter));
    let whole = text.split(ends);
    // An address with its port, and what is before a colon or slash.
    whole
        .flat_map(|word| {
            let before = word.rsplit_once(':').map(|(before, _)| before);
            let slash = word.split('/').chain(word.split(':'));
            [word].into_iter().chain(before).chain(slash)
        })
        .collect()
}

/// What of it an output tells all the same.
fn told<'a>(clear: &'a BTreeSet<String>, output: &str) -> Vec<&'a str> {
    let words = words(output);
    clear.iter().map(String::as_str).filter(|clear| words.contains(clear)).collect()
}

/// How many pseudonyms an output has: of processes, and of addresses of the links, which stay in their network.
fn pseudonyms(output: &str) -> usize {
    let is_one = |word: &&str| {
        let ip = word.parse::<Ipv4Addr>();
        word.starts_with("proc-") || ip.is_ok_and(|ip| ip.octets()[0] == LEFT_V4.octets()[0])
    };
    words(output).into_iter().filter(is_one).count()
}

/// All files of a directory as text.
fn files(directory: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(directory)? {
        text += &String::from_utf8_lossy(&fs::read(entry?.path())?);
    }
    Ok(text)
}

/// Every command, in both forms. Each names somebody by a pseudonym, so that it had somebody to tell of; a recording in
/// clear tells who that is, so that the sweep finds what is told.
#[test]
fn no_output_tells_an_address_or_a_name() -> Result<()> {
    let _alone = alone();
    let clear = clear()?;
    let directories = [tempfile::tempdir()?, tempfile::tempdir()?];
    let [hidden, open] = directories.each_ref().map(|it| it.path().to_string_lossy().into_owned());
    let mut facts = Facts::new();
    for (what, arguments, redacted) in [
        ("live", &["live", "-i", "1h", "--all"][..], true),
        ("live -o json", &["live", "-o", "json", "-i", "1h"], true),
        ("live of one peer", &["live", "--plain", "-i", "1h", "--peer", "10.77.0.0/24"], true),
        ("live --by peer", &["live", "-o", "json", "-i", "1h", "--by", "peer"], true),
        ("live --by process", &["live", "-i", "1h", "--by", "process"], true),
        ("events", &["events"], true),
        ("events -o json", &["events", "-o", "json"], true),
        ("diagnose", &["diagnose", "-i", "100ms", "-d", "1h"], true),
        ("diagnose -o json", &["diagnose", "-o", "json", "-i", "100ms", "-d", "1h"], true),
        ("record", &["record", "-o", "json", "-i", "1h", "--out", &hidden], true),
        ("record in clear", &["record", "-o", "json", "-i", "1h", "--out", &open], false),
    ] {
        let flags: &[&str] = if redacted { &["--redact"] } else { &[] };
        let pair = Pair::new()?;
        let netdiag = Netdiag::start(&[arguments, flags].concat())?;
        let shell = Shell::connect(&pair.left, &pair.right, SENDS)?;
        let namesake = Shell::connect_named(NAMESAKE, &pair.left, &pair.right, SENDS)?;
        let connections: Vec<_> = FAMILIES
            .into_iter()
            .map(|family| Connection::open(&pair.left, &pair.right, family))
            .collect::<Result<_>>()?;
        let once = Exchange { sends: SENDS, bytes: 10, echo: true };
        exchange(connections.iter().map(|connection| (connection, once)))?;
        shell.send()?;
        namesake.send()?;
        let its_name =
            [format!("\"comm\":\"{NAMESAKE}\""), format!("{NAMESAKE}/{}", namesake.pid())];
        drop((connections, shell, namesake));
        let (status, out, err) = netdiag.stop_text()?;
        ensure!(status.success(), "{what}: {status}: {err:?}");
        let mut text = out.join("\n");
        if arguments.contains(&hidden.as_str()) {
            text += &files(directories[0].path())?;
        }
        let told = told(&clear, &text);
        let tells_it = its_name.iter().any(|name| text.contains(name));
        facts.equal(format_args!("{what}: tells of the namesake"), tells_it, !redacted);
        if redacted {
            facts.equal(format_args!("{what}: told"), told, Vec::<&str>::new());
            let found = pseudonyms(&text);
            facts.holds(format_args!("{what}: {found} pseudonyms"), found > 0);
        } else {
            let least = ["bash", "10.77.0.1", "fd77::1"];
            facts.holds(format_args!("{what}: {told:?} in clear"), {
                least.iter().all(|clear| told.contains(clear))
            });
        }
    }
    for (what, from) in [("hidden", &hidden), ("clear", &open)] {
        for form in ["text", "json"] {
            let output = run(&["diagnose", "--from", from, "-o", form, "--redact"])?;
            let text = String::from_utf8(output.stdout).context("UTF-8")?;
            let told = told(&clear, &text);
            let what = format!("diagnose --from {what} -o {form}");
            facts.equal(format_args!("{what}: status"), output.status.code(), Some(0));
            facts.equal(format_args!("{what}: told"), told, Vec::<&str>::new());
            let found = pseudonyms(&text);
            facts.holds(format_args!("{what}: {found} pseudonyms"), found > 0);
        }
    }
    facts.finish();
    Ok(())
}

/// What cannot be both is refused in one line.
#[test]
fn what_would_tell_names_is_refused() -> Result<()> {
    let mut facts = Facts::new();
    for arguments in [
        &["record", "--out", "/absent", "--redact", "--by", "peer"][..],
        &["diagnose", "--redact", "--peer", "10.0.0.0/8"],
        &["diagnose", "--redact", "--comm", "nginx"],
        &["live", "--redact", "--pod", "web"],
        &["live", "--redact", "--listen", ":0"],
        &["record", "--out", "/absent", "--redact", "--otlp", "http://localhost"],
        &["doctor", "--redact"],
        &["events", "--redact", "--pcap", "/absent/packets"],
    ] {
        let output = run(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        facts.equal(format_args!("{arguments:?}: {said}"), output.status.code(), Some(2));
        facts.holds(format_args!("{arguments:?}: {said}"), said.contains("--redact"));
    }
    facts.finish();
    Ok(())
}
