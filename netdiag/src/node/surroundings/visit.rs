//! A visit to a network namespace, and all that is read there.

use std::{
    io,
    time::{Duration, Instant},
};

use super::Rare;
use crate::node::{
    census::{self, Census, Signs},
    files,
    links::{self, Link, Links},
    pace::thread_time,
    protocols::{self, Protocols},
    qdiscs::{self, Queues},
    tcp_counters::SNMP,
};

/// What one namespace said in a visit.
pub(super) struct Visit {
    /// When it began.
    pub(super) at: Instant,
    pub(super) protocols: io::Result<Option<Protocols>>,
    pub(super) links: io::Result<Option<Links>>,
    pub(super) queues: io::Result<Option<Queues>>,
    pub(super) sockets: Looked,
    pub(super) rare: Option<Rare>,
}

/// What came of its sockets.
pub(super) enum Looked {
    /// Nobody looked at them.
    Not,
    /// Nothing shows that anything happened to them since they were counted.
    Unchanged,
    /// They were counted; none where there are none.
    Counted(io::Result<Option<Box<Census>>>),
}

/// What is wanted of a visit beyond what is read in each.
pub(super) struct Wanted<'a> {
    /// Whether its sockets are to be looked at.
    pub(super) sockets: bool,
    /// The last count of them, and whether it will do if nothing happened to them.
    pub(super) last: Option<(&'a Census, bool)>,
    /// Whether what changes rarely is to be read.
    pub(super) rare: bool,
    /// Whether the packet filter may be asked for its rules.
    pub(super) may_ask_rules: bool,
}

/// CPU time that went into what is not done in each visit.
#[derive(Default)]
pub(super) struct Took {
    pub(super) sockets: Duration,
    pub(super) rare: Duration,
}

impl Visit {
    /// Reads in the calling thread's namespace.
    pub(super) fn make(wanted: &Wanted<'_>, took: &mut Took) -> Self {
        let at = Instant::now();
        let snmp = files::text(SNMP);
        let links = links::read();
        let begun = thread_time();
        let sockets = match wanted.sockets {
            true => look(snmp.as_deref().ok(), wanted.last),
            false => Looked::Not,
        };
        let looked = thread_time();
        let have_speeds = || links.iter().flat_map(Links::values).any(Link::may_have_speed);
        let rare = wanted.rare.then(|| Rare::read(wanted.may_ask_rules, have_speeds()));
        took.sockets += looked.saturating_sub(begun);
        took.rare += thread_time().saturating_sub(looked);
        Self {
            at,
            protocols: snmp.and_then(|snmp| protocols::read(&snmp)).map(Some),
            links: links.map(Some),
            queues: qdiscs::read().map(Some),
            sockets,
            rare,
        }
    }
}

/// Counts the sockets, unless nothing happened to them since a count that will do.
fn look(snmp: Option<&str>, last: Option<(&Census, bool)>) -> Looked {
    let signs = Signs::read(snmp);
    if last.is_some_and(|(last, will_do)| will_do && last.stands(signs.as_ref())) {
        return Looked::Unchanged;
    }
    let counted = census::read(signs, last.map(|(last, _)| last));
    Looked::Counted(counted.map(|census| census.map(|census| Box::new(census.settle()))))
}
