//! A process with a hostile name: nothing that is printed or written of it can harm a terminal, and JSON has it whole.

use std::fs;

use anyhow::{Context as _, Result};
use netdiag::format::sanitised;
use netdiag_tests::{
    facts::Facts,
    netdiag::Netdiag,
    network::Pair,
    requirement::alone,
    traffic::{
        Connection, Family, name_process,
        request::{Exchange, exchange},
    },
};
use serde_json::Value;

/// Clears the screen, begins a line, deletes, begins what clears in eight bits, turns the direction of text around, and
/// is not seen: all 15 bytes that the name of a process has room for.
const EVIL: &str = "\u{1b}[2J\n\u{7f}\u{9b}\u{202e}\u{200b}x";
/// The same in the tag of a log.
const TAG: &str = "process:%1B[2J%0A%7F%C2%9B%E2%80%AE%E2%80%8Bx";

const ROUND: Exchange = Exchange { sends: 10, bytes: 10, echo: true };

/// All lines of a run that sees a connection of this process from its beginning to its end.
fn said(pair: &Pair, arguments: &[&str], facts: &mut Facts) -> Result<Vec<String>> {
    let of_pair = ["-d", "10h", "--netns", pair.left.name()];
    let netdiag = Netdiag::start(&[arguments, &of_pair].concat())?;
    let connection = Connection::open(&pair.left, &pair.right, Family::V4)?;
    exchange([(&connection, ROUND)])?;
    connection.reset()?;
    let (status, out, err) = netdiag.stop_text()?;
    facts.equal(format_args!("{arguments:?}: exit status"), status.code(), Some(0));
    harmless(facts, &format!("{arguments:?}"), out.iter().chain(&err).map(String::as_str));
    Ok(out)
}

fn harmless<'a>(facts: &mut Facts, what: &str, lines: impl Iterator<Item = &'a str>) {
    let harmful: Vec<_> = lines.filter(|line| sanitised(line) != *line).collect();
    facts.equal(format_args!("{what}: harmful lines"), harmful, Vec::new());
}

/// Whether that is somewhere in a value.
fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(values) => values.iter().any(|value| has(value, name)),
        Value::Object(fields) => fields.values().any(|value| has(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether one of these objects has it.
fn any_has<'a>(lines: impl Iterator<Item = &'a str>, name: &str) -> Result<bool> {
    let mut found = false;
    for line in lines {
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        found |= has(&value, name);
    }
    Ok(found)
}

#[test]
fn no_name_harms_a_terminal_and_none_is_lost() -> Result<()> {
    let _alone = alone();
    name_process(EVIL)?;
    let pair = Pair::new()?;
    let mut facts = Facts::new();
    let pid = std::process::id();
    let shown = format!("{}/{pid}", sanitised(EVIL));
    let directory = tempfile::tempdir()?;
    let dumps = directory.path().join("dumps");
    let out = dumps.display().to_string();
    for arguments in [
        &["live", "--plain", "--signals", "send"][..],
        &["live", "-o", "json", "--signals", "send"],
        &["events", "--kind", "connect,close"],
        &["events", "--kind", "connect,close", "-o", "json"],
        &["record", "--by", "process", "--signals", "send", "--out", &out],
    ] {
        let lines = said(&pair, arguments, &mut facts)?;
        let has_it = match arguments.contains(&"json") {
            true => any_has(lines.iter().map(String::as_str), EVIL)?,
            false => lines.iter().any(|line| line.contains(&shown)),
        };
        facts.holds(format_args!("{arguments:?} has it: {lines:?}"), has_it);
    }
    let mut files = 0;
    for entry in fs::read_dir(&dumps)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let name = path.display().to_string();
        harmless(&mut facts, &name, text.split('\n'));
        let has_it = match path.extension().is_some_and(|extension| extension == "hlog") {
            true => text.contains(&format!("Tag={TAG}/{pid}.")),
            false => any_has(text.lines(), &format!("{EVIL}/{pid}"))?,
        };
        facts.holds(format_args!("{name} has it: {text}"), has_it);
        files += 1;
    }
    facts.equal("files", files, 2);
    facts.finish();
    Ok(())
}
