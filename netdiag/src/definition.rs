//! What the rest of netdiag knows of a signal: what it measures and counts, and how the kernel can be
//! made to tell it.

use netdiag_common::{field::Field, signal::Signal};

use crate::event::Kind;

/// A latency that a signal measures, in nanoseconds.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name in outputs: lower case, no unit (the unit stands in the keys below it).
    pub name: &'static str,
    /// From where to where it is measured and what it says, one line.
    pub help: &'static str,
    /// Whether it has columns in the plain table; otherwise it stands in the line below its flow.
    pub columns: bool,
}

impl Metric {
    /// A metric that stands below its flow.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, columns: false }
    }

    /// The same with columns of its own.
    #[must_use]
    pub const fn with_columns(self) -> Self {
        Self { columns: true, ..self }
    }
}

/// Something that a signal counts per flow.
#[derive(Debug, PartialEq, Eq)]
pub struct Count {
    /// Key in `counts`; `group.key` for a nested one (`retransmits.rto`).
    pub name: &'static str,
    /// What is counted, with its unit, one line.
    pub help: &'static str,
    /// Whether a flow without it counted zero; otherwise the number is unknown there.
    pub absent_is_zero: bool,
    /// Whether it is a group whose keys are the kernel's: one number for each [`Label`] that came.
    pub labelled: bool,
    /// Whether what several intervals or flows counted adds up; otherwise it is the state at a time.
    pub adds_up: bool,
    /// Whether a group has a column in the plain table; otherwise it stands in the line below.
    pub column: bool,
    /// Whether it stands in the line below, where it has no column and is not zero.
    pub below: bool,
    /// Whether findings need single flows that have it, which may not even send: where flows are summed up those
    /// that have it are listed before others.
    pub tells: bool,
    /// Signals without which it is not known, beside its own.
    pub needs: &'static [Signal],
    /// Signals of which nothing counts for it as long as their samples are left out to keep the cost down.
    pub pauses_with: &'static [Signal],
    /// What the keys of its group say, where all of them together are a whole: the name of the label that they are
    /// in metrics. Where they are none, each key is a metric of its own there.
    pub key: Option<&'static str>,
}

impl Count {
    /// A count that starts at zero.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            absent_is_zero: true,
            labelled: false,
            adds_up: true,
            column: true,
            below: true,
            tells: false,
            needs: &[],
            pauses_with: &[],
            key: None,
        }
    }

    /// A reading of the kernel's counter, unknown until the kernel was asked.
    #[must_use]
    pub const fn reading(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            absent_is_zero: false,
            labelled: false,
            adds_up: true,
            column: true,
            below: true,
            tells: false,
            needs: &[],
            pauses_with: &[],
            key: None,
        }
    }

    /// What the kernel holds at a time, the last that was told; not to be added up, unknown until the
    /// kernel was asked.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { adds_up: false, ..Self::reading(name, help).not_below() }
    }

    /// A group of counts that start at zero, by keys that only the running kernel knows.
    #[must_use]
    pub const fn labelled(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            absent_is_zero: true,
            labelled: true,
            adds_up: true,
            column: true,
            below: true,
            tells: false,
            needs: &[],
            pauses_with: &[],
            key: Some("reason"),
        }
    }

    /// The same for a group that needs no column.
    #[must_use]
    pub const fn without_column(self) -> Self {
        Self { column: false, ..self }
    }

    /// The same for what is in the way in the plain table.
    #[must_use]
    pub const fn not_below(self) -> Self {
        Self { below: false, ..self }
    }

    /// The same for what is of use there.
    #[must_use]
    pub const fn below(self) -> Self {
        Self { below: true, ..self }
    }

    /// The same for what single flows are kept for.
    #[must_use]
    pub const fn telling(self) -> Self {
        Self { tells: true, ..self }
    }

    /// The same for what is made of other signals' events, too.
    #[must_use]
    pub const fn needing(self, needs: &'static [Signal]) -> Self {
        Self { needs, ..self }
    }

    /// The same for what is not told while samples of these are left out.
    #[must_use]
    pub const fn pausing_with(self, pauses_with: &'static [Signal]) -> Self {
        Self { pauses_with, ..self }
    }

    /// The same in a group whose keys together are a whole, and what they say.
    #[must_use]
    pub const fn keyed(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The group that it stands in, if any.
    #[must_use]
    pub fn group(&self) -> Option<&'static str> {
        if self.labelled { Some(self.name) } else { Some(self.name.split_once('.')?.0) }
    }
}

/// How a program reaches the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// BPF trampoline at the entry of a vmlinux function.
    Fentry(&'static str),
    /// BPF trampoline at its return.
    Fexit(&'static str),
    /// The same, where the function takes so many arguments: its program finds the returned value
    /// behind them, and signatures change.
    FexitWith(&'static str, usize),
    /// kprobe at the entry of a function.
    Kprobe(&'static str),
    /// kretprobe at its return; of functions that do not wait, since only so many calls can be under
    /// way.
    Kretprobe(&'static str),
    /// BTF-typed raw tracepoint.
    TpBtf(&'static str),
    /// Raw tracepoint, arguments read by the probe-read helper.
    RawTp(&'static str),
    /// The same, where the tracepoint has at least so many arguments.
    RawTpWith(&'static str, usize),
    /// Classic tracepoint `category:name`, by perf event.
    Tracepoint(&'static str, &'static str),
}

impl Hook {
    /// The function or tracepoint that it is on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry(name)
            | Self::Fexit(name)
            | Self::FexitWith(name, _)
            | Self::Kprobe(name)
            | Self::Kretprobe(name)
            | Self::TpBtf(name)
            | Self::RawTp(name)
            | Self::RawTpWith(name, _)
            | Self::Tracepoint(_, name) => name,
        }
    }
}

/// A program and the place it attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the program in the eBPF object. Where the kernel has no compare-and-exchange (before 5.12), a program of
    /// that name with `_plain` behind it goes first if there is one. One may be on several hooks.
    pub program: &'static str,
    /// Where it goes.
    pub hook: Hook,
    /// What a run of it means.
    pub role: Role,
    /// What it does for the signal, one of [`netdiag_common::globals::duty`], where it does something for another
    /// one, too, and is attached once; or what it may do in place of another one; else 0.
    pub duty: u32,
    /// The duty that others may have in its place; then it is taken out again. 0: none.
    pub relieved_by: u32,
    /// How often it runs, where that is more often than its signal's programs do.
    pub cost: Option<Cost>,
}

impl Attachment {
    /// A program that sees samples begin, or all that there is of them.
    #[must_use]
    pub const fn new(program: &'static str, hook: Hook) -> Self {
        Self { program, hook, role: Role::Begin, duty: 0, relieved_by: 0, cost: None }
    }

    /// A program that sees the ends of samples that began elsewhere.
    #[must_use]
    pub const fn end(program: &'static str, hook: Hook) -> Self {
        Self { role: Role::End, ..Self::new(program, hook) }
    }

    /// A program by which no sample is missed when the kernel skips it.
    #[must_use]
    pub const fn aside(program: &'static str, hook: Hook) -> Self {
        Self { role: Role::Aside, ..Self::new(program, hook) }
    }

    /// The same for a program that several signals share, or that may do more.
    #[must_use]
    pub const fn with_duty(self, duty: u32) -> Self {
        Self { duty, ..self }
    }

    /// The same for a program that is not needed where others do that.
    #[must_use]
    pub const fn relieved_by(self, duty: u32) -> Self {
        Self { relieved_by: duty, ..self }
    }

    /// The same for a program that runs so often.
    #[must_use]
    pub const fn costing(self, cost: Cost) -> Self {
        Self { cost: Some(cost), ..self }
    }
}

/// What the kernel's skipping a run of a program means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A sample was missed.
    Begin,
    /// The end of one was, whose beginning is left behind.
    End,
    /// None was: it only adds to what another program sees, or stands in for one on the same hook,
    /// where a run that is skipped itself would have done nothing.
    Aside,
}

/// When an [`Extra`] is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Everywhere.
    Always,
    /// The kernel has the function.
    FunctionExists(&'static str),
    /// The kernel has the tracepoint.
    TracepointExists(&'static str),
    /// The tracepoint has fewer arguments than this.
    TracepointArgumentsBelow(&'static str, usize),
}

/// What brings an [`Extra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Programs, all or none.
    Programs(&'static [Attachment]),
    /// No program: the events of ctnetlink, where the kernel can tell them as it is.
    Ctnetlink,
}

/// One way to have an [`Extra`].
#[derive(Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What brings it.
    pub by: By,
    /// Fields it cannot do without.
    pub fields: &'static [Field],
    /// What it cannot see, one line each.
    pub blind: &'static [&'static str],
}

impl Alternative {
    /// By programs that see all of it.
    #[must_use]
    pub const fn programs(attachments: &'static [Attachment]) -> Self {
        Self { by: By::Programs(attachments), fields: &[], blind: &[] }
    }

    /// The same, with what it cannot see.
    #[must_use]
    pub const fn blind_to(self, blind: &'static [&'static str]) -> Self {
        Self { blind, ..self }
    }

    /// The same, with the fields that it cannot do without.
    #[must_use]
    pub const fn reading(self, fields: &'static [Field]) -> Self {
        Self { fields, ..self }
    }
}

/// What a source has beside its programs, for what only some kernels have or need.
#[derive(Debug, PartialEq, Eq)]
pub struct Extra {
    /// When it is wanted; otherwise nothing is lost without it.
    pub when: When,
    /// Ways to have it, in order of preference.
    pub alternatives: &'static [Alternative],
    /// What is lost when none of them works.
    pub lost: &'static str,
    /// Counts that are unknown when none of them works.
    pub counts: &'static [&'static str],
}

/// One way to get a signal. The first that loads and attaches wins.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Name in `--source SIGNAL=NAME` and outputs.
    pub name: &'static str,
    /// Its programs, all or nothing; one without any has what stands beside them. The last is attached
    /// first. On one hook a trampoline runs first what was attached last
    /// (`bpf_trampoline_link_prog`, kernel/bpf/trampoline.c), a tracepoint what was attached first: so one
    /// that stands in for another, and is to run behind it, stands behind it for the former, before it for
    /// the latter.
    pub attachments: &'static [Attachment],
    /// What it has beside them.
    pub extras: &'static [Extra],
    /// Fields it cannot do without.
    pub fields: &'static [Field],
    /// Functions whose addresses it cannot do without.
    pub places: &'static [&'static str],
    /// Whether its programs can reach socket storage (typed socket pointers).
    pub typed: bool,
    /// Whether they read kernel memory by address, which lockdown in mode confidentiality forbids.
    pub reads_memory: bool,
    /// Whether the kernel skips runs of it when a task is preempted inside the program.
    pub skips_when_preempted: bool,
    /// What it cannot see, one line each; empty for a full source.
    pub blind: &'static [&'static str],
    /// The kernel module that its functions may be part of. Without it there is nothing to see until
    /// it is loaded.
    pub module: Option<&'static str>,
    /// Other programs by the same name, in its place where tasks are preempted inside programs.
    pub when_preempted: Option<&'static Self>,
}

/// Everything the rest of netdiag knows of a signal.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which one.
    pub signal: Signal,
    /// What it tells, one line.
    pub help: &'static str,
    /// Latencies it measures.
    pub metrics: &'static [Metric],
    /// What it counts.
    pub counts: &'static [Count],
    /// How often its programs run, which is what it costs, but for those that say otherwise.
    pub cost: Cost,
    /// Sources, in order of preference.
    pub sources: &'static [Source],
    /// Samples that one record carries at most.
    pub samples: u32,
    /// The program that hands over what waits on a CPU, where something does.
    pub flush: Option<&'static str>,
    /// What its counts are of.
    pub rows: Rows,
    /// Kinds of events that it tells of one by one.
    pub kinds: &'static [&'static Kind],
    /// How it is left out where cost must be kept down; none: it never is, since it is rare, or counts in the kernel what
    /// comes in floods, or names the flows of all others.
    pub shed: Option<Shed>,
}

/// How samples of a signal are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Its place among those of which they are, the smallest first.
    pub place: u8,
    /// What is not seen meanwhile beside them, as a clause: that something happens, whose something is.
    pub unseen: Option<&'static str>,
}

impl Shed {
    /// At that place; nothing but its samples is unseen.
    #[must_use]
    pub const fn at(place: u8) -> Self {
        Self { place, unseen: None }
    }

    /// The same, with what else is.
    #[must_use]
    pub const fn hiding(self, unseen: &'static str) -> Self {
        Self { unseen: Some(unseen), ..self }
    }
}

/// How often a signal's programs run, from the cheapest to the dearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// When something is lost or sent again.
    Loss,
    /// A few times in a connection's life.
    Connection,
    /// At each call that sends or receives.
    Call,
    /// At each segment that TCP receives.
    Segment,
    /// At each packet of the node.
    Packet,
    /// At a few system calls, but every other one of the node takes longer by it, too: some 30 ns
    /// (`syscall_regfunc`, kernel/tracepoint.c).
    SystemCall,
}

impl Cost {
    /// Its name in outputs: that once per which they run.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Connection => "connection",
            Self::Call => "call",
            Self::Segment => "segment",
            Self::Packet => "packet",
            Self::SystemCall => "system call",
        }
    }
}

/// What a signal's counts are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Flows.
    Flows,
    /// Entries of the connection tracking table.
    Entries,
}
