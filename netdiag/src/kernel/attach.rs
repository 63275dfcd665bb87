//! The attach plan: for each signal the first source that works, the refusals kept.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use netdiag_common::{
    field::{Field, Location},
    globals::{Locations, SlotPlace, duty},
    signal::Signal,
};

use super::{
    ahead::{self, Refused, Way, Ways},
    ctnetlink::Ctnetlink,
    hooks::{Kernel, Link, load_kprobe, program_name, unload},
    modules::{Follow, Presence},
    plan::Options,
};
use crate::{
    coverage::{Refusal, SignalStatus, Status},
    signal::{
        Alternative, Attachment, By, Cost, DEFINITIONS, Definition, Extra, Source, When, dns,
    },
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
    /// What it is for. Of its duties those that it has.
    pub(super) attachment: Attachment,
    /// None while the function is not there, and where another signal has it.
    pub(super) link: Option<Link>,
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) statuses: Vec<SignalStatus>,
    pub(super) attached: Vec<Attached>,
    /// Signals whose functions come and go with a module.
    pub(super) modular: Vec<Follow>,
    /// Who listens to what no program sees.
    pub(super) listening: Option<Ctnetlink>,
}

impl Outcome {
    /// Takes programs out again whose work others can do beside their own, where they may (`tells_readers`), and says
    /// so to those.
    pub(super) fn relieve(&mut self, ebpf: &mut Ebpf, tells_readers: bool) {
        self.take_relieved(tells_readers).iter().for_each(|program| unload(ebpf, program));
    }

    fn take_relieved(&mut self, tells_readers: bool) -> Vec<String> {
        let can = self.attached.iter().fold(0, |can, attached| can | attached.attachment.duty);
        let can = if tells_readers { can & duty::READERS } else { 0 };
        let (mut done, mut relieved) = (0, Vec::new());
        self.attached.retain(|attached| {
            let by = attached.attachment.relieved_by;
            let is_relieved = by & can != 0;
            if is_relieved {
                done |= by;
                relieved.push(attached.program.clone());
            }
            !is_relieved
        });
        for attached in &mut self.attached {
            attached.attachment.duty &= !duty::READERS | done;
        }
        relieved
    }

    /// How often the programs of a signal run, by the dearest of those that are attached; none where it is off.
    pub(super) fn cost(&self, signal: Signal) -> Option<Cost> {
        if self.statuses[signal as usize].status == Status::Off {
            return None;
        }
        let own = self.attached.iter().filter(|attached| attached.signal == signal);
        let dearer = own.filter_map(|attached| attached.attachment.cost).max();
        dearer.max(Some(DEFINITIONS[signal as usize].cost))
    }

    /// Whether programs have the kernel copy packets, into a ring of each processor.
    pub(super) fn copies_packets(&self) -> bool {
        self.statuses[Signal::Dns as usize].source.as_deref() == Some(dns::COPIES)
    }
}

/// Whether the plan can go on with sockets remembered in this place.
pub(super) enum Verdict {
    Done(Outcome),
    /// A signal works only with programs that cannot reach socket storage.
    NeedsHash,
}

/// By what programs are chosen.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) locations: &'a Locations,
    pub(super) place: SlotPlace,
    pub(super) options: &'a Options,
}

impl<'a> Plan<'a> {
    /// The signals to observe.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &'static Definition> + use<'a> {
        let wishes = &self.options.wishes;
        DEFINITIONS.iter().copied().filter(|definition| {
            definition.signal == Signal::Socket || wishes.signals.contains(&definition.signal)
        })
    }

    /// Whether it is known before anything is loaded that some signal cannot reach socket storage.
    pub(super) fn needs_hash(&self) -> bool {
        let untyped = |definition| {
            let first =
                self.order(definition).into_iter().find(|it| self.preconditions(it).is_ok());
            first.is_some_and(|source| !source.typed)
        };
        self.place == SlotPlace::Storage && self.wanted().any(untyped)
    }

    /// The ways in which a signal may be had, for loading ahead.
    pub(super) fn ways(&self, definition: &Definition) -> Ways {
        let reach = |it: &&Source| self.place == SlotPlace::Hash || it.typed;
        Ways::new(self.order(definition).into_iter().take_while(reach).filter_map(|source| {
            let extras = if self.waits_for_module(source) {
                self.fields(source.fields).ok()?;
                &[]
            } else {
                self.preconditions(source).ok()?;
                source.extras
            };
            Some(Way { attachments: source.attachments, extras })
        }))
    }

    /// Attaches every wanted signal.
    pub(super) fn attach(&self, ebpf: &mut Ebpf) -> Verdict {
        let plain = !self.kernel.has_compare_exchange(ebpf);
        let refusals = ahead::load(self, ebpf, plain);
        let mut outcome = Outcome::default();
        for definition in DEFINITIONS {
            if !self.wanted().any(|wanted| wanted.signal == definition.signal) {
                outcome.statuses.push(off(definition, Vec::new(), "not asked for"));
                continue;
            }
            let mut refused = Vec::new();
            let mut chosen = None;
            for source in self.order(definition) {
                let ready = self.preconditions(source);
                if ready.is_ok() && self.place == SlotPlace::Storage && !source.typed {
                    return Verdict::NeedsHash; // it is this one's turn, and it cannot reach storage
                }
                let presence = source.module.map(Presence::of);
                let signal = definition.signal;
                let (refusals, others) = (&refusals, outcome.attached.as_slice());
                let mut trial = Trial { plan: *self, ebpf, signal, plain, refusals, others };
                let result = if self.waits_for_module(source) {
                    // Its functions cannot be looked for yet.
                    self.fields(source.fields).and_then(|()| trial.until_loaded(source))
                } else {
                    ready.and_then(|()| trial.source(source))
                };
                match result {
                    Ok(working) => {
                        outcome.modular.extend(Follow::new(definition.signal, source, presence));
                        outcome.attached.extend(working.attached);
                        outcome.listening = outcome.listening.or(working.listening);
                        chosen = Some((source, working.blind));
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
                    runs_per: None,
                    unseen_counts: blind.counts,
                    shed: false,
                },
                None => {
                    if let Some(flush) = definition.flush {
                        unload(ebpf, flush);
                    }
                    off(definition, refused, definition.help)
                }
            });
        }
        Verdict::Done(outcome)
    }

    /// Sources in the order in which this kernel shall try them: where tasks are preempted inside
    /// programs, each as it is meant for that, and those that lose nothing by it go first.
    fn order(&self, definition: &Definition) -> Vec<&'static Source> {
        let forced = self.options.wishes.forced.get(&definition.signal);
        let mut sources: Vec<_> = definition
            .sources
            .iter()
            .filter(|source| forced.is_none_or(|name| name == source.name))
            .collect();
        if self.kernel.facts.preemption.may_preempt() {
            for source in &mut sources {
                *source = source.when_preempted.unwrap_or(source);
            }
            // What needs no program sees the least.
            sources.sort_by_key(|it| (it.attachments.is_empty(), it.skips_when_preempted));
        }
        sources
    }

    /// Whether a source's module is not loaded, and the source can wait for it.
    fn waits_for_module(&self, source: &Source) -> bool {
        self.kernel.facts.kprobes && source.module.map(Presence::of) == Some(Presence::Absent)
    }

    /// Why a source cannot work here, told without loading anything.
    fn preconditions(&self, source: &Source) -> Result<()> {
        let Self { kernel, .. } = self;
        source.attachments.iter().try_for_each(|attachment| kernel.check(attachment.hook))?;
        source.places.iter().try_for_each(|place| kernel.check_place(place))?;
        self.fields(source.fields)
    }

    /// The same of what is beside a source.
    pub(super) fn may_work(&self, alternative: &Alternative) -> Result<()> {
        if let By::Programs(attachments) = alternative.by {
            attachments.iter().try_for_each(|attachment| self.kernel.check(attachment.hook))?;
        }
        self.fields(alternative.fields)
    }

    /// Why a source cannot read what it needs.
    fn fields(&self, fields: &[Field]) -> Result<()> {
        for &field in fields {
            if self.locations[field as usize] == Location::MISSING.0 {
                let (structure, path, _) = field.path();
                bail!("this kernel's BTF has no usable {structure}.{path}");
            }
        }
        Ok(())
    }

    /// Whether something beside a source is wanted on this kernel.
    pub(super) fn is_wanted(&self, extra: &Extra) -> bool {
        let btf = &self.kernel.btf;
        match extra.when {
            When::Always => true,
            When::FunctionExists(name) => btf.function(name).is_some(),
            When::TracepointExists(name) => btf.tracepoint(name).is_some(),
            When::TracepointArgumentsBelow(name, arguments) => {
                btf.tracepoint(name).is_some_and(|args| args.len() < arguments)
            }
        }
    }
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
        shed: false,
    }
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
}

/// Trying out what a signal can be had by.
struct Trial<'a> {
    plan: Plan<'a>,
    ebpf: &'a mut Ebpf,
    signal: Signal,
    /// Whether programs do without compare-and-exchange.
    plain: bool,
    /// What the kernel refused when it was loaded ahead.
    refusals: &'a Refused,
    /// Programs that other signals have attached.
    others: &'a [Attached],
}

impl Trial<'_> {
    /// A source whose module is not loaded: nothing happens until it is. That its programs load is
    /// known by then.
    fn until_loaded(&mut self, source: &Source) -> Result<Working> {
        self.was_refused(source.attachments)?;
        let mut loads = source
            .attachments
            .iter()
            .map(|it| load_kprobe(self.ebpf, it.program).map(drop).context(it.hook.name()));
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
            if self.plan.is_wanted(extra) {
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
                    let checked = self.plan.may_work(alternative);
                    match checked.and_then(|()| self.attach_all(attachments)) {
                        Ok(attached) => to.attached.extend(attached),
                        Err(error) => {
                            refused = format!(" ({})", one_line(&error));
                            continue;
                        }
                    }
                }
                By::Ctnetlink => {
                    let Options { host_root, filters, .. } = self.plan.options;
                    match Ctnetlink::listen(&self.plan.kernel.symbols, host_root, filters) {
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
            return;
        }
        to.blind.missing.push(format!("{}{refused}", extra.lost));
        to.blind.counts.extend(extra.counts);
    }

    /// Attaches all of them, or none. Ends go first, so that no beginning waits for an end that was
    /// not yet attached.
    fn attach_all(&mut self, attachments: &[Attachment]) -> Result<Vec<Attached>> {
        self.was_refused(attachments)?;
        let Self { plan, ebpf, signal, plain, others, .. } = self;
        let is_there = |program: &str| others.iter().any(|other| other.program == program);
        let mut attached = Vec::new();
        for attachment in attachments.iter().rev() {
            let program = program_name(ebpf, attachment, *plain);
            let link = if is_there(&program) {
                Ok(None)
            } else {
                let link = plan.kernel.attach(ebpf, &program, attachment.hook);
                link.map(Some).context(attachment.hook.name())
            };
            match link {
                Ok(link) => {
                    let (signal, attachment) = (*signal, *attachment);
                    attached.push(Attached { signal, program, attachment, link });
                }
                Err(error) => {
                    let programs = attachments.iter().map(|it| program_name(ebpf, it, *plain));
                    let own: Vec<_> = programs.filter(|program| !is_there(program)).collect();
                    own.iter().for_each(|program| unload(ebpf, program));
                    return Err(error);
                }
            }
        }
        Ok(attached)
    }

    /// Why one of these programs could not be loaded; they are all out of the kernel then.
    fn was_refused(&self, attachments: &[Attachment]) -> Result<()> {
        for attachment in attachments.iter().rev() {
            let program = program_name(self.ebpf, attachment, self.plain);
            if let Some(error) = self.refusals.get(&program) {
                bail!("{}: {error:#}", attachment.hook.name());
            }
        }
        Ok(())
    }
}

pub(super) fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Hook;

    #[test]
    fn who_is_relieved_takes_nothing_any_more() {
        let on = |it: &&Definition| SignalStatus { status: Status::Full, ..off(it, vec![], "") };
        let attached = |signal, attachment| {
            let program = String::new();
            Attached { signal, program, attachment, link: None }
        };
        let reads = Attachment::new("reads", Hook::RawTp("")).with_duty(duty::READERS);
        let receives = Attachment::new("receives", Hook::RawTp(""));
        let receives = receives.costing(Cost::Call).relieved_by(duty::READERS);
        for (tells_readers, cost) in [(false, Cost::Call), (true, Cost::Connection)] {
            let mut outcome = Outcome {
                statuses: DEFINITIONS.iter().map(on).collect(),
                attached: vec![attached(Signal::Socket, receives), attached(Signal::Turn, reads)],
                ..Outcome::default()
            };
            let relieved = outcome.take_relieved(tells_readers);
            assert_eq!(relieved.len(), usize::from(tells_readers));
            assert_eq!(outcome.cost(Signal::Socket), Some(cost));
            assert_eq!(outcome.cost(Signal::Turn), Some(Cost::Segment));
            outcome.statuses[Signal::Socket as usize].status = Status::Off;
            assert_eq!(outcome.cost(Signal::Socket), None);
        }
    }

    #[test]
    fn only_a_source_that_sees_what_lies_in_pages_has_it_copied() {
        let statuses = DEFINITIONS.iter().map(|it| off(it, Vec::new(), "")).collect();
        let mut outcome = Outcome { statuses, ..Outcome::default() };
        assert!(!outcome.copies_packets(), "it is off");
        for source in DEFINITIONS[Signal::Dns as usize].sources {
            outcome.statuses[Signal::Dns as usize].source = Some(source.name.to_owned());
            assert_eq!(outcome.copies_packets(), source.blind.is_empty(), "{}", source.name);
        }
    }
}
