//! The kernel's TCP counters, per network namespace.
//!
//! `/proc/net/snmp` (RFC 4022) and `/proc/net/netstat` (`net/ipv4/proc.c`) count since the
//! namespace was made, in 64 bits on every kernel that has eBPF trampolines, so that they do not
//! wrap; a counter that fell belongs to another namespace that got the same inode number.

use std::{collections::BTreeMap, io};

use super::{files, netns::Namespace, reading};
use crate::snapshot::node::NamespaceCounters;

/// Counters by the kernel's name, those that are documented: nothing is kept, compared or copied of any other, nor of
/// the names, where there may be hundreds of namespaces.
pub type Counters = BTreeMap<&'static str, u64>;

/// Names of counters, with what each counts.
pub type Names = &'static [(&'static str, &'static str)];

/// The counters that snapshots hold: those of the lines `Tcp:` and `TcpExt:`.
pub const DOCUMENTED: Names = &[
    ("ActiveOpens", "connections begun from here"),
    ("PassiveOpens", "connections that a listener of ours established"),
    ("AttemptFails", "connections that failed before they were established"),
    ("EstabResets", "established connections that were reset"),
    ("InSegs", "segments received, erroneous ones included"),
    ("OutSegs", "segments sent for the first time"),
    ("RetransSegs", "segments sent again, attempts that failed included"),
    ("InErrs", "segments received that were damaged"),
    ("InCsumErrors", "segments received with a wrong checksum"),
    ("OutRsts", "resets sent"),
    ("TCPSynRetrans", "SYN and SYN-ACK segments sent again"),
    ("TCPFastRetrans", "segments sent again in fast recovery"),
    ("TCPSlowStartRetrans", "segments sent again after a timeout, beyond the first"),
    ("TCPLossProbes", "tail-loss probes sent"),
    ("TCPLossProbeRecovery", "losses that a tail-loss probe repaired"),
    ("TCPTimeouts", "retransmission timers that expired, those of SYN segments included"),
    ("TCPRetransFail", "segments that could not be sent again because this node refused them"),
    ("TCPLostRetransmit", "segments sent again that were lost again"),
    ("TCPSpuriousRTOs", "timeouts that proved needless"),
    ("TCPDSACKRecv", "reports from the peer that it got a segment twice"),
    ("TCPDSACKOldSent", "reports sent to the peer that its segment came twice"),
    ("TCPDSACKUndo", "times that the window was restored, the peer having got segments twice"),
    ("TCPFullUndo", "times that the window was restored, timestamps proving a recovery needless"),
    ("TCPPartialUndo", "likewise, of a part of what was sent"),
    ("TCPLossUndo", "likewise, after a timeout"),
    ("TCPSACKReorder", "times that segments proved reordered, by selective acknowledgement"),
    ("TCPTSReorder", "times that segments proved reordered, by timestamps"),
    ("TCPSACKReneging", "times that a peer dropped what it had acknowledged selectively"),
    ("TCPOFOQueue", "segments received out of order"),
    ("TCPOFODrop", "segments received out of order and dropped for want of receive memory"),
    ("OfoPruned", "times that segments received out of order were dropped to make room"),
    ("PruneCalled", "times that a socket's receive queue was made smaller to make room"),
    ("RcvPruned", "segments dropped because making room did not help"),
    ("TCPMTUPFail", "probes for a larger MTU that were lost"),
    ("TCPMTUPSuccess", "probes for a larger MTU that arrived"),
    ("DelayedACKs", "acknowledgements that were delayed"),
    ("DelayedACKLost", "segments received twice since the acknowledgement was late or lost"),
    ("TCPChallengeACK", "acknowledgements sent to question a suspicious segment"),
    ("PAWSEstab", "segments dropped because their timestamp was too old"),
    ("EmbryonicRsts", "resets received for connection requests"),
    ("SyncookiesSent", "SYN cookies sent"),
    ("SyncookiesRecv", "SYN cookies received that were right"),
    ("SyncookiesFailed", "SYN cookies received that were wrong"),
    ("TCPTimeWaitOverflow", "sockets that found no room in TIME_WAIT"),
    ("PFMemallocDrop", "packets dropped because memory for them is kept for emergencies"),
    ("TCPAbortOnTimeout", "connections given up after too many timeouts"),
    ("TCPAbortOnMemory", "connections given up for want of memory"),
    ("TCPAbortOnData", "connections reset because data came after the application had closed"),
    ("TCPAbortOnClose", "connections reset because the application closed with data unread"),
    ("TCPBacklogDrop", "segments dropped because a socket's backlog was full"),
    ("TCPRcvQDrop", "segments dropped for want of receive memory"),
    ("TCPZeroWindowDrop", "segments dropped because the window was closed"),
    ("TCPToZeroWindowAdv", "times a window was closed towards the peer"),
    ("TCPFromZeroWindowAdv", "times a closed window was opened towards the peer"),
    ("TCPWantZeroWindowAdv", "times a window had to be closed towards the peer and could not"),
    ("TCPMemoryPressuresChrono", "milliseconds that TCP was under memory pressure"),
    ("TCPMemoryPressures", "times that TCP came under memory pressure"),
    ("TCPReqQFullDrop", "connection requests dropped because the queue of requests was full"),
    ("TCPReqQFullDoCookies", "SYN cookies sent because the queue of requests was full"),
    ("ListenOverflows", "connections refused because a listener's accept queue was full"),
    ("ListenDrops", "connections that a listener dropped for any reason, overflows included"),
];

/// Counters of the calling thread's namespace. Not /proc/net: that is the namespace of the main thread.
pub(super) const SNMP: &str = "/proc/thread-self/net/snmp";
pub(super) const NETSTAT: &str = "/proc/thread-self/net/netstat";

/// The counters of several namespaces at one time.
pub type Reading = reading::Reading<Counters>;

/// What is read, in words.
pub(super) const WHAT: &str = "TCP counters";

/// Reads the counters of all these namespaces, one after the other.
#[must_use]
pub fn read_all(namespaces: &[Namespace]) -> Reading {
    reading::read_all(namespaces, WHAT, || read().map(Some))
}

/// Reads the counters of the calling thread's namespace.
///
/// # Errors
/// Those of reading the two files, and `InvalidData` when they make no sense.
pub fn read() -> io::Result<Counters> {
    from(&files::text(SNMP)?, &files::text(NETSTAT)?)
}

/// Those in the texts of the two files.
pub(super) fn from(snmp: &str, netstat: &str) -> io::Result<Counters> {
    let mut counters = parse(snmp, "Tcp", DOCUMENTED)?;
    counters.append(&mut parse(netstat, "TcpExt", DOCUMENTED)?);
    Ok(counters)
}

/// Takes those of these names out of one group of a file in which each group has a line of names and a line of values.
pub(super) fn parse(text: &str, group: &str, wanted: Names) -> io::Result<Counters> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{group}: {what}"));
    let mut lines = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| *name == group)
        .map(|(_, rest)| rest.split_ascii_whitespace());
    let (Some(mut names), Some(mut values)) = (lines.next(), lines.next()) else {
        return Err(invalid("no such group of counters"));
    };
    let mut counters = Counters::new();
    loop {
        match (names.next(), values.next()) {
            (None, None) => return Ok(counters),
            (Some(name), Some(value)) => {
                let Some(name) = find(wanted, name) else { continue };
                let value = value.parse().map_err(|_| invalid("a value is no number"))?;
                counters.insert(name, value);
            }
            _ => return Err(invalid("names and values do not match in number")),
        }
    }
}

/// A name, if it is one of these.
pub(super) fn find(names: Names, name: &str) -> Option<&'static str> {
    names.iter().map(|(one, _)| *one).find(|one| *one == name)
}

/// By how much the counters rose between two readings, the earlier first.
///
/// A new namespace is counted from zero. A namespace of which any counter fell is another one with the
/// same number, and new as well. On those that are gone or were not read see [`reading`].
#[must_use]
pub fn increase(before: &Reading, after: &Reading) -> BTreeMap<u32, Counters> {
    after.since(before, rise)
}

/// By how much the counters of one namespace rose.
pub(super) fn rise(then: Option<&Counters>, now: &Counters) -> Counters {
    let then = then.filter(|then| !fell(then, now));
    let was = |name: &str| then.and_then(|then| then.get(name)).copied().unwrap_or(0);
    now.iter().map(|(&name, now)| (name, now - was(name))).collect()
}

/// Adds what rose in a later interval.
pub fn add(total: &mut BTreeMap<u32, Counters>, rose: &BTreeMap<u32, Counters>) {
    for (netns, rose) in rose {
        let Some(total) = total.get_mut(netns) else {
            total.insert(*netns, rose.clone());
            continue;
        };
        for (&name, rose) in rose.iter().filter(|(_, rose)| **rose > 0) {
            let total = total.entry(name).or_default();
            *total = total.saturating_add(*rose);
        }
    }
}

fn fell(then: &Counters, now: &Counters) -> bool {
    now.iter().any(|(name, now)| then.get(name).is_some_and(|then| now < then))
}

/// As snapshots hold them. One that this kernel does not have stays absent.
#[must_use]
pub fn named(counters: &BTreeMap<u32, Counters>) -> NamespaceCounters {
    let owned = |counters: &Counters| -> BTreeMap<String, u64> {
        counters.iter().map(|(&name, &n)| (name.to_owned(), n)).collect()
    };
    counters.iter().map(|(&netns, counters)| (netns, owned(counters))).collect()
}

#[cfg(test)]
#[path = "tcp_counters_tests.rs"]
mod tests;
