//! What shows that the TCP sockets of a namespace may be others than those that were counted.
//!
//! Each of these is the namespace's own (`net/ipv4/proc.c`; `tw` since 4.10), unlike `orphan`, `alloc` and `mem`
//! beside them: a socket that comes into the kernel's hash or leaves it (`inuse`) or waits out its time (`tw`),
//! and all that TCP counts (`Tcp:`), above all segments. A socket does next to nothing without one of them.
//! What does not show is told by how old the count is: a listener in the place of another one, and an end
//! of a connection whose peer takes nothing in, since what says so is not sent.

use std::time::Instant;

use crate::node::{files::Files, proc::value};

/// What a namespace said at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Sockets over IPv4, those over IPv6, and those of both in TIME_WAIT. Connection requests are none.
    sockets: [u64; 3],
    /// The values of TCP's counters, as the kernel writes them; none where they were not read.
    counters: Option<String>,
}

impl Signs {
    /// Those of the calling thread's namespace, of whose `snmp` that is the text; none where it does not tell. To be
    /// read before the sockets are counted, so that what happens meanwhile shows the next time.
    #[must_use]
    pub fn read(snmp: Option<&str>) -> Option<Self> {
        Self::read_by(&mut Files::once(), snmp)
    }

    /// The same by its files.
    pub(in crate::node) fn read_by(files: &mut Files<'_>, snmp: Option<&str>) -> Option<Self> {
        let sockstat = files.text("/proc/thread-self/net/sockstat").ok()?;
        // There is none without IPv6.
        let sockstat6 = files.text("/proc/thread-self/net/sockstat6").unwrap_or_default();
        Self::parse(&sockstat, &sockstat6, snmp)
    }

    pub(super) fn parse(sockstat: &str, sockstat6: &str, snmp: Option<&str>) -> Option<Self> {
        let sockets = [
            value(sockstat, "TCP:", "inuse")?,
            value(sockstat6, "TCP6:", "inuse").unwrap_or(0),
            value(sockstat, "TCP:", "tw")?,
        ];
        // The first line has the names.
        let mut lines = snmp.into_iter().flat_map(str::lines).filter(|it| it.starts_with("Tcp:"));
        Some(Self { sockets, counters: lines.nth(1).map(str::to_owned) })
    }

    /// Whether there is no socket.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.sockets == [0; 3]
    }

    /// Whether nothing happened until these later ones.
    #[must_use]
    pub fn last_until(&self, later: &Self) -> bool {
        self.counters.is_some() && self == later
    }
}

/// When sockets were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// That.
    pub counted: Instant,
    /// When nothing showed last that anything happened to them since.
    pub unchanged: Instant,
}

impl When {
    /// Counted at this time.
    #[must_use]
    pub const fn at(time: Instant) -> Self {
        Self { counted: time, unchanged: time }
    }

    /// How long ago both are.
    pub(super) fn ages(self) -> Ages {
        let age = |at: Instant| at.elapsed().as_nanos() as u64;
        Ages { counted_ns: age(self.counted), unchanged_ns: age(self.unchanged) }
    }
}

/// How old a count is.
#[derive(Clone, Copy, Default)]
pub(super) struct Ages {
    pub(super) counted_ns: u64,
    pub(super) unchanged_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKSTAT: &str =
        "sockets: used 15\nTCP: inuse 0 orphan 0 tw 0 alloc 1 mem 29\nUDP: inuse 3 mem 0\n";
    const SOCKSTAT6: &str = "TCP6: inuse 0\nUDP6: inuse 0\n";
    const SNMP: &str =
        "Ip: InReceives\nIp: 1\nTcp: InSegs OutSegs\nTcp: 3 4\nUdp: InErrors\nUdp: 0\n";

    #[test]
    fn a_namespace_without_sockets_says_so() {
        let are_empty =
            |v4: &str, v6: &str| Signs::parse(v4, v6, None).is_some_and(|signs| signs.are_empty());
        assert!(are_empty(SOCKSTAT, SOCKSTAT6) && are_empty(SOCKSTAT, ""));
        assert!(!are_empty(&SOCKSTAT.replace("TCP: inuse 0", "TCP: inuse 1"), SOCKSTAT6));
        assert!(!are_empty(&SOCKSTAT.replace("tw 0", "tw 7"), SOCKSTAT6));
        assert!(!are_empty(SOCKSTAT, "TCP6: inuse 2\n"));
        assert!(!are_empty("", ""), "it does not tell");
    }

    #[test]
    fn what_happens_to_a_socket_shows() {
        let before = Signs::parse(SOCKSTAT, SOCKSTAT6, Some(SNMP)).expect("signs");
        let now = |v4: &str, v6: &str, snmp: &str| Signs::parse(v4, v6, Some(snmp));
        // What the node counts as a whole, and what other protocols do, is no sign.
        let elsewhere =
            SOCKSTAT.replace("alloc 1 mem 29", "alloc 9 mem 3").replace("used 15", "used 7");
        let others = SNMP.replace("Ip: 1", "Ip: 8").replace("Udp: 0", "Udp: 5");
        let same = now(&elsewhere, &SOCKSTAT6.replace("UDP6: inuse 0", "UDP6: inuse 4"), &others);
        assert!(before.last_until(&same.expect("signs")));
        for (what, later) in [
            ("a socket", now(&SOCKSTAT.replace("TCP: inuse 0", "TCP: inuse 1"), SOCKSTAT6, SNMP)),
            ("one over IPv6", now(SOCKSTAT, "TCP6: inuse 1\n", SNMP)),
            ("one that waits", now(&SOCKSTAT.replace("tw 0", "tw 1"), SOCKSTAT6, SNMP)),
            ("a segment", now(SOCKSTAT, SOCKSTAT6, &SNMP.replace("Tcp: 3 4", "Tcp: 3 5"))),
        ] {
            assert!(!before.last_until(&later.expect("signs")), "{what}");
        }
    }

    #[test]
    fn unknown_counters_may_have_risen() {
        for snmp in [None, Some(""), Some("Tcp: InSegs OutSegs\n")] {
            let signs = Signs::parse(SOCKSTAT, SOCKSTAT6, snmp).expect("signs");
            assert!(!signs.last_until(&signs), "{snmp:?}");
        }
    }

    #[test]
    fn hostile_files_are_survived() {
        crate::hostile::survived_text(&[SOCKSTAT, SOCKSTAT6, SNMP], |text| {
            let _signs = Signs::parse(text, text, Some(text)).map(|signs| signs.are_empty());
        });
    }
}
