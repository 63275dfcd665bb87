//! Which sources of a signal load on this kernel, by netdiag's own word, held against the table of
//! those that should.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use netdiag::{
    exit,
    kernel::facts::Facts as Kernel,
    signal::{DEFINITIONS, Hook},
    snapshot::{Doctor, SignalStatus},
};

use crate::{
    attempt::{self, Spoilt},
    machine, netdiag as program,
    requirement::{self, Expectation},
    tool,
};

/// Names of all sources of a signal, in order of preference.
///
/// # Panics
/// When there is no such signal.
#[must_use]
pub fn names(signal: &str) -> Vec<&'static str> {
    let definition = DEFINITIONS.iter().find(|definition| definition.signal.name() == signal);
    let definition = definition.unwrap_or_else(|| panic!("no signal {signal}"));
    definition.sources.iter().map(|source| source.name).collect()
}

/// What `netdiag doctor` says with these further arguments, also when none of the signals that they
/// ask for can be observed.
///
/// # Errors
/// When it fails otherwise or prints something else.
pub fn doctor(arguments: &[&str]) -> Result<Doctor> {
    let all = [&["doctor", "-o", "json"], arguments].concat();
    doctor_by(program::command(&all)?)
}

/// The same of a command of one's own for `doctor -o json`.
///
/// # Errors
/// As for [`doctor`].
pub fn doctor_by(command: Command) -> Result<Doctor> {
    let what = format!("{command:?}");
    let output = program::run_command(command)?;
    let text = if output.status.code() == Some(exit::Status::CannotObserve as i32) {
        String::from_utf8(output.stdout)?
    } else {
        tool::finish(&what, &output)?
    };
    let doctor: Doctor = serde_json::from_str(text.trim()).with_context(|| text.clone())?;
    ensure!(doctor.schema == "netdiag.doctor/1", "schema {}", doctor.schema);
    Ok(doctor)
}

/// How a signal is observed when a source of it is forced.
///
/// # Errors
/// As for [`doctor`].
pub fn forced(signal: &str, source: &str) -> Result<SignalStatus> {
    let doctor = doctor(&["--signals", signal, "--source", &format!("{signal}={source}")])?;
    let status = doctor.signals.into_iter().find(|status| status.signal == signal);
    status.with_context(|| format!("doctor does not speak of {signal}"))
}

/// Whether the kernel may skip runs of a source, given by its `--source` argument, because tasks are
/// preempted inside its programs; of kprobes and classic tracepoints also where a bpf(2) call that
/// looks into a hash is preempted (`bpf_disable_instrumentation`, include/linux/bpf.h).
#[must_use]
pub fn may_skip(forced: &str) -> bool {
    let sources = DEFINITIONS.iter().flat_map(|definition| {
        definition.sources.iter().map(|source| (definition.signal.name(), source))
    });
    Kernel::read().preemption.may_preempt()
        && sources.into_iter().any(|(signal, source)| {
            let waits_for_calls = source.attachments.iter().any(|attachment| {
                matches!(
                    attachment.hook,
                    Hook::Kprobe(_) | Hook::Kretprobe(_) | Hook::Tracepoint(..)
                )
            });
            (source.skips_when_preempted || waits_for_calls)
                && forced == format!("{signal}={}", source.name)
        })
}

/// Sources of a signal that load here, each by its `--source` argument. Says which do not. What the table
/// knows of this kernel is not asked again by each test, as it takes a start of netdiag: the test of
/// [`every_one`] holds it against netdiag's word.
///
/// # Errors
/// As for [`every_one`].
pub fn loading(signal: &str) -> Result<Vec<String>> {
    static KNOWN: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(signal) {
        return Ok(found.clone());
    }
    let found = those(signal, |name| match requirement::source(signal, name) {
        Expectation::Must => Ok(None),
        Expectation::Absent => Ok(Some("known to be absent".to_owned())),
        Expectation::May => refused(signal, name),
    })?;
    known.insert(signal.to_owned(), found.clone());
    Ok(found)
}

/// The same, each by netdiag's own word.
///
/// # Errors
/// As for [`doctor`]; when one does not load although this kernel should have it, or loads although the
/// table says that it cannot, or does not load and it is not said what is missing.
pub fn every_one(signal: &str) -> Result<Vec<String>> {
    those(signal, |name| {
        let refused = refused(signal, name)?;
        let kernel = machine::release();
        if let Some(reason) = &refused {
            let names = needed(signal, name);
            // Who needs none listens to what another part of the kernel tells.
            let is_named = names.is_empty() || names.iter().any(|name| reason.contains(name));
            ensure!(is_named, "{signal}={name} on {kernel}: {reason} names none of {names:?}");
        }
        match (&refused, requirement::source(signal, name)) {
            (None, Expectation::Absent) => {
                bail!("{signal}={name} loads on {kernel}: correct the table in requirement.rs")
            }
            (Some(reason), Expectation::Must) => {
                bail!("{signal}={name} must load on {kernel}: {reason}")
            }
            _ => Ok(refused),
        }
    })
}

/// What a source cannot do without on one kernel or another: functions and tracepoints, places and fields.
fn needed(signal: &str, name: &str) -> Vec<String> {
    let definition = DEFINITIONS.iter().find(|definition| definition.signal.name() == signal);
    let sources = definition.into_iter().flat_map(|definition| definition.sources);
    let source = sources.filter(|source| source.name == name);
    let ways = source.flat_map(|source| [Some(source), source.when_preempted]).flatten();
    let mut needed = Vec::new();
    for way in ways.filter(|way| !way.attachments.is_empty()) {
        needed.extend(way.attachments.iter().map(|it| it.hook.name().to_owned()));
        needed.extend(way.places.iter().map(|&place| place.to_owned()));
        needed.extend(way.fields.iter().map(|field| {
            let (structure, path, _) = field.path();
            format!("{structure}.{path}")
        }));
    }
    needed
}

/// The sources that `refused` says nothing of, each by its `--source` argument.
fn those(
    signal: &str,
    refused: impl Fn(&'static str) -> Result<Option<String>>,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names(signal) {
        match refused(name)? {
            None => found.push(format!("{signal}={name}")),
            Some(reason) => {
                eprintln!("SKIPPED: source {signal}={name} on {}: {reason}", machine::release());
            }
        }
    }
    ensure!(!found.is_empty(), "no source of {signal} loads");
    Ok(found)
}

/// Why a source does not load.
fn refused(signal: &str, source: &str) -> Result<Option<String>> {
    let status = forced(signal, source)?;
    let loads = status.source.as_deref() == Some(source);
    Ok((!loads).then(|| format!("{:?}", status.refused)))
}

/// Runs a test until the kernel has skipped no program in it, which `run` tells.
///
/// # Errors
/// As for [`attempt::until_whole`].
pub fn until_unskipped(mut run: impl FnMut() -> Result<bool>) -> Result<()> {
    attempt::until_whole(|| Ok((!run()?).then_some(Spoilt::Skipped)))
}
