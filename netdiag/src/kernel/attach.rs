//! The attach plan: for each signal the first source that works, the refusals kept.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use aya::Ebpf;
use netdiag_common::{
    field::Location,
    globals::{Locations, SlotPlace},
    signal::Signal,
};

use super::{
    hooks::{Kernel, Link, program_name, unload},
    modules::{Follow, Presence},
};
use crate::{
    coverage::{Refusal, SignalStatus, Status},
    signal::{Attachment, DEFINITIONS, Definition, Extra, Role, Source, When},
};

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Signals to observe; `socket` is always among them.
    pub signals: Vec<Signal>,
    /// Sources that must be used, by signal.
    pub forced: BTreeMap<Signal, String>,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) signal: Signal,
    pub(super) program: String,
    pub(super) role: Role,
    /// None while the function is not there.
    pub(super) link: Option<Link>,
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) statuses: Vec<SignalStatus>,
    pub(super) attached: Vec<Attached>,
    /// Signals whose functions come and go with a module.
    pub(super) modular: Vec<Follow>,
}

/// Whether the plan can go on with sockets remembered in this place.
pub(super) enum Verdict {
    Done(Outcome),
    /// A signal works only with programs that cannot reach socket storage.
    NeedsHash,
}

/// Attaches every wanted signal.
pub(super) fn attach(
    kernel: &Kernel,
    ebpf: &mut Ebpf,
    locations: &Locations,
    place: SlotPlace,
    wishes: &Wishes,
) -> Verdict {
    let mut outcome = Outcome::default();
    for definition in DEFINITIONS {
        let wanted =
            definition.signal == Signal::Socket || wishes.signals.contains(&definition.signal);
        if !wanted {
            outcome.statuses.push(off(definition, Vec::new(), "not asked for"));
            continue;
        }
        let mut refused = Vec::new();
        let mut chosen = None;
        for source in order(definition, kernel, wishes) {
            let ready = preconditions(kernel, locations, source);
            if ready.is_ok() && place == SlotPlace::Storage && !source.typed {
                return Verdict::NeedsHash; // it is this one's turn, and it cannot reach storage
            }
            let presence = source.module.map(Presence::of);
            let result = if presence == Some(Presence::Absent) && kernel.facts.kprobes {
                // Its functions cannot be looked for yet.
                fields(locations, source).map(|()| (Vec::new(), Blind::until_loaded(source)))
            } else {
                ready.and_then(|()| try_source(kernel, ebpf, place, definition.signal, source))
            };
            match result {
                Ok((attached, blind)) => {
                    outcome.modular.extend(Follow::new(definition.signal, source, presence));
                    chosen = Some((source, blind));
                    outcome.attached.extend(attached);
                    break;
                }
                Err(error) => refused
                    .push(Refusal { source: source.name.to_owned(), reason: one_line(&error) }),
            }
        }
        outcome.statuses.push(match chosen {
            Some((source, blind)) => SignalStatus {
                signal: definition.signal.name().to_owned(),
                status: if blind.missing.is_empty() { Status::Full } else { Status::Degraded },
                source: Some(source.name.to_owned()),
                refused,
                missing: blind.missing,
                unseen_counts: blind.counts,
            },
            None => off(definition, refused, definition.help),
        });
    }
    Verdict::Done(outcome)
}

fn off(definition: &Definition, refused: Vec<Refusal>, missing: &str) -> SignalStatus {
    SignalStatus {
        unseen_counts: Vec::new(),
        signal: definition.signal.name().to_owned(),
        status: Status::Off,
        source: None,
        refused,
        missing: vec![missing.to_owned()],
    }
}

/// Sources in the order in which this kernel shall try them: where tasks are preempted inside
/// programs, each as it is meant for that, and those that lose nothing by it go first.
fn order<'a>(definition: &'a Definition, kernel: &Kernel, wishes: &Wishes) -> Vec<&'a Source> {
    let forced = wishes.forced.get(&definition.signal);
    let mut sources: Vec<_> = definition
        .sources
        .iter()
        .filter(|source| forced.is_none_or(|name| name == source.name))
        .collect();
    if kernel.facts.preemption.may_preempt() {
        for source in &mut sources {
            *source = source.when_preempted.unwrap_or(source);
        }
        sources.sort_by_key(|source| source.skips_when_preempted);
    }
    sources
}

/// Why a source cannot work here, told without loading anything.
fn preconditions(kernel: &Kernel, locations: &Locations, source: &Source) -> Result<()> {
    source.attachments.iter().try_for_each(|attachment| kernel.check(attachment.hook))?;
    fields(locations, source)
}

/// Why a source cannot read what it needs.
fn fields(locations: &Locations, source: &Source) -> Result<()> {
    for &field in source.fields {
        if locations[field as usize] == Location::MISSING.0 {
            let (structure, path, _) = field.path();
            bail!("this kernel's BTF has no usable {structure}.{path}");
        }
    }
    Ok(())
}

/// What a source that works does not see.
#[derive(Default)]
struct Blind {
    missing: Vec<String>,
    counts: Vec<&'static str>,
}

impl Blind {
    /// Of a source whose module is not loaded: nothing happens until it is.
    fn until_loaded(source: &Source) -> Self {
        let module = source.module.unwrap_or_default();
        let line = format!("the first second after {module} is loaded, which it is not yet");
        Self { missing: vec![line], counts: Vec::new() }
    }

    fn lines(&mut self, lines: &[&str]) {
        self.missing.extend(lines.iter().map(|&line| line.to_owned()));
    }
}

fn try_source(
    kernel: &Kernel,
    ebpf: &mut Ebpf,
    place: SlotPlace,
    signal: Signal,
    source: &Source,
) -> Result<(Vec<Attached>, Blind)> {
    let mut attached = attach_all(kernel, ebpf, place, signal, source.attachments)?;
    let mut blind = Blind::default();
    blind.lines(source.blind);
    for extra in source.extras.iter().filter(|extra| is_wanted(kernel, extra)) {
        match try_extra(kernel, ebpf, place, signal, extra) {
            Some((more, unseen)) => {
                attached.extend(more);
                blind.lines(unseen);
            }
            None => {
                blind.lines(&[extra.lost]);
                blind.counts.extend(extra.counts);
            }
        }
    }
    Ok((attached, blind))
}

fn is_wanted(kernel: &Kernel, extra: &Extra) -> bool {
    match extra.when {
        When::Always => true,
        When::FunctionExists(name) => kernel.btf.function(name).is_some(),
        When::TracepointExists(name) => kernel.btf.tracepoint(name).is_some(),
        When::TracepointArgumentsBelow(name, arguments) => {
            kernel.btf.tracepoint(name).is_some_and(|args| args.len() < arguments)
        }
    }
}

fn try_extra(
    kernel: &Kernel,
    ebpf: &mut Ebpf,
    place: SlotPlace,
    signal: Signal,
    extra: &Extra,
) -> Option<(Vec<Attached>, &'static [&'static str])> {
    extra.alternatives.iter().find_map(|(attachments, blind)| {
        attachments.iter().try_for_each(|attachment| kernel.check(attachment.hook)).ok()?;
        let attached = attach_all(kernel, ebpf, place, signal, attachments).ok()?;
        Some((attached, *blind))
    })
}

/// Attaches all of them, or none. Ends go first, so that no beginning waits for an end that was
/// not yet attached.
fn attach_all(
    kernel: &Kernel,
    ebpf: &mut Ebpf,
    place: SlotPlace,
    signal: Signal,
    attachments: &[Attachment],
) -> Result<Vec<Attached>> {
    let mut attached = Vec::new();
    for attachment in attachments.iter().rev() {
        let program = program_name(ebpf, attachment, place == SlotPlace::Hash);
        match kernel.attach(ebpf, &program, attachment.hook) {
            Ok(link) => {
                let role = attachment.role;
                attached.push(Attached { signal, program, role, link: Some(link) });
            }
            Err(error) => {
                unload(ebpf, &program);
                for done in &attached {
                    unload(ebpf, &done.program);
                }
                return Err(error);
            }
        }
    }
    Ok(attached)
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}
