//! The attach plan: for each signal the first source that works, the refusals kept.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use aya::Ebpf;
use netdiag_common::{
    field::{Field, Location},
    globals::{Locations, SlotPlace},
    signal::Signal,
};

use super::{
    ctnetlink::Ctnetlink,
    hooks::{Kernel, Link, load_kprobe, unload},
    modules::{Follow, Presence},
    plan::Options,
};
use crate::{
    coverage::{Refusal, SignalStatus, Status},
    signal::{Attachment, By, Cost, DEFINITIONS, Definition, Extra, Hook, Role, Source, When},
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
    /// How often the programs of each signal run that is not off, by the dearest of them.
    pub(super) costs: Vec<Option<Cost>>,
    pub(super) attached: Vec<Attached>,
    /// Signals whose functions come and go with a module.
    pub(super) modular: Vec<Follow>,
    /// Who listens to what no program sees.
    pub(super) listening: Option<Ctnetlink>,
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
    options: &Options,
) -> Verdict {
    let wishes = &options.wishes;
    let mut outcome = Outcome::default();
    for definition in DEFINITIONS {
        let wanted =
            definition.signal == Signal::Socket || wishes.signals.contains(&definition.signal);
        if !wanted {
            outcome.statuses.push(off(definition, Vec::new(), "not asked for"));
            outcome.costs.push(None);
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
            let signal = definition.signal;
            let mut trial = Trial { kernel, ebpf, locations, signal, options };
            let result = if presence == Some(Presence::Absent) && kernel.facts.kprobes {
                // Its functions cannot be looked for yet.
                fields(locations, source.fields).and_then(|()| trial.until_loaded(source))
            } else {
                ready.and_then(|()| trial.source(source))
            };
            match result {
                Ok(working) => {
                    outcome.modular.extend(Follow::new(definition.signal, source, presence));
                    outcome.attached.extend(working.attached);
                    outcome.listening = outcome.listening.or(working.listening);
                    let cost = source.cost.unwrap_or(definition.cost);
                    chosen = Some((source, working.blind, working.cost.max(Some(cost))));
                    break;
                }
                Err(error) => refused
                    .push(Refusal { source: source.name.to_owned(), reason: one_line(&error) }),
            }
        }
        outcome.costs.push(chosen.as_ref().and_then(|(_, _, cost)| *cost));
        outcome.statuses.push(match chosen {
            Some((source, blind, _)) => SignalStatus {
                signal: definition.signal.name().to_owned(),
                status: if blind.missing.is_empty() { Status::Full } else { Status::Degraded },
                source: Some(source.name.to_owned()),
                refused,
                missing: blind.missing,
                runs_per: None,
                unseen_counts: blind.counts,
            },
            None => off(definition, refused, definition.help),
        });
    }
    Verdict::Done(outcome)
}

/// The status of a signal that is not observed.
pub(super) fn off(definition: &Definition, refused: Vec<Refusal>, missing: &str) -> SignalStatus {
    SignalStatus {
        signal: definition.signal.name().to_owned(),
        status: Status::Off,
        source: None,
        refused,
        missing: vec![missing.to_owned()],
        runs_per: None,
        unseen_counts: Vec::new(),
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
        // What needs no program sees the least.
        sources.sort_by_key(|source| (source.attachments.is_empty(), source.skips_when_preempted));
    }
    sources
}

/// Why a source cannot work here, told without loading anything.
fn preconditions(kernel: &Kernel, locations: &Locations, source: &Source) -> Result<()> {
    source.attachments.iter().try_for_each(|attachment| kernel.check(attachment.hook))?;
    source.places.iter().try_for_each(|place| kernel.check_place(place))?;
    fields(locations, source.fields)
}

/// Why a source cannot read what it needs.
fn fields(locations: &Locations, fields: &[Field]) -> Result<()> {
    for &field in fields {
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
    fn lines(&mut self, lines: &[&str]) {
        self.missing.extend(lines.iter().map(|&line| line.to_owned()));
    }
}

/// A source that works, or what it has beside its programs.
#[derive(Default)]
struct Working {
    attached: Vec<Attached>,
    listening: Option<Ctnetlink>,
    blind: Blind,
    /// Of what is beside its programs and says so, the dearest.
    cost: Option<Cost>,
}

/// Trying out what a signal can be had by.
struct Trial<'a> {
    kernel: &'a Kernel,
    ebpf: &'a mut Ebpf,
    locations: &'a Locations,
    signal: Signal,
    options: &'a Options,
}

impl Trial<'_> {
    /// A source whose module is not loaded: nothing happens until it is. That its programs load is
    /// known by then.
    fn until_loaded(&mut self, source: &Source) -> Result<Working> {
        let mut loads =
            source.attachments.iter().map(|it| load_kprobe(self.ebpf, it.program).map(drop));
        if let Err(error) = loads.try_for_each(|loaded| loaded) {
            source.attachments.iter().for_each(|it| unload(self.ebpf, it.program));
            return Err(error);
        }
        let module = source.module.unwrap_or_default();
        let mut working = Working::default();
        working
            .blind
            .missing
            .push(format!("the first second after {module} is loaded, which it is not yet"));
        Ok(working)
    }

    fn source(&mut self, source: &Source) -> Result<Working> {
        let mut working =
            Working { attached: self.attach_all(source.attachments)?, ..Working::default() };
        working.blind.lines(source.blind);
        for extra in source.extras {
            if is_wanted(self.kernel, extra) {
                self.extra(extra, &mut working);
            }
        }
        if working.attached.is_empty() && working.listening.is_none() {
            bail!("nothing tells of it: {}", working.blind.missing.join("; "));
        }
        Ok(working)
    }

    /// Adds what a source has beside its programs, in the first of the ways that works.
    fn extra(&mut self, extra: &Extra, to: &mut Working) {
        let mut refused = String::new();
        for alternative in extra.alternatives {
            match alternative.by {
                By::Programs(attachments) => {
                    let check = |attachment: &Attachment| self.kernel.check(attachment.hook);
                    let checked = attachments
                        .iter()
                        .try_for_each(check)
                        .and_then(|()| fields(self.locations, alternative.fields));
                    match checked.and_then(|()| self.attach_all(attachments)) {
                        Ok(attached) => to.attached.extend(attached),
                        Err(error) => {
                            refused = format!(" ({})", one_line(&error));
                            continue;
                        }
                    }
                }
                By::Ctnetlink => {
                    let Options { host_root, filters, .. } = self.options;
                    match Ctnetlink::listen(&self.kernel.symbols, host_root, filters) {
                        Ok(listening) => {
                            if listening.waits() {
                                to.blind.lines(&[
                                    "the first seconds of connection tracking, which is not there yet",
                                ]);
                            }
                            to.listening = Some(listening);
                        }
                        Err(error) => {
                            refused = format!(" ({})", one_line(&error));
                            continue;
                        }
                    }
                }
            }
            to.blind.lines(alternative.blind);
            to.cost = to.cost.max(alternative.cost);
            return;
        }
        to.blind.missing.push(format!("{}{refused}", extra.lost));
        to.blind.counts.extend(extra.counts);
    }

    /// Attaches all of them, or none. Ends go first, so that no beginning waits for an end that was
    /// not yet attached.
    fn attach_all(&mut self, attachments: &[Attachment]) -> Result<Vec<Attached>> {
        let mut attached = Vec::new();
        for attachment in attachments.iter().rev() {
            match self.attach(attachment) {
                Ok((program, link)) => attached.push(Attached {
                    signal: self.signal,
                    program,
                    role: attachment.role,
                    link: Some(link),
                }),
                Err(error) => {
                    for done in &attached {
                        unload(self.ebpf, &done.program);
                    }
                    return Err(error);
                }
            }
        }
        Ok(attached)
    }

    /// Attaches the program, or the one that stands in for it on older kernels.
    fn attach(&mut self, attachment: &Attachment) -> Result<(String, Link)> {
        self.attach_program(attachment.program, attachment.hook).or_else(|error| {
            let plain = format!("{}_plain", attachment.program);
            if self.ebpf.program(&plain).is_none() {
                return Err(error);
            }
            self.attach_program(&plain, attachment.hook)
        })
    }

    fn attach_program(&mut self, program: &str, hook: Hook) -> Result<(String, Link)> {
        match self.kernel.attach(self.ebpf, program, hook) {
            Ok(link) => Ok((program.to_owned(), link)),
            Err(error) => {
                unload(self.ebpf, program);
                Err(error)
            }
        }
    }
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

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}
