//! What each capability is for: with the smallest set nothing is missing, and each that is taken away from it is
//! missed by name.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use netdiag::{
    exit,
    snapshot::{Doctor, SignalStatus, Status},
};
use netdiag_tests::{
    facts::Facts,
    machine::{self, Series},
    netdiag::{Netdiag, binary, command, run_command},
    network::Pair,
    outcome::{count, flow_of},
    require,
    requirement::{Feature, KERNELS, alone},
    source, tool,
    traffic::{
        Connection, Family,
        request::{Exchange, exchange},
    },
};

/// As docs/security.md and deploy/daemonset.yaml have it, by the names of setpriv(1).
const SMALLEST: [&str; 6] =
    ["sys_admin", "sys_ptrace", "dac_read_search", "net_admin", "syslog", "sys_resource"];
/// `PERFMON` and `BPF`, which stand in for `SYS_ADMIN` where programs are loaded; older setpriv knows their numbers only.
const LOADING: [&str; 2] = ["cap_38", "cap_39"];
/// Since then what is loaded is not charged to locked memory.
const NOT_LOCKED: Series = Series(5, 11);
/// What netdiag ends with that cannot observe.
const CANNOT_OBSERVE: i32 = exit::Status::CannotObserve as i32;

/// netdiag as root with these capabilities and no others.
fn with(capabilities: &[&str], arguments: &[&str]) -> Result<Command> {
    let mut command = tool::command("setpriv")?;
    let set: Vec<_> = ["-all".to_owned()]
        .into_iter()
        .chain(capabilities.iter().map(|name| format!("+{name}")))
        .collect();
    command.arg(format!("--bounding-set={}", set.join(",")));
    command.arg("--inh-caps=-all");
    command.arg(binary()?).args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Arguments of `doctor`. On a machine where loading takes long, which is not of the oldest kernel, it is asked of the
/// signals that have hooks of every type between them and need more than loading; the others are loaded in the same ways.
fn asked() -> Vec<&'static str> {
    let narrow = machine::emulated() && machine::series() > KERNELS[0];
    let signals: &[&str] = if narrow { &["--signals", "drop,conntrack,reset,dns"] } else { &[] };
    [&["doctor", "-o", "json"], signals].concat()
}

/// What doctor says with these capabilities. It is asked once, whoever wants to know: nobody else changes the machine.
fn doctor(capabilities: &[&str]) -> Result<Doctor> {
    static KNOWN: Mutex<BTreeMap<Vec<String>, Doctor>> = Mutex::new(BTreeMap::new());
    let mut set: Vec<_> = capabilities.iter().map(|&name| name.to_owned()).collect();
    set.sort_unstable();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(doctor) = known.get(&set) {
        return Ok(doctor.clone());
    }
    let doctor = source::doctor_by(with(capabilities, &asked())?)?;
    known.insert(set, doctor.clone());
    Ok(doctor)
}

/// Status and source of each signal.
fn signals(doctor: &Doctor) -> Vec<(String, Status, Option<String>)> {
    let one = |signal: &SignalStatus| (signal.signal.clone(), signal.status, signal.source.clone());
    doctor.signals.iter().map(one).collect()
}

/// Names of the signals that are off.
fn off(doctor: &Doctor) -> Vec<&str> {
    let off = doctor.signals.iter().filter(|signal| signal.status == Status::Off);
    off.map(|signal| signal.signal.as_str()).collect()
}

fn without<'a>(set: &[&'a str], taken: &str) -> Vec<&'a str> {
    set.iter().copied().filter(|name| *name != taken).collect()
}

/// Root with all of them sees no more.
#[test]
fn nothing_is_missing_with_the_smallest_set() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let (all, smallest) = (source::doctor_by(command(&asked())?)?, doctor(&SMALLEST)?);
    let mut facts = Facts::new();
    facts.note(format_args!("{smallest:#?}"));
    facts.equal("not seen of the node", &smallest.unseen, &all.unseen);
    facts.equal("signals", signals(&smallest), signals(&all));
    let split = [&SMALLEST[..], &LOADING].concat();
    facts.equal("with both ways to load", signals(&doctor(&split)?), signals(&all));
    facts.finish();
    Ok(())
}

/// One at a time: it cannot be observed, or something is not seen, and the capability is named.
#[test]
fn each_that_is_taken_is_missed_by_name() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let whole = doctor(&SMALLEST)?;
    // Where only packets tell of connection tracking, it has to be known where netfilter's function lies.
    let by_place = whole.signals.iter().any(|signal| signal.source.as_deref() == Some("packets"));
    let mut facts = Facts::new();
    // Each: what is taken, from what, and the name that is said.
    let split = [&without(&SMALLEST, "sys_admin")[..], &LOADING].concat();
    for (taken, from, name) in [
        ("sys_admin", &split[..], "CAP_SYS_ADMIN"),
        ("sys_ptrace", &SMALLEST, "CAP_SYS_PTRACE"),
        ("dac_read_search", &SMALLEST, "CAP_DAC_READ_SEARCH"),
        ("net_admin", &SMALLEST, "CAP_NET_ADMIN"),
        ("syslog", &SMALLEST, "CAP_SYSLOG"),
    ] {
        let doctor = doctor(&without(from, taken))?;
        let lines: Vec<_> =
            doctor.unseen.iter().filter(|line| !whole.unseen.contains(line)).collect();
        facts.note(format_args!("without {taken}: {lines:?}"));
        let is_named = lines.iter().any(|line| line.starts_with(&format!("without {name}: ")));
        facts.holds(format_args!("without {taken}: it is named"), is_named);
        facts.equal(format_args!("without {taken}: lines"), lines.len(), 1);
        let mut found = off(&doctor);
        if taken == "syslog" && by_place {
            found.retain(|signal| *signal != "conntrack");
        }
        facts.equal(format_args!("without {taken}: signals that are off"), found, off(&whole));
        for signal in doctor.signals.iter().filter(|signal| signal.status != Status::Full) {
            let says = !signal.missing.is_empty() || !signal.refused.is_empty();
            facts.holds(format_args!("without {taken}: why {} is less", signal.signal), says);
        }
    }
    facts.finish();
    Ok(())
}

/// Without the one for everything, loading takes both that were split off it; without either, one line names it.
#[test]
fn loading_takes_one_or_two() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let rest = without(&SMALLEST, "sys_admin");
    let mut facts = Facts::new();
    for (missing, name) in [("cap_38", "CAP_PERFMON"), ("cap_39", "CAP_BPF")] {
        let set = [&rest[..], &without(&LOADING, missing)].concat();
        let output = run_command(with(&set, &["live", "-o", "json", "-d", "1s"])?)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        facts.equal(format_args!("without {name}: status"), output.status.code(), {
            Some(CANNOT_OBSERVE)
        });
        facts.holds(format_args!("{name} is named: {said}"), said.contains(name));
        facts.equal(format_args!("without {name}: lines"), said.lines().count(), 1);
    }
    let (both, whole) = (doctor(&[&rest[..], &LOADING].concat())?, doctor(&SMALLEST)?);
    facts.equal("off with both", off(&both), off(&whole));
    // A processor that is switched on later gets a ring by it.
    let copies =
        |one: &SignalStatus| one.signal == "dns" && one.source.as_deref() == Some("tp_btf");
    let kept =
        both.sandbox.as_ref().map(|sandbox| sandbox.capabilities.clone()).unwrap_or_default();
    facts.holds(format_args!("{kept:?} after the start"), {
        !both.signals.iter().any(copies) || kept.iter().any(|name| name == "CAP_PERFMON")
    });
    facts.finish();
    Ok(())
}

/// It matters where programs and maps count as locked memory, and is named there.
#[test]
fn locked_memory_matters_on_old_kernels_alone() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let limited = |arguments: &[&str]| -> Result<Command> {
        let inner = with(&without(&SMALLEST, "sys_resource"), arguments)?;
        let mut command = tool::command("prlimit")?;
        command.arg("--memlock=65536:65536").arg(inner.get_program()).args(inner.get_args());
        command.stdin(Stdio::null());
        Ok(command)
    };
    let mut facts = Facts::new();
    if machine::series() < NOT_LOCKED {
        for arguments in [&["doctor"][..], &["live", "-d", "1s"]] {
            let output = run_command(limited(arguments)?)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let status = output.status.code();
            facts.equal(format_args!("{arguments:?}: status"), status, Some(CANNOT_OBSERVE));
            let is_named = said.contains("CAP_SYS_RESOURCE");
            facts.holds(format_args!("{arguments:?}: it is named: {said}"), is_named);
        }
    } else {
        let doctor = source::doctor_by(limited(&asked())?)?;
        facts.note(format_args!("{doctor:#?}"));
        facts.equal("signals", signals(&doctor), signals(&self::doctor(&SMALLEST)?));
    }
    facts.finish();
    Ok(())
}

/// With the smallest set a run sees flows of other namespaces, older ones among them, and whose they are.
#[test]
fn a_run_with_the_smallest_set_is_whole() -> Result<()> {
    require!(Feature::Setpriv);
    let _alone = alone();
    let pair = Pair::new()?;
    let older = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let live = ["live", "-o", "json", "-i", "1s", "-d", "10h", "--signals", "send"];
    let netdiag = Netdiag::start_by(with(&SMALLEST, &live)?)?;
    let younger = Connection::open(&pair.left, &pair.right, Family::V4)?;
    let ends = [older.client_end()?, younger.client_end()?];
    let once = Exchange { sends: 20, bytes: 1, echo: false };
    exchange([(&older, once), (&younger, once)])?;
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("said {:?}", outcome.stderr));
    for (what, end) in ["older", "younger"].iter().zip(&ends) {
        let flow = flow_of(total, end).context(*what)?;
        facts.equal(format_args!("sends of the {what}"), count(flow, "sends"), Some(20));
        facts.equal(format_args!("process of the {what}"), flow.owner.pid, {
            Some(std::process::id())
        });
    }
    facts.equal("status", outcome.code(), Some(0));
    facts.at_rest(total);
    facts.finish();
    Ok(())
}
