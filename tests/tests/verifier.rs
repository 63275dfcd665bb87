//! How many instructions the verifier walks through for each program of every source: on each kernel not much more than
//! was written down, so that no program comes near the verifier's limit of a million unnoticed.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use netdiag::signal::DEFINITIONS;
use netdiag_tests::{
    facts::Facts,
    machine::{self, Series},
    netdiag::Netdiag,
    require,
    requirement::{Feature, is_held},
    source, tool,
};
use serde_json::Value;

/// By kernel series and program: what the verifier said when it was written down.
const KNOWN: &str = include_str!("verifier/instructions.json");
/// The first series that tells (`verified_insns`, `bpf_prog_show_fdinfo` in kernel/bpf/syscall.c). Before it only the
/// verifier's log does, which aya asks for when a program was refused, and not of one that was not.
const TELLS: Series = Series(5, 16);
/// Most growth, in percent.
const GROWTH: u64 = 20;

/// Instructions by program.
type Verified = BTreeMap<String, u64>;

/// Adds what the verifier walked through of the programs that a process holds. One that comes twice, under other
/// settings, counts with the most.
fn verified(pid: u32, to: &mut Verified) -> Result<()> {
    let programs: Vec<Value> =
        serde_json::from_str(&tool::run("bpftool", &["-j", "prog", "list"])?)?;
    let name = |id: u64| {
        let program = programs.iter().find(|program| program["id"] == id)?;
        Some(program["name"].as_str()?.to_owned())
    };
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(instructions)) = (number("prog_id"), number("verified_insns")) {
            let most = to.entry(name(id).context("a program without a name")?).or_default();
            *most = instructions.max(*most);
        }
    }
    Ok(())
}

/// What forces the `nth` source of every signal that has so many and can be had by it.
fn forced(nth: usize) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for definition in DEFINITIONS {
        all.extend(source::loading(definition.signal.name())?.get(nth).cloned());
    }
    Ok(all)
}

/// Run with `NETDIAG_BLESS` set, it prints what belongs into `verifier/instructions.json`, and `cargo xtask test` writes that.
#[test]
fn no_program_grows_by_a_fifth() -> Result<()> {
    require!(Feature::Bpftool);
    let series = machine::series();
    let key = format!("{}.{}", series.0, series.1);
    let known: BTreeMap<String, Verified> = serde_json::from_str(KNOWN)?;
    let blessed = std::env::var_os("NETDIAG_BLESS").is_some();
    if series < TELLS {
        eprintln!("SKIPPED: kernel {key} does not tell what the verifier walks through");
        return Ok(());
    }
    if !blessed && !known.contains_key(&key) {
        let said = format!("what the verifier walks through is not written down of kernel {key}");
        ensure!(
            !is_held(series),
            "{said}, on which netdiag is held to work: NETDIAG_BLESS=1 cargo xtask test --only vm --test \
             verifier writes it"
        );
        eprintln!("SKIPPED: {said}");
        return Ok(());
    }
    let mut now = Verified::new();
    for nth in 0.. {
        let sources = forced(nth)?;
        if sources.is_empty() {
            break;
        }
        let arguments: Vec<&str> =
            sources.iter().flat_map(|source| ["--source", source.as_str()]).collect();
        let netdiag = Netdiag::live(&arguments)?;
        verified(netdiag.pid(), &mut now)?;
        netdiag.stop()?;
    }
    if blessed {
        println!("BLESSED: verifier/instructions.json {}", serde_json::json!({ key: now }));
        return Ok(());
    }
    let mut facts = Facts::new();
    facts.holds("there are programs", !now.is_empty());
    for (program, now) in now {
        let then = known[&key].get(&program).copied().unwrap_or_default();
        facts.holds(
            format_args!("{program}: {now} instructions, written down are {then}"),
            now * 100 <= then * (100 + GROWTH),
        );
    }
    facts.finish();
    Ok(())
}
