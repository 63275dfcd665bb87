//! The kernel's counters of IP, UDP and ICMP, per network namespace (`/proc/net/snmp`,
//! `/proc/net/snmp6`; `net/ipv4/proc.c`, `net/ipv6/proc.c`), in 64 bits.

use std::{collections::BTreeMap, io};

use super::{
    files::Files,
    tcp_counters::{self, Counters, Names, find},
};

/// The counters that snapshots hold, by protocol, with what each counts.
pub const IP: Names = &[
    ("InReceives", "IPv4 packets received"),
    ("OutRequests", "IPv4 packets sent by this node itself"),
    ("ForwDatagrams", "IPv4 packets forwarded"),
    ("InHdrErrors", "IPv4 packets with a damaged header, or whose time to live was over"),
    ("InAddrErrors", "IPv4 packets to an address that is not here"),
    ("InDiscards", "IPv4 packets received and dropped for want of room"),
    ("OutDiscards", "IPv4 packets dropped on their way out"),
    ("OutNoRoutes", "IPv4 packets without a route"),
    ("FragFails", "IPv4 packets too large for the way that may not be cut"),
    ("FragCreates", "pieces made of IPv4 packets too large for the way"),
    ("ReasmReqds", "pieces of IPv4 packets received"),
    ("ReasmFails", "IPv4 packets that could not be put together from their pieces"),
    ("Ip6InReceives", "IPv6 packets received"),
    ("Ip6OutRequests", "IPv6 packets sent by this node itself"),
    ("Ip6OutForwDatagrams", "IPv6 packets forwarded"),
    ("Ip6InHdrErrors", "IPv6 packets with a damaged header, or whose hop limit was over"),
    ("Ip6InTooBigErrors", "IPv6 packets too large to be forwarded"),
    ("Ip6InNoRoutes", "IPv6 packets received without a route"),
    ("Ip6InDiscards", "IPv6 packets received and dropped for want of room"),
    ("Ip6OutDiscards", "IPv6 packets dropped on their way out"),
    ("Ip6OutNoRoutes", "IPv6 packets without a route"),
    ("Ip6FragFails", "IPv6 packets too large for the way that may not be cut"),
    ("Ip6FragCreates", "pieces made of IPv6 packets too large for the way"),
    ("Ip6ReasmFails", "IPv6 packets that could not be put together from their pieces"),
];

/// Those of UDP; IPv6's names begin with `Udp6`.
pub const UDP: Names = &[
    ("InDatagrams", "datagrams delivered"),
    ("OutDatagrams", "datagrams sent"),
    ("NoPorts", "datagrams to a port at which nobody is"),
    ("InErrors", "datagrams that could not be delivered for another reason"),
    ("RcvbufErrors", "those dropped because a socket's receive buffer was full"),
    ("SndbufErrors", "datagrams not sent because a socket's send buffer was full"),
    ("InCsumErrors", "datagrams with a wrong checksum"),
    ("MemErrors", "datagrams dropped because UDP may take no more memory"),
];

/// Those of ICMP; IPv6's names begin with `Icmp6`.
pub const ICMP: Names = &[
    ("InDestUnreachs", "messages received that something cannot be reached, or is too big"),
    ("OutDestUnreachs", "messages sent that something cannot be reached, or is too big"),
    ("InTimeExcds", "messages received that a time to live was over"),
    ("OutTimeExcds", "messages sent that a time to live was over"),
    ("InRedirects", "messages received that there is a better way"),
    ("InErrors", "damaged messages received"),
    ("OutRateLimitGlobal", "messages not sent because this node sends only so many"),
    ("InType3", "messages of type 3 received: cannot be reached, or too big"),
    ("OutType3", "messages of type 3 sent"),
    ("Icmp6InPktTooBigs", "messages received that a packet is too big"),
    ("Icmp6OutPktTooBigs", "messages sent that a packet is too big"),
];

/// Those of UDP over IPv6, in the same order.
const UDP6: [&str; UDP.len()] = [
    "Udp6InDatagrams",
    "Udp6OutDatagrams",
    "Udp6NoPorts",
    "Udp6InErrors",
    "Udp6RcvbufErrors",
    "Udp6SndbufErrors",
    "Udp6InCsumErrors",
    "Udp6MemErrors",
];

/// Those of ICMP, likewise; the last two have their name already.
const ICMP6: [&str; ICMP.len()] = [
    "Icmp6InDestUnreachs",
    "Icmp6OutDestUnreachs",
    "Icmp6InTimeExcds",
    "Icmp6OutTimeExcds",
    "Icmp6InRedirects",
    "Icmp6InErrors",
    "Icmp6OutRateLimitGlobal",
    "Icmp6InType3",
    "Icmp6OutType3",
    "Icmp6InPktTooBigs",
    "Icmp6OutPktTooBigs",
];

/// What one namespace counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// IPv4 and IPv6.
    pub ip: Counters,
    /// UDP over both.
    pub udp: Counters,
    /// ICMP of both.
    pub icmp: Counters,
}

impl Protocols {
    /// By how much they rose.
    #[must_use]
    pub fn since(&self, then: Option<&Self>) -> Self {
        let rise = |of: fn(&Self) -> &Counters| tcp_counters::rise(then.map(of), of(self));
        Self { ip: rise(|one| &one.ip), udp: rise(|one| &one.udp), icmp: rise(|one| &one.icmp) }
    }
}

/// Reads those of the calling thread's namespace, whose files those are, and of whose `snmp` that is the text.
///
/// # Errors
/// Those of reading the other file, and `InvalidData` when they make no sense. Without IPv6 its counters
/// are absent.
pub fn read(files: &mut Files<'_>, snmp: &str) -> io::Result<Protocols> {
    let snmp6 = match files.text("/proc/thread-self/net/snmp6") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    parse(snmp, &snmp6)
}

fn parse(snmp: &str, snmp6: &str) -> io::Result<Protocols> {
    let mut all = Protocols {
        ip: tcp_counters::parse(snmp, "Ip", IP)?,
        udp: tcp_counters::parse(snmp, "Udp", UDP)?,
        icmp: tcp_counters::parse(snmp, "Icmp", ICMP)?,
    };
    // Types that were never met have no column.
    let types = tcp_counters::parse(snmp, "IcmpMsg", ICMP).unwrap_or_default();
    for name in ["InType3", "OutType3"] {
        all.icmp.insert(name, types.get(name).copied().unwrap_or(0));
    }
    for line in snmp6.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let among = |names: &[&'static str]| names.iter().copied().find(|one| *one == name);
        let (into, name) = if let Some(name) = find(IP, name) {
            (&mut all.ip, name)
        } else if let Some(name) = among(&UDP6) {
            (&mut all.udp, name)
        } else if let Some(name) = among(&ICMP6) {
            (&mut all.icmp, name)
        } else {
            continue;
        };
        let value = value.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name}: a value is no number"))
        })?;
        into.insert(name, value);
    }
    Ok(all)
}

/// The counters of one protocol, by namespace.
pub fn of(
    all: &BTreeMap<u32, Protocols>,
    one: impl Fn(&Protocols) -> &Counters,
) -> BTreeMap<u32, Counters> {
    all.iter().map(|(netns, protocols)| (*netns, one(protocols).clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits
Ip: 2 64 9332008 0 0 0 0 4 9332008 8073690 5 6 0 0 0 0 0 7 0 8073690
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds
Icmp: 3 0 0 3 0 0 0 0 1 0 2 0
IcmpMsg: InType3
IcmpMsg: 3
Tcp: RtoAlgorithm RtoMin
Tcp: 1 200
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 289 1 2 292 3 4 0 0 0
UdpLite: InDatagrams NoPorts
UdpLite: 9 9
";
    const SNMP6: &str = "\
Ip6InReceives                   \t3
Ip6InDelivers                   \t3
Ip6InDiscards                   \t8
Icmp6InPktTooBigs               \t9
Icmp6InErrors                   \t1
Icmp6InMsgs                     \t1
Udp6RcvbufErrors                \t10
Udp6IgnoredMulti                \t10
UdpLite6RcvbufErrors            \t10
";

    #[test]
    fn what_is_documented_is_kept() {
        let all = parse(SNMP, SNMP6).unwrap();
        let expected = [
            ("Ip6InDiscards", 8),
            ("Ip6InReceives", 3),
            ("InDiscards", 4),
            ("OutDiscards", 5),
            ("OutNoRoutes", 6),
            ("FragFails", 7),
            ("InReceives", 9_332_008),
        ];
        for (name, value) in expected {
            assert_eq!(all.ip[name], value, "{name}");
        }
        assert!(!all.ip.contains_key("Forwarding") && !all.ip.contains_key("Ip6InDelivers"));
        let udp: Vec<_> = all.udp.iter().map(|(name, value)| (*name, *value)).collect();
        let expected = [
            ("InCsumErrors", 0),
            ("InDatagrams", 289),
            ("InErrors", 2),
            ("MemErrors", 0),
            ("NoPorts", 1),
            ("OutDatagrams", 292),
            ("RcvbufErrors", 3),
            ("SndbufErrors", 4),
            ("Udp6RcvbufErrors", 10),
        ];
        assert_eq!(udp, expected);
        assert_eq!((all.icmp["InType3"], all.icmp["OutType3"]), (3, 0));
        assert_eq!((all.icmp["Icmp6InPktTooBigs"], all.icmp["Icmp6InErrors"]), (9, 1));
        assert!(!all.icmp.contains_key("Icmp6InMsgs"));
        let rose = parse(SNMP, &SNMP6.replace("\t8", "\t11")).unwrap().since(Some(&all));
        assert_eq!((rose.ip["Ip6InDiscards"], rose.ip["InDiscards"]), (3, 0));
    }

    #[test]
    fn names_over_ipv6_are_those_over_ipv4() {
        for (names, names6, before) in [(UDP, &UDP6[..], "Udp6"), (ICMP, &ICMP6[..], "Icmp6")] {
            let named = names.iter().map(|(name, _)| match name.starts_with(before) {
                true => (*name).to_owned(),
                false => format!("{before}{name}"),
            });
            assert_eq!(named.collect::<Vec<_>>(), names6);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (snmp, snmp6) in [("", ""), (SNMP, "Ip6InDiscards x"), ("Ip: InDiscards\nIp: -1\n", "")]
        {
            assert!(parse(snmp, snmp6).is_err(), "{snmp} {snmp6}");
        }
        assert!(parse(SNMP, "Ip6InDiscards\n\n \n").is_ok());
        for end in 0..SNMP.len() {
            let _short = parse(&SNMP[..end], "");
        }
    }

    #[test]
    fn hostile_files_are_survived() {
        crate::hostile::survived_text(&[SNMP, SNMP6], |text| {
            for (snmp, snmp6) in [(text, SNMP6), (SNMP, text)] {
                let _counters = parse(snmp, snmp6);
            }
        });
    }
}
