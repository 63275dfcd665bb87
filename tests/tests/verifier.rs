//! How many instructions the verifier walks through for each program: on each kernel no more than was written down, so
//! that a program does not come near the verifier's limit unnoticed.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use netdiag_tests::{machine, netdiag::Netdiag, tool};
use serde_json::Value;

/// By kernel series and program: what the verifier said when it was written down.
const KNOWN: &str = include_str!("verifier/instructions.json");
/// The first series that tells (`verified_insns`, kernel/bpf/syscall.c).
const TELLS: machine::Series = machine::Series(5, 16);
/// Most growth, in percent.
const GROWTH: u64 = 20;

/// Instructions that the verifier walked through, by program, of the programs that a process holds.
fn verified(pid: u32) -> Result<BTreeMap<String, u64>> {
    let programs: Vec<Value> =
        serde_json::from_str(&tool::run("bpftool", &["-j", "prog", "list"])?)?;
    let name = |id: u64| {
        let program = programs.iter().find(|program| program["id"] == id)?;
        Some(program["name"].as_str()?.to_owned())
    };
    let mut verified = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(instructions)) = (number("prog_id"), number("verified_insns")) {
            verified.insert(name(id).context("a program without a name")?, instructions);
        }
    }
    Ok(verified)
}

/// Run on each kernel with `NETDIAG_BLESS` set, it prints what belongs into `verifier/instructions.json`.
#[test]
fn no_program_grows_by_a_fifth() {
    let series = machine::series();
    if series < TELLS {
        println!("skipped: kernel {} does not tell (verified_insns)", machine::release());
        return;
    }
    let known: BTreeMap<String, BTreeMap<String, u64>> =
        serde_json::from_str(KNOWN).expect("instructions.json");
    let netdiag = Netdiag::live(&[]).expect("netdiag starts");
    let verified = verified(netdiag.pid()).expect("bpftool and fdinfo tell of programs");
    netdiag.stop().expect("netdiag ends");
    let key = format!("{}.{}", series.0, series.1);
    if std::env::var_os("NETDIAG_BLESS").is_some() {
        println!("{}", serde_json::json!({ key: verified }));
        return;
    }
    let known = known.get(&key).unwrap_or_else(|| panic!("nothing is written down of {key}"));
    assert!(!verified.is_empty(), "no programs");
    let grown: Vec<String> = verified
        .iter()
        .filter_map(|(program, &now)| match known.get(program) {
            Some(&then) if now * 100 <= then * (100 + GROWTH) => None,
            Some(then) => Some(format!("{program}: {now} instead of {then}")),
            None => Some(format!("{program}: {now}, and nothing is written down")),
        })
        .collect();
    assert!(grown.is_empty(), "the verifier walks through more than a fifth more: {grown:#?}");
}
