//! Loading programs ahead of attaching them, several at once: the kernel verifies a program on the thread that
//! hands it over, and does not keep others waiting for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Error;
use aya::{Ebpf, programs::Program};

use super::{
    attach::Plan,
    hooks::{Kernel, program_name, unload},
};
use crate::signal::{Attachment, By, Extra, Hook};

/// Threads that load, at most: a node in trouble has use for its other processors.
const THREADS: usize = 4;

/// The programs that the kernel refused, and why. What it took is loaded, and attached to nothing.
pub(super) type Refused = HashMap<String, Error>;

/// Something to have, and the ways to have it that may work, in the order in which they are tried.
#[derive(Default)]
pub(super) struct Ways(VecDeque<Way>);

/// One of them.
pub(super) struct Way {
    /// Its programs, all or none.
    pub(super) attachments: &'static [Attachment],
    /// What it has beside them.
    pub(super) extras: &'static [Extra],
}

impl Ways {
    /// Of a signal, by its sources.
    pub(super) fn new(ways: impl Iterator<Item = Way>) -> Self {
        Self(ways.collect())
    }

    /// Of something beside the programs of a source.
    fn of_extra(plan: &Plan<'_>, extra: &Extra) -> Self {
        let ready = extra.alternatives.iter().filter(|it| plan.may_work(it).is_ok());
        // What needs no program comes first where it works, and then the programs behind it are not wanted.
        let programs = ready.map_while(|alternative| match alternative.by {
            By::Programs(attachments) => Some(Way { attachments, extras: &[] }),
            By::Ctnetlink => None,
        });
        Self::new(programs)
    }
}

/// Loads what the plan will attach. Where the kernel refuses a program of one way, the others of it are taken out
/// again, and the next way is tried. `plain`: by the programs that do without compare-and-exchange.
pub(super) fn load(plan: &Plan<'_>, ebpf: &mut Ebpf, plain: bool) -> Refused {
    let mut refused = Refused::new();
    let mut open: Vec<Ways> = plan.wanted().map(|definition| plan.ways(definition)).collect();
    let flushes = plan.wanted().filter_map(|definition| definition.flush);
    // Userspace runs these; no tracepoint does.
    let mut tasks: HashMap<String, Hook> =
        flushes.map(|flush| (flush.to_owned(), Hook::RawTp(""))).collect();
    loop {
        let first = open.iter().filter_map(|ways| ways.0.front());
        for attachment in first.flat_map(|way| way.attachments) {
            tasks.insert(program_name(ebpf, attachment, plain), attachment.hook);
        }
        if tasks.is_empty() {
            return refused;
        }
        let failed = at_once(plan.kernel, ebpf, &tasks);
        let mut next = Vec::new();
        for mut ways in open {
            let Some(way) = ways.0.pop_front() else { continue };
            let name = |attachment| program_name(ebpf, attachment, plain);
            let names: Vec<_> = way.attachments.iter().map(name).collect();
            if names.iter().any(|name| failed.contains_key(name)) {
                names.iter().for_each(|name| unload(ebpf, name));
                next.push(ways);
            } else {
                let extras = way.extras.iter().filter(|extra| plan.is_wanted(extra));
                next.extend(extras.map(|extra| Ways::of_extra(plan, extra)));
            }
        }
        refused.extend(failed);
        (open, tasks) = (next, HashMap::new());
    }
}

/// Loads these programs on several threads; returns those that were refused.
fn at_once(kernel: &Kernel, ebpf: &mut Ebpf, tasks: &HashMap<String, Hook>) -> Refused {
    let with_hook = |(name, program): (_, _)| {
        Some((name, program, *tasks.get::<str>(name)?)) as Option<Task<'_>>
    };
    let queue: Mutex<Vec<Task<'_>>> =
        Mutex::new(ebpf.programs_mut().filter_map(with_hook).collect());
    let refused = Mutex::new(Refused::new());
    let work = || {
        loop {
            let Some((name, program, hook)) = lock(&queue).pop() else { break };
            if let Err(error) = kernel.load(program, hook) {
                lock(&refused).insert(name.to_owned(), error);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    thread::scope(|scope| {
        for _ in 1..threads.min(tasks.len()) {
            // Without another thread this one does it all.
            let _none = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    refused.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A program, by its name, and what it is loaded for.
type Task<'a> = (&'a str, &'a mut Program, Hook);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
