//! A visit to a network namespace, and all that is read there.

use std::{
    io,
    time::{Duration, Instant},
};

use super::Rare;
use crate::node::{
    census::{self, Census, Signs},
    conntrack::{self, Table},
    files::Files,
    links::{self, Link, Links},
    netlink::Asker,
    pace::thread_time,
    protocols::{self, Protocols},
    qdiscs::{self, Queues},
    tcp_counters::{self, Counters, NETSTAT, SNMP},
};

/// What one namespace said in a visit.
pub(super) struct Visit {
    /// When it began.
    pub(super) at: Instant,
    pub(super) tcp: io::Result<Option<Counters>>,
    pub(super) tracked: io::Result<Option<Table>>,
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
    /// Whether there is connection tracking.
    pub(super) tracked: bool,
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
    /// Reads in the calling thread's namespace, whose files those are, and in which the asker asks.
    pub(super) fn make(
        wanted: &Wanted<'_>,
        files: &mut Files<'_>,
        asker: &mut Asker,
        took: &mut Took,
    ) -> Self {
        let at = Instant::now();
        let (snmp, netstat) = (files.text(SNMP), files.text(NETSTAT));
        let tcp =
            as_read(&snmp).and_then(|snmp| Ok(Some(tcp_counters::from(snmp, as_read(&netstat)?)?)));
        let tracked = if wanted.tracked { conntrack::read_by(files) } else { Ok(None) };
        let links = links::read(asker);
        let begun = thread_time();
        let sockets = match wanted.sockets {
            true => look(files, snmp.as_deref().ok(), wanted.last),
            false => Looked::Not,
        };
        let looked = thread_time();
        let have_speeds = || links.iter().flat_map(Links::values).any(Link::may_have_speed);
        let rare = wanted.rare.then(|| Rare::read(wanted.may_ask_rules, have_speeds()));
        took.sockets += looked.saturating_sub(begun);
        took.rare += thread_time().saturating_sub(looked);
        Self {
            at,
            tcp,
            tracked,
            protocols: snmp.and_then(|snmp| protocols::read(files, &snmp)).map(Some),
            links: links.map(Some),
            queues: qdiscs::read(asker).map(Some),
            sockets,
            rare,
        }
    }
}

/// The text of a file of which several things are read, or for each of them why there is none.
fn as_read(read: &io::Result<String>) -> io::Result<&str> {
    let text = read.as_deref();
    text.map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Counts the sockets, unless nothing happened to them since a count that will do.
fn look(files: &mut Files<'_>, snmp: Option<&str>, last: Option<(&Census, bool)>) -> Looked {
    let signs = Signs::read_by(files, snmp);
    if last.is_some_and(|(last, will_do)| will_do && last.stands(signs.as_ref())) {
        return Looked::Unchanged;
    }
    let counted = census::read(signs, last.map(|(last, _)| last));
    Looked::Counted(counted.map(|census| census.map(|census| Box::new(census.settle()))))
}
