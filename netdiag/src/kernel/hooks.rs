//! Loading one program and attaching it to its hook, after asking whether the hook can work: a hook
//! that attaches and never fires is worse than one that is refused.

use std::{iter, os::fd::AsFd as _};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use aya::{
    Ebpf, Endianness,
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint,
        kprobe::KProbeLinkId,
    },
};

use super::{
    btf::Btf,
    ctnetlink,
    facts::Facts,
    symbols::{Symbol, Symbols},
    tracefs::{self, Tracefs},
};
use crate::signal::{Attachment, By, DEFINITIONS, Hook, conntrack::NETFILTER_HOOKS, drop};

/// What is known of the kernel before anything is loaded; dropped after the attach.
pub(super) struct Kernel {
    pub(super) facts: Facts,
    /// Types as netdiag reads them; from `--btf FILE` where the kernel publishes none.
    pub(super) btf: Btf,
    /// Types as aya needs them for typed programs; only the running kernel's own will do.
    pub(super) aya_btf: Option<aya::Btf>,
    /// Or why there are none.
    pub(super) symbols: Result<Symbols, String>,
    /// Why maps may be refused, where the limit that old kernels charge them to could not be lifted.
    pub(super) memlock: Result<(), String>,
}

/// A program of the object that is never attached. It loads where the kernel has compare-and-exchange: from 5.12 on, if
/// its compiler for this processor has it.
const COMPARE_EXCHANGE: &str = "compare_exchange_probe";

/// What keeps a program attached; detaches when dropped.
#[derive(Debug)]
pub(super) enum Link {
    /// The program's own link, dropped with it.
    Aya,
    /// The same, of a function that may go with its module.
    Kprobe(KProbeLinkId),
    Tracepoint {
        _attachment: tracefs::Attachment,
    },
}

impl Kernel {
    /// The hooks of all sources.
    fn hooks() -> impl Iterator<Item = Hook> {
        let sources = DEFINITIONS.iter().flat_map(|definition| definition.sources);
        sources
            .flat_map(|source| iter::once(source).chain(source.when_preempted))
            .flat_map(|source| {
                let ways = source.extras.iter().flat_map(|extra| extra.alternatives);
                source.attachments.iter().chain(ways.flat_map(|way| match way.by {
                    By::Programs(attachments) => attachments,
                    By::Ctnetlink => &[],
                }))
            })
            .map(|attachment| attachment.hook)
    }

    /// The functions that some source hooks, and others whose place is asked for.
    pub(super) fn functions() -> Vec<&'static str> {
        let mut names: Vec<_> = Self::hooks()
            .filter_map(|hook| match hook {
                Hook::Fentry(name)
                | Hook::Fexit(name)
                | Hook::FexitWith(name, _)
                | Hook::Kprobe(name)
                | Hook::Kretprobe(name) => Some(name),
                Hook::TpBtf(_) | Hook::RawTp(_) | Hook::RawTpWith(..) | Hook::Tracepoint(..) => {
                    None
                }
            })
            .chain(drop::NO_LOSSES.iter().filter_map(|(place, _)| *place))
            .chain([NETFILTER_HOOKS, ctnetlink::TELLS])
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What aya needs of the running kernel's types: it asks them for the ids of hooks.
    pub(super) fn types_for_aya(running: &Btf) -> Option<aya::Btf> {
        let functions = Self::hooks().filter_map(|hook| match hook {
            Hook::Fentry(name) | Hook::Fexit(name) | Hook::FexitWith(name, _) => Some(name),
            _ => None,
        });
        let tracepoints = Self::hooks().filter_map(|hook| match hook {
            Hook::TpBtf(name) => Some(name),
            _ => None,
        });
        aya::Btf::parse(&running.thinned(functions, tracepoints), Endianness::default()).ok()
    }

    /// Why a hook cannot work here, told without loading anything.
    pub(super) fn check(&self, hook: Hook) -> Result<()> {
        match hook {
            Hook::Fentry(name) | Hook::Fexit(name) => {
                if self.btf.function(name).is_none() {
                    bail!("this kernel has no function {name}");
                }
                self.check_symbol(name)
            }
            Hook::FexitWith(name, arguments) => {
                self.check(Hook::Fexit(name))?;
                let has = self.btf.function(name).map_or(0, |prototype| prototype.args.len());
                if has != arguments {
                    bail!("{name} has {has} arguments in this kernel, not {arguments}");
                }
                Ok(())
            }
            Hook::Kprobe(name) | Hook::Kretprobe(name) => {
                if !self.facts.kprobes {
                    bail!("this kernel has no kprobes, so none on {name}");
                }
                self.check_symbol(name)
            }
            // Made of one tracepoint for all system calls; the attach looks for it.
            Hook::Tracepoint("syscalls", _) => Ok(()),
            Hook::TpBtf(name) | Hook::RawTp(name) | Hook::Tracepoint(_, name) => {
                if self.btf.tracepoint(name).is_none() {
                    bail!("this kernel has no tracepoint {name}");
                }
                Ok(())
            }
            Hook::RawTpWith(name, arguments) => {
                self.check(Hook::RawTp(name))?;
                let has = self.btf.tracepoint(name).map_or(0, |has| has.len());
                if has < arguments {
                    bail!(
                        "the tracepoint {name} has {has} arguments in this kernel, not {arguments}"
                    );
                }
                Ok(())
            }
        }
    }

    /// Why programs cannot tell what happens in a function from what happens elsewhere.
    pub(super) fn check_place(&self, name: &str) -> Result<()> {
        let symbols = self.symbols.as_ref();
        if symbols.is_ok_and(|symbols| symbols.range(name).is_some()) {
            return Ok(());
        }
        bail!(
            "/proc/kallsyms does not show where {name} lies; it takes CAP_SYSLOG and \
             kernel.kptr_restrict below 2"
        )
    }

    fn check_symbol(&self, name: &str) -> Result<()> {
        check_symbol(&self.symbols, name)
    }

    /// Whether programs may compare and exchange words at once.
    pub(super) fn has_compare_exchange(&self, ebpf: &mut Ebpf) -> bool {
        let program = ebpf.program_mut(COMPARE_EXCHANGE);
        let has = program.is_some_and(|it| self.load(it, Hook::RawTp("")).is_ok());
        unload(ebpf, COMPARE_EXCHANGE);
        has
    }

    fn aya_btf(&self) -> Result<&aya::Btf> {
        self.aya_btf.as_ref().context("this kernel publishes no BTF, which typed programs need")
    }

    /// Loads a program for a hook, unless it is loaded.
    pub(super) fn load(&self, program: &mut Program, hook: Hook) -> Result<()> {
        if program.fd().is_ok() {
            return Ok(());
        }
        let loaded = match hook {
            Hook::Fentry(function) => {
                <&mut FEntry>::try_from(program)?.load(function, self.aya_btf()?)
            }
            Hook::Fexit(function) | Hook::FexitWith(function, _) => {
                <&mut FExit>::try_from(program)?.load(function, self.aya_btf()?)
            }
            Hook::TpBtf(tracepoint) => {
                <&mut BtfTracePoint>::try_from(program)?.load(tracepoint, self.aya_btf()?)
            }
            Hook::RawTp(_) | Hook::RawTpWith(..) => <&mut RawTracePoint>::try_from(program)?.load(),
            Hook::Kprobe(_) | Hook::Kretprobe(_) => <&mut KProbe>::try_from(program)?.load(),
            Hook::Tracepoint(..) => <&mut TracePoint>::try_from(program)?.load(),
        };
        loaded.map_err(brief)
    }

    /// Loads a program of the object, unless it is loaded, and attaches it.
    pub(super) fn attach(&self, ebpf: &mut Ebpf, name: &str, hook: Hook) -> Result<Link> {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
        self.load(program, hook)?;
        match hook {
            Hook::Fentry(_) => {
                <&mut FEntry>::try_from(program)?.attach().map_err(brief)?;
            }
            Hook::Fexit(_) | Hook::FexitWith(..) => {
                <&mut FExit>::try_from(program)?.attach().map_err(brief)?;
            }
            Hook::TpBtf(_) => {
                <&mut BtfTracePoint>::try_from(program)?.attach().map_err(brief)?;
            }
            Hook::RawTp(tracepoint) | Hook::RawTpWith(tracepoint, _) => {
                <&mut RawTracePoint>::try_from(program)?.attach(tracepoint).map_err(brief)?;
            }
            Hook::Kprobe(function) | Hook::Kretprobe(function) => {
                return attach_kprobe(ebpf, name, function);
            }
            Hook::Tracepoint(category, tracepoint) => {
                let id = Tracefs::open()
                    .and_then(|tracefs| tracefs.id(category, tracepoint))
                    .context("tracefs cannot be read")?
                    .ok_or_else(|| anyhow!("this kernel has no tracepoint {tracepoint}"))?;
                let attachment = tracefs::attach_tracepoint(program.fd()?.as_fd(), id)
                    .context("the kernel refused to attach")?;
                return Ok(Link::Tracepoint { _attachment: attachment });
            }
        }
        Ok(Link::Aya)
    }
}

/// Why a hook on a function would not see all calls of it, or none.
pub(super) fn check_symbol(symbols: &Result<Symbols, String>, name: &str) -> Result<()> {
    let symbols = symbols.as_ref().map_err(|error| {
        anyhow!("/proc/kallsyms cannot be read ({error}), so hooks cannot be trusted to fire")
    })?;
    match symbols.get(name) {
        Symbol::Unique { .. } => Ok(()),
        Symbol::Absent => bail!("{name} is inlined in this kernel"),
        Symbol::Ambiguous(n) => bail!("this kernel has {n} symbols named {name}"),
        Symbol::Split => {
            bail!("the compiler made copies of {name} (as .part), so a hook on it would miss calls")
        }
    }
}

/// Loads a program for a function, unless it is loaded.
pub(super) fn load_kprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut KProbe> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the eBPF object has no program {name}"))?;
    let program: &mut KProbe = program.try_into()?;
    if program.fd().is_err() {
        program.load().map_err(brief)?;
    }
    Ok(program)
}

/// Attaches a program, which may have been attached before, to a function or to its return.
pub(super) fn attach_kprobe(ebpf: &mut Ebpf, name: &str, function: &str) -> Result<Link> {
    Ok(Link::Kprobe(load_kprobe(ebpf, name)?.attach(function, 0).map_err(brief)?))
}

/// Takes a program out of its function, and leaves it in the kernel with what it counted.
pub(super) fn detach_kprobe(ebpf: &mut Ebpf, name: &str, link: Link) {
    let program: Option<&mut KProbe> =
        ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    if let (Some(program), Link::Kprobe(link)) = (program, link) {
        // The function may be gone already.
        let _gone = program.detach(link);
    }
}

/// The program that an attachment means on this kernel; `plain` where it has no compare-and-exchange.
pub(super) fn program_name(ebpf: &Ebpf, attachment: &Attachment, plain: bool) -> String {
    let variant = format!("{}_plain", attachment.program);
    if plain && ebpf.program(&variant).is_some() { variant } else { attachment.program.to_owned() }
}

/// Takes a program out of the kernel again.
pub(super) fn unload(ebpf: &mut Ebpf, name: &str) {
    let Some(program) = ebpf.program_mut(name) else { return };
    // A program that was never loaded has nothing to unload.
    let _not_loaded = match program {
        Program::FEntry(p) => p.unload(),
        Program::FExit(p) => p.unload(),
        Program::BtfTracePoint(p) => p.unload(),
        Program::RawTracePoint(p) => p.unload(),
        Program::KProbe(p) => p.unload(),
        Program::TracePoint(p) => p.unload(),
        _ => Ok(()),
    };
}

/// A kernel's refusal in one line: the error, and what the verifier said last.
fn brief(error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = log
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with("processed "));
            match last {
                Some(line) => anyhow!("the kernel refused the program ({io_error}): {line}"),
                None => anyhow!("the kernel refused the program ({io_error})"),
            }
        }
        ProgramError::SyscallError(error) => {
            anyhow!("{} was refused ({})", error.call, error.io_error)
        }
        other => Error::new(other),
    }
}
